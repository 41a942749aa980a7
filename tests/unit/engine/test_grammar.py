"""Grammars in the sampler: of their own row alone, whatever is preempted or batched beside it."""

import json
from collections.abc import Sequence

import jsonschema
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evoserve.engine.grammar import Grammar
from evoserve.engine.request import SamplingParams
from evoserve.engine.sampler import sample
from evoserve.engine.sequence import Chunk
from evoserve.engine.sequence import Sequence as Generation
from evoserve.errors import EngineError, RequestError
from evoserve.tokenizer import Tokenizer

EOS = 256
VOCAB = 260  # the model's table is larger than the tokenizer's
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, "x"]}, "b": {"type": "array", "items": {"type": "boolean"}}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: id_ for id_, piece in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    return Tokenizer(fast, frozenset({EOS}))


@pytest.fixture(scope="module")
def grammar(letters: Tokenizer) -> Grammar:
    return Grammar(
        letters, LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA)), "response_format"
    )


def start(seed: int, grammar: Grammar | None, temperature: float = 1.0) -> Generation:
    params = SamplingParams(max_tokens=400, temperature=temperature, grammar=grammar)
    return Generation(seed, (1, 2), params, seed, frozenset({EOS}))


def step(sequences: Sequence[Generation]) -> None:
    """One token for each, from logits that are a function of the sequence's own seed and length."""
    open_ones = [one for one in sequences if one.token_ids[-1] != EOS]
    seeds = [one.seed * 997 + len(one.token_ids) for one in open_ones]
    sources = [torch.Generator().manual_seed(seed) for seed in seeds]
    rows = [4 * torch.randn(VOCAB, generator=source) for source in sources]
    chunks = [Chunk(one, 0, len(one.token_ids)) for one in open_ones]
    for one, result in zip(open_ones, sample(chunks, torch.stack(rows)), strict=True):
        assert result.token_id is not None
        one.token_ids.append(result.token_id)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.sampled_from([0.0, 1.0]))
def test_what_is_generated_is_of_the_grammar_and_others_are_untouched(
    letters: Tokenizer, grammar: Grammar, seed: int, temperature: float
) -> None:
    bound, free = start(seed, grammar, temperature), start(seed + 1, None, temperature)
    alone = start(seed + 1, None, temperature)
    for _ in range(300):
        if EOS in (bound.token_ids[-1], free.token_ids[-1]):
            break
        step([bound, free])
        step([alone])
    assert alone.token_ids == free.token_ids
    if bound.token_ids[-1] == EOS:
        text = letters.decode(bound.token_ids[2:-1])
        jsonschema.validate(json.loads(text), SCHEMA)


@settings(max_examples=25, deadline=None)
@given(prompt=st.lists(st.integers(0, EOS), max_size=3), data=st.data())
def test_allowed_does_not_depend_on_when_it_was_asked(
    letters: Tokenizer, grammar: Grammar, prompt: list[int], data: st.DataObject
) -> None:
    """At each token, or after many, or twice, as after a preemption."""
    ids = [*prompt, *letters.encode('{"a": "x", "b": [true, false]}')]
    counts = st.lists(st.integers(len(prompt), len(ids)), min_size=1, max_size=6)
    cursor = grammar.start(len(prompt))
    for count in sorted(data.draw(counts)):
        assert cursor.allowed(ids[:count]) == grammar.start(len(prompt)).allowed(ids[:count])
    done = cursor.allowed(ids)
    assert [id_ for id_ in range(8 * len(done)) if done[id_ // 8] >> id_ % 8 & 1] == [EOS]


class Watched(list[int]):
    """Tokens that count how many of them are looked at."""

    num_read = 0

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        found = super().__getitem__(place)
        self.num_read += len(found) if isinstance(place, slice) else 1
        return found

    def __iter__(self):  # type: ignore[no-untyped-def]
        self.num_read += len(self)
        return super().__iter__()


def test_a_step_looks_at_the_new_token_alone(letters: Tokenizer, grammar: Grammar) -> None:
    ids = letters.encode('{"a": "x", "b": [' + "true, " * 40 + "true]}")
    cursor, tokens = grammar.start(2), Watched([1, 2])
    for id_ in ids:
        tokens.append(id_)
        cursor.allowed(tokens)
    assert tokens.num_read == len(ids)


def test_a_cursor_that_cannot_go_on_ends_its_own_sequence(grammar: Grammar) -> None:
    broken, other = start(1, grammar), start(2, None)
    broken.token_ids.append(5)
    with pytest.raises(EngineError):
        grammar.start(0).allowed([5])
    logits = torch.randn(2, VOCAB)
    first, second = sample([Chunk(broken, 0, 3), Chunk(other, 0, 2)], logits)
    assert first.token_id is None
    assert first.error is not None
    assert "grammar" in first.error
    assert second.token_id is not None
    assert first.culprit is None


@pytest.mark.parametrize(
    "source",
    [
        'start: "a',
        'start: %json {"type": 5}',
        "",
        'start: %json {"allOf": [{"$ref": "#"}]}',  # found out at the first token
    ],
)
def test_what_is_no_grammar_is_refused(letters: Tokenizer, source: str) -> None:
    with pytest.raises(RequestError, match="Invalid 'tools'") as caught:
        Grammar(letters, source, "tools")
    assert caught.value.param == "tools"
    assert "allOf" not in str(caught.value)


def test_a_grammar_that_grows_too_large_on_its_way_is_the_request_s_fault(
    letters: Tokenizer,
) -> None:
    source = 'start: a\na: a | "x" a'  # never ends, and each x costs more than the one before
    asked, other = start(1, Grammar(letters, source, "structured_outputs.grammar")), start(2, None)
    (letter,) = letters.encode("x")
    for _ in range(1000):
        chunks = [Chunk(asked, 0, len(asked.token_ids)), Chunk(other, 0, 2)]
        samples = sample(chunks, torch.zeros(2, VOCAB))
        assert samples[1].token_id is not None
        if samples[0].error is not None:
            break
        asked.token_ids.append(letter)
    assert samples[0].culprit == "structured_outputs.grammar"
    assert "Invalid 'structured_outputs.grammar'" in samples[0].error
    assert "xxxx" not in samples[0].error
