"""Which requests are refused before the loop ever meets them. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass

from evoserve.engine.request import GenerationRequest, SamplingParams
from evoserve.errors import ContextLengthError, RequestError

_LARGEST = 1e6
_RANGES = {
    "temperature": (0.0, _LARGEST),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-_LARGEST, _LARGEST),
    "frequency_penalty": (-_LARGEST, _LARGEST),
}


@dataclass(frozen=True)
class Limits:
    """What one loaded recipe can take.

    max_model_len: prompt plus completion in tokens, never more than the KV pool holds;
    max_logprobs: most top logprobs per token; eos_ids: the model's own end tokens.
    """

    vocab_size: int
    max_model_len: int
    max_logprobs: int
    eos_ids: frozenset[int]


def check_request(request: GenerationRequest, limits: Limits) -> None:
    """Raises ContextLengthError or RequestError that names the field, its value and the limit."""
    params = request.params
    _check_length(len(request.prompt_token_ids), params.max_tokens, limits.max_model_len)
    _check_ids("prompt", request.prompt_token_ids, limits.vocab_size)
    _check_ids("logit_bias", params.logit_bias, limits.vocab_size)
    _check_ids("stop_token_ids", params.stop_token_ids, limits.vocab_size)
    _check_counts(params, limits.max_logprobs)
    if params.min_tokens and len(stop_ids(params, limits)) == limits.vocab_size:
        raise RequestError(
            f"min_tokens {params.min_tokens} leaves nothing to choose: every token is a stop token",
            param="stop_token_ids",
        )
    _check_numbers(params)


def stop_ids(params: SamplingParams, limits: Limits) -> frozenset[int]:
    """Every token that ends a sequence with these parameters."""
    return params.stop_token_ids | (frozenset() if params.ignore_eos else limits.eos_ids)


def _check_length(num_prompt: int, max_tokens: int, limit: int) -> None:
    if num_prompt == 0:
        raise RequestError("the prompt is empty; give at least one token", param="prompt")
    if max_tokens < 0:
        raise RequestError(f"max_tokens {max_tokens} must not be negative", param="max_tokens")
    if num_prompt + max_tokens > limit:
        raise ContextLengthError(
            f"this model's maximum context length is {limit} tokens, but {num_prompt + max_tokens} "
            f"were requested ({num_prompt} in the prompt, {max_tokens} for the completion); "
            "shorten the prompt or lower max_tokens"
        )


def _check_ids(param: str, token_ids: Iterable[int], vocab_size: int) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise RequestError(
                f"token id {token_id} in {param} is outside the vocabulary, 0 to {vocab_size - 1}",
                param=param,
            )


def _check_counts(params: SamplingParams, max_logprobs: int) -> None:
    if not 0 <= params.min_tokens <= params.max_tokens:
        raise RequestError(
            f"min_tokens {params.min_tokens} must be from 0 to max_tokens {params.max_tokens}",
            param="min_tokens",
        )
    for name in ("logprobs", "prompt_logprobs"):
        number: int | None = getattr(params, name)
        if number is not None and not 0 <= number <= max_logprobs:
            raise RequestError(f"{name} {number} must be from 0 to {max_logprobs}", param=name)
    if params.top_k < 0:
        raise RequestError(f"top_k {params.top_k} must be 0 (off) or more", param="top_k")


def _check_numbers(params: SamplingParams) -> None:
    for name, (least, most) in _RANGES.items():
        _check_range(name, getattr(params, name), least, most, name)
    for token_id, bias in params.logit_bias.items():
        label = f"logit_bias of token {token_id}"
        _check_range(label, bias, -_LARGEST, _LARGEST, "logit_bias")
    if params.top_p == 0:
        raise RequestError("top_p 0 must be in (0, 1]", param="top_p")


def _check_range(label: str, value: float, least: float, most: float, param: str) -> None:
    """NaN is in no range."""
    if not least <= value <= most:
        raise RequestError(f"{label} = {value} must be from {least:g} to {most:g}", param=param)
