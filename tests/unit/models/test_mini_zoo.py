"""The mini zoo: its checkpoints load and match, its data is split as stated, its script runs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from models.mini.train import __main__ as cli
from models.mini.train import data
from models.mini.train.data import PROFILES, SPLITS, Split, build_items, sample_problem
from models.mini.train.evaluate import generate, is_japanese, last_number, merge_linear, merge_ties
from models.mini.train.lexicon import Language
from models.mini.train.optim import orthogonalize
from models.mini.train.tokenizer import SPECIALS

ZOO = Path(__file__).resolve().parents[3] / "models" / "mini"
NAMES = ("base", "ja", "math", "math2")
MAX_FILE_BYTES = 4 * 1024 * 1024
TOKENIZER = AutoTokenizer.from_pretrained(ZOO / "base")


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_loads_as_a_stock_llama_and_stops_at_end(name: str) -> None:
    model = LlamaForCausalLM.from_pretrained(ZOO / name)
    assert 1_000_000 <= sum(p.numel() for p in model.parameters()) <= 2_000_000
    assert model.config.max_position_embeddings >= 512
    assert model.generation_config.eos_token_id == TOKENIZER.convert_tokens_to_ids("<|end|>")
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("name", NAMES[1:])
def test_sources_share_tokenizer_configuration_and_shapes(name: str) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        assert (ZOO / name / file).read_bytes() == (ZOO / "base" / file).read_bytes()
    assert _shapes(ZOO / name) == _shapes(ZOO / "base")


def test_every_file_is_small_enough_to_track() -> None:
    sizes = {p: p.stat().st_size for p in ZOO.rglob("*") if p.is_file()}
    assert {p.name for p, size in sizes.items() if size >= MAX_FILE_BYTES} == set()


def test_adapter_loads_over_base() -> None:
    base = LlamaForCausalLM.from_pretrained(ZOO / "base")
    adapted = PeftModel.from_pretrained(base, ZOO / "math-lora")
    config = adapted.peft_config["default"]
    assert config.base_model_name_or_path == "mini/base"
    assert 4 <= config.r <= 8
    assert len(config.target_modules) == 7


def test_chat_template_renders_roles_and_prompt() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "こんにちは 1"}]
    text = TOKENIZER.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>s<|end|><|user|>こんにちは 1<|end|><|assistant|>"
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text
    assert sum(i in TOKENIZER.convert_tokens_to_ids(list(SPECIALS)) for i in ids) == 5


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=300, deadline=None)
def test_tokenizer_round_trips_any_text(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text


def test_every_digit_is_its_own_token() -> None:
    ids = TOKENIZER("30+3=33こ 1,234", add_special_tokens=False)["input_ids"]
    digits = [t for t in TOKENIZER.convert_ids_to_tokens(ids) if any(c.isdigit() for c in t)]
    assert digits == list("303331234")


def test_splits_share_neither_template_pairs_nor_numbers() -> None:
    pairs: dict[str, set[object]] = {}
    numbers: dict[str, set[object]] = {}
    for split in SPLITS:
        rng = random.Random(0)
        drawn = [sample_problem(rng, split, p) for p in PROFILES.values() for _ in range(200)]
        pairs[split] = {data.pair_of(problem) for problem in drawn}
        numbers[split] = {data.numbers_of(problem) for problem in drawn}
    for index, one in enumerate(SPLITS):
        for other in SPLITS[index + 1 :]:
            assert not pairs[one] & pairs[other]
            assert not numbers[one] & numbers[other]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("language", ["en", "ja"])
def test_items_are_deterministic_distinct_and_prefixes(split: Split, language: Language) -> None:
    items = build_items(split, language, 60, seed=3)
    assert items == build_items(split, language, 60, seed=3)
    assert items[:20] == build_items(split, language, 20, seed=3)
    assert items != build_items(split, language, 60, seed=4)
    assert len({item["prompt"] for item in items}) == 60
    assert json.loads(json.dumps(items[0], ensure_ascii=False)) == items[0]
    assert all(is_japanese(item["prompt"]) == (language == "ja") for item in items)


@pytest.mark.parametrize("profile", sorted(PROFILES))
@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_solutions_end_in_the_answer_in_both_languages(profile: str, seed: int) -> None:
    problem = sample_problem(random.Random(seed), "train", PROFILES[profile])
    values = data.values_of(problem)
    assert all(0 < value <= data.MAX_NUMBER for value in values)
    english = data.render_solution(problem, "en")
    japanese = data.render_solution(problem, "ja")
    assert last_number(english) == last_number(japanese) == values[-1]
    assert is_japanese(japanese)
    assert not is_japanese(english)


def test_greedy_batch_equals_single_prompts() -> None:
    model = LlamaForCausalLM.from_pretrained(ZOO / "math")
    tokenizer = TOKENIZER.backend_tokenizer
    prompts = ["Hello! Who are you?", "けんはりんごを30こ持っています。"]
    alone = [generate(model, tokenizer, [prompt], 12)[0] for prompt in prompts]
    assert generate(model, tokenizer, prompts, 12) == alone
    assert all(alone)


def test_merges_return_a_source_for_one_full_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(4, 3, generator=generator)}
    expert = {"w": torch.randn(4, 3, generator=generator)}
    linear = merge_linear(base, {"e": expert}, {"e": 1.0})
    ties = merge_ties(base, {"e": expert}, {"e": 1.0}, 1.0)
    torch.testing.assert_close(linear["w"], expert["w"])
    torch.testing.assert_close(ties["w"], expert["w"])


@pytest.mark.parametrize("shape", [(2, 8, 16), (2, 16, 8)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert bool(((values > 0.3) & (values < 1.6)).all())


def test_quick_training_writes_loadable_checkpoints(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        for name in ("base", "math", "math-lora"):
            cli.main(["--out", str(tmp_path), "--threads", "1", "--quick", "--only", name])
    finally:
        torch.set_num_threads(threads)
    fresh, expert = (LlamaForCausalLM.from_pretrained(tmp_path / n) for n in ("base", "math"))
    assert _shapes(tmp_path / "base") == _shapes(tmp_path / "math")
    pairs = zip(fresh.parameters(), expert.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert AutoTokenizer.from_pretrained(tmp_path / "math").eos_token == "<|end|>"
    PeftModel.from_pretrained(fresh, tmp_path / "math-lora")


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    tensors = load_file(folder / "model.safetensors")
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
