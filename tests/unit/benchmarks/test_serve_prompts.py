"""The serving benchmark's prompts: by seed, apart from their first words on, within the slots."""

import pytest

from benchmarks.peers.llama_server import SLOT_TOKENS
from benchmarks.serve import NUM_TOKENS
from benchmarks.serve_prompts import SETS, write_prompts
from benchmarks.serve_subjects import MODEL
from evoserve.tokenizer import load_tokenizer


@pytest.mark.parametrize("kind", SETS)
def test_prompts_follow_their_seed_and_no_two_begin_alike(kind: str) -> None:
    prompts = write_prompts(kind, "4:0:32", 64)
    assert prompts == write_prompts(kind, "4:0:32", 64)
    assert not set(prompts) & set(write_prompts(kind, "4:1:32", 64))
    assert len({prompt[:24] for prompt in prompts}) >= 60


def test_the_sets_differ_in_length() -> None:
    lengths = {kind: [len(p.split()) for p in write_prompts(kind, "s", 200)] for kind in SETS}
    assert min(lengths["main"]) > 30
    assert max(lengths["main"]) < 130
    assert min(lengths["second"]) < 30
    assert max(lengths["second"]) > 140


def test_the_longest_prompt_and_its_reply_fit_a_slot() -> None:
    tokenizer = load_tokenizer(MODEL)
    most = max(
        len(tokenizer.encode(prompt)) for kind in SETS for prompt in write_prompts(kind, "s", 300)
    )
    assert most + 40 + NUM_TOKENS <= SLOT_TOKENS
