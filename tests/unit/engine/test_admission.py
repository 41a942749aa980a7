"""What is refused before it is queued; each refusal names the field, the value and the limit."""

import math

import pytest

from evoserve.engine.admission import Limits, check_request, stop_ids
from evoserve.engine.request import GenerationRequest, SamplingParams
from evoserve.errors import ContextLengthError, RequestError

LIMITS = Limits(vocab_size=10, max_model_len=20, max_logprobs=5, eos_ids=frozenset({9}))


def check(prompt: list[int] | None = None, **params: object) -> None:
    values = {"max_tokens": 4, **params}
    request = GenerationRequest("id", "model", prompt or [1, 2], SamplingParams(**values))  # type: ignore[arg-type]
    check_request(request, LIMITS)


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("max_tokens", -1),
        ("min_tokens", -1),
        ("min_tokens", 5),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_k", -1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("presence_penalty", math.nan),
        ("frequency_penalty", math.inf),
        ("logit_bias", {10: 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: math.nan}),
        ("stop_token_ids", frozenset({10})),
        ("logprobs", 6),
        ("logprobs", -1),
        ("prompt_logprobs", 6),
    ],
)
def test_wrong_values_are_refused_by_name(param: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        check(**{param: value})
    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("max_tokens", 0),
        ("min_tokens", 4),
        ("temperature", 0.0),
        ("top_p", 1.0),
        ("top_k", 10**6),
        ("min_p", 1.0),
        ("logit_bias", {9: -100.0}),
        ("logprobs", 5),
        ("prompt_logprobs", 0),
        ("stop_token_ids", frozenset({0})),
    ],
)
def test_values_at_the_limits_are_taken(param: str, value: object) -> None:
    check(**{param: value})


@pytest.mark.parametrize("token_id", [-1, 10, 2**40])
def test_token_ids_outside_the_vocabulary_are_refused(token_id: int) -> None:
    with pytest.raises(RequestError, match=f"token id {token_id} in prompt is outside .* 0 to 9"):
        check([1, token_id])


def test_length_is_prompt_plus_completion() -> None:
    check([1] * 16)
    with pytest.raises(ContextLengthError, match=r"is 20 tokens.* 21 .*17 in the prompt, 4 for"):
        check([1] * 17)


def test_an_empty_prompt_is_refused() -> None:
    request = GenerationRequest("id", "model", [], SamplingParams(max_tokens=1))
    with pytest.raises(RequestError, match="prompt is empty"):
        check_request(request, LIMITS)


def test_min_tokens_needs_a_token_that_does_not_stop() -> None:
    with pytest.raises(RequestError, match="every token is a stop token"):
        check(min_tokens=1, stop_token_ids=frozenset(range(9)))
    check(min_tokens=1, stop_token_ids=frozenset(range(9)), ignore_eos=True)


def test_ignore_eos_switches_off_the_models_own_end_tokens_only() -> None:
    params = SamplingParams(max_tokens=1, stop_token_ids=frozenset({3}))
    assert stop_ids(params, LIMITS) == {3, 9}
    ignoring = SamplingParams(max_tokens=1, stop_token_ids=frozenset({3}), ignore_eos=True)
    assert stop_ids(ignoring, LIMITS) == {3}
