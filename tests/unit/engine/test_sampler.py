"""Tokens drawn: each row by its own parameters, seed and step, whatever else is in the batch."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from evoserve.engine import draw
from evoserve.engine.draw import candidates, uniforms
from evoserve.engine.logits import adjust_row
from evoserve.engine.request import SamplingParams
from evoserve.engine.sampler import sample
from evoserve.engine.sequence import Chunk
from evoserve.engine.sequence import Sequence as Generation

VOCAB = 50
Make = Callable[..., Generation]


def chunk_of(sequence: Generation) -> Chunk:
    """The whole sequence in one pass."""
    return Chunk(sequence, 0, len(sequence.token_ids))


def generation(
    prompt: list[int] | None = None,
    generated: tuple[int, ...] = (),
    *,
    seed: int = 0,
    stop: frozenset[int] = frozenset(),
    **params: object,
) -> Generation:
    values = {"max_tokens": 99, "temperature": 0.0, **params}
    sequence = Generation(1, tuple(prompt or [0]), SamplingParams(**values), seed, stop)  # type: ignore[arg-type]
    sequence.token_ids.extend(generated)
    return sequence


def rows(number: int, seed: int = 0, vocab: int = VOCAB) -> torch.Tensor:
    return 3 * torch.randn(number, vocab, generator=torch.Generator().manual_seed(seed))


def pick(sequence: Generation, row: torch.Tensor) -> int:
    (result,) = sample([chunk_of(sequence)], row[None])
    assert result.token_id is not None
    return result.token_id


PARAMS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 1e-6, 0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([0, 1, 5, 49, 50, 1000]),
        "top_p": st.sampled_from([1.0, 0.9, 0.5, 1e-9]),
        "min_p": st.sampled_from([0.0, 0.05, 1.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "presence_penalty": st.sampled_from([0.0, 1.5]),
        "frequency_penalty": st.sampled_from([0.0, -0.7]),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-9, 9), max_size=3),
        "min_tokens": st.integers(0, 3),
        "logprobs": st.sampled_from([None, 0, 4]),
    }
)
GENERATED = st.lists(st.integers(0, VOCAB - 1), max_size=5).map(tuple)


@settings(max_examples=150, deadline=None)
@given(
    wanted=st.lists(
        st.tuples(PARAMS, GENERATED, st.integers(0, 2**70), st.booleans()), min_size=1, max_size=6
    ),
    order=st.randoms(use_true_random=False),
)
def test_a_row_gives_the_same_in_any_batch(
    wanted: list[tuple[dict[str, object], tuple[int, ...], int, bool]], order: object
) -> None:
    sequences = [
        generation([1, 2], generated, seed=seed, stop=frozenset({7} if stops else ()), **params)
        for params, generated, seed, stops in wanted
    ]
    logits = rows(len(sequences))
    alone = [sample([chunk_of(s)], logits[i : i + 1])[0] for i, s in enumerate(sequences)]
    places = list(range(len(sequences)))
    order.shuffle(places)  # type: ignore[attr-defined]
    together = sample([chunk_of(sequences[i]) for i in places], logits[places])
    assert together == [alone[i] for i in places]


def test_greedy_takes_the_likeliest_and_a_tiny_temperature_is_greedy() -> None:
    logits = rows(4)
    results = sample([chunk_of(generation(temperature=t)) for t in (0.0, 1e-6, 0.0, 1e-9)], logits)
    assert [one.token_id for one in results] == logits.argmax(dim=1).tolist()


def test_draws_follow_the_softmax() -> None:
    row = rows(1, vocab=12)[0] / 2
    number = 4000
    chunks = [chunk_of(generation(seed=seed, temperature=0.8)) for seed in range(number)]
    drawn = Counter(one.token_id for one in sample(chunks, row.expand(number, -1)))
    expected = (row.double() / 0.8).softmax(dim=0).numpy() * number
    observed = np.array([drawn[token] for token in range(12)])
    assert chisquare(observed, expected).pvalue > 1e-4


def test_successive_steps_of_one_seed_are_independent() -> None:
    drawn = uniforms([5] * 4000, range(4000))
    assert 0.0 <= drawn.min() < drawn.max() < 1.0
    counts = np.histogram(drawn, bins=20, range=(0, 1))[0]
    assert chisquare(counts).pvalue > 1e-4
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.06
    by_seed = uniforms(range(4000), [5] * 4000)
    assert chisquare(np.histogram(by_seed, bins=20, range=(0, 1))[0]).pvalue > 1e-4


def test_the_stream_of_a_seed_never_changes() -> None:
    """Golden: a seed that was published with an answer must give it for ever."""
    assert uniforms([0, 42, 2**64 - 1, -1], [0, 7, 1, 1]).tolist() == GOLDEN


def test_top_k_one_and_tiny_top_p_and_min_p_one_are_greedy() -> None:
    row = rows(1)[0]
    for params in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        for seed in range(5):
            assert pick(generation(seed=seed, temperature=5.0, **params), row) == int(row.argmax())


@settings(max_examples=100, deadline=None)
@given(
    vocab=st.integers(2, 3000),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.01, 1.0, 5.0]),
    ties=st.booleans(),
    top_k=st.sampled_from([0, 1, 3, 40, 1500, 9999]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.1]),
)
def test_truncation_keeps_what_its_definition_keeps(
    vocab: int, seed: int, spread: float, ties: bool, top_k: int, top_p: float, min_p: float
) -> None:
    row = rows(1, seed, vocab) * spread / 3
    row = row.round() if ties else row
    row = row - row.max()
    sequence = generation(top_k=top_k, top_p=top_p, min_p=min_p)
    ((rows_done, ids, weights),) = candidates(row, row.softmax(dim=1), [0], [sequence])
    assert rows_done == [0]
    kept = torch.zeros(vocab, dtype=torch.bool).index_put((ids[weights > 0],), torch.tensor(True))
    assert kept.tolist() == _kept(row[0].double().numpy(), top_k, top_p, min_p).tolist()


@example(seed=13057, top_k=4500, top_p=0.999, min_p=0.0)  # a token on the nucleus' edge
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    top_k=st.sampled_from([0, 5, 300, 4500]),
    top_p=st.sampled_from([1.0, 0.999, 0.9]),
    min_p=st.sampled_from([0.0, 0.01]),
)
def test_the_width_of_the_head_changes_no_token(
    seed: int, top_k: int, top_p: float, min_p: float
) -> None:
    """The very token of a draw over the whole head, which is that of a plain inverse.

    Where float32 cannot tell whether a token is just kept or just cut, the inverse may be off by
    the weight of such tokens.
    """
    logits = rows(3, seed, 9000) * torch.tensor([[0.3], [1.0], [3.0]])
    params = {"temperature": 1.0, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    chunks = [chunk_of(generation(seed=seed, **params)) for _ in range(3)]
    drawn = [one.token_id for one in sample(chunks, logits)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "_WIDTHS", ())
        assert [one.token_id for one in sample(chunks, logits)] == drawn
    for row, token in zip(logits, drawn, strict=True):
        shifted = (row - row.max()).double()
        probs = shifted.softmax(dim=0)
        kept = _kept_tensor(shifted, top_k, top_p, min_p)
        surely = _kept_tensor(shifted, top_k, top_p - 2e-6 * (top_p < 1), min_p * (1 + 1e-5))
        maybe = _kept_tensor(shifted, top_k, top_p + 2e-6 * (top_p < 1), min_p * (1 - 1e-5))
        assert maybe[token]
        weights = torch.where(kept, probs, 0.0)
        running = weights.cumsum(dim=0)
        target = float(uniforms([seed], [0])[0]) * running[-1]
        slack = 1e-6 * running[-1] + probs[maybe & ~surely].sum()
        assert running[token] - probs[token] - slack <= target <= running[token] + slack


def _kept_tensor(row: torch.Tensor, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    return torch.from_numpy(_kept(row.numpy(), top_k, top_p, min_p))


def _kept(row: np.ndarray, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """By the definition: sort everything, drop from the end."""
    probs = np.exp(row - row.max())
    alive = probs >= min_p * probs.max() if min_p else np.ones(len(row), dtype=bool)
    if 0 < top_k < len(row):
        alive &= row >= np.sort(row)[-top_k]
    if top_p < 1:
        probs = np.where(alive, probs, 0) / probs[alive].sum()
        order = np.argsort(-probs, kind="stable")
        before = np.cumsum(probs[order]) - probs[order]
        last = order[np.nonzero(before < top_p - 1e-7)[0][-1]]
        alive &= row >= row[last]
    return alive


def test_bias_min_tokens_and_penalties_change_the_row_as_documented() -> None:
    row = torch.tensor([2.0, -2.0, 1.0, 0.0, 0.5])
    penalised = generation(
        [0, 1],
        (2, 2, 3),
        repetition_penalty=2.0,
        presence_penalty=0.25,
        frequency_penalty=0.5,
        logit_bias={4: 1.0, 0: 4.0},
    )
    expected = [3.0, -4.0, 0.5 - 0.25 - 1.0, 0.0 - 0.75, 1.5]
    torch.testing.assert_close(adjust_row(row, penalised), torch.tensor(expected))
    early = generation([0], (1,), min_tokens=2, stop=frozenset({0, 3}))
    torch.testing.assert_close(
        adjust_row(row, early), torch.tensor([-math.inf, -2.0, 1.0, -math.inf, 0.5])
    )
    assert row.tolist() == [2.0, -2.0, 1.0, 0.0, 0.5], "the argument is not modified"


def test_min_tokens_keeps_stop_tokens_out_until_it_is_reached() -> None:
    row = torch.tensor([9.0, 1.0, 0.0])
    stop = frozenset({0})
    assert pick(generation([1], (1,), min_tokens=2, stop=stop), row) == 1
    assert pick(generation([1], (1, 1), min_tokens=2, stop=stop), row) == 0
    drawn = {
        pick(generation([1], seed=seed, temperature=9.0, min_tokens=1, stop=stop), row)
        for seed in range(30)
    }
    assert drawn == {1, 2}


def test_logprobs_are_those_of_the_raw_logits() -> None:
    row = rows(1)[0]
    changed = generation(temperature=0.0, logit_bias={3: 100.0}, logprobs=4)
    (result,) = sample([chunk_of(changed)], row[None])
    reference = row.log_softmax(dim=0)
    assert result.token_id == 3
    assert result.logprobs is not None
    assert result.logprobs.token_id == 3
    assert result.logprobs.logprob == pytest.approx(float(reference[3]))
    top = reference.topk(4)
    assert [token for token, _ in result.logprobs.top] == top.indices.tolist()
    assert [value for _, value in result.logprobs.top] == pytest.approx(top.values.tolist())


def test_prompt_logprobs_of_chunks_add_up_to_those_of_the_whole() -> None:
    prompt = [4, 8, 15, 16, 23, 42]
    logits = rows(6)
    whole = generation(prompt, prompt_logprobs=2)
    (expected,) = sample([chunk_of(whole)], logits)
    assert [one.token_id for one in expected.prompt_logprobs] == prompt[1:]
    reference = logits.log_softmax(dim=1)
    for place, one in enumerate(expected.prompt_logprobs):
        assert one.logprob == pytest.approx(float(reference[place, prompt[place + 1]]))
    pieces = generation(prompt, prompt_logprobs=2)
    for start, number in ((0, 1), (1, 3), (4, 2)):
        chunk = Chunk(pieces, start, number)
        (part,) = sample([chunk], logits[start : start + number])
        assert (part.token_id is None) == (not chunk.samples)
        pieces.prompt_logprobs.extend(part.prompt_logprobs)
    assert tuple(pieces.prompt_logprobs[1:]) == expected.prompt_logprobs
    assert Chunk(pieces, 0, 6).num_logits == 1, "once known they are not computed again"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_is_an_error_of_its_own(bad: float) -> None:
    logits = rows(3)
    logits[1, 5] = bad
    for temperature, top_p in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.9)):
        sequences = [generation(temperature=temperature, top_p=top_p) for _ in range(3)]
        first, second, third = sample([chunk_of(one) for one in sequences], logits)
        assert second.token_id is None
        assert second.error is not None
        assert "not finite" in second.error
        assert None not in (first.token_id, third.token_id)
        assert first.error is third.error is None


def test_extreme_logits_and_temperatures_still_give_a_token() -> None:
    row = torch.tensor([3e38, -3e38, 3e38, 0.0])
    for temperature in (1.1e-5, 1.0, 1e6):
        params = {"temperature": temperature, "top_p": 0.5, "min_p": 0.1}
        assert pick(generation(seed=3, **params), row) in (0, 2)


def test_chunks_without_logits_give_empty_samples() -> None:
    sequence = generation([1, 2, 3])
    results = sample([Chunk(sequence, 0, 2)], torch.empty(0, VOCAB))
    assert [one.token_id for one in results] == [None]
    assert results[0].error is None


GOLDEN = [0.6524484863740321, 0.7347204584623639, 0.7408050620013817, 0.7408050620013817]
