"""Filling in the middle: a suffix, for models whose vocabulary has the three tokens for it."""

from collections.abc import Sequence
from dataclasses import dataclass

from evoserve.errors import RequestError
from evoserve.tokenizer import Tokenizer

_FORMS = (  # tokens before the prefix, before the suffix, before the middle
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),  # Code Llama
)


@dataclass(frozen=True)
class Infill:
    """The tokens that stand around a prompt so that the model writes what is before a suffix."""

    prefix: int
    after: tuple[int, ...]

    def around(self, token_ids: Sequence[int]) -> tuple[tuple[int, ...], slice]:
        """The whole prompt, and where `token_ids` are in it."""
        return (self.prefix, *token_ids, *self.after), slice(1, 1 + len(token_ids))


def infill_of(tokenizer: Tokenizer, suffix: str) -> Infill:
    """What to put around a prompt. Raises RequestError if the model has no tokens for it."""
    for names in _FORMS:
        if all(name in tokenizer.vocab for name in names):
            prefix, before_suffix, middle = (tokenizer.vocab[name] for name in names)
            ids = tokenizer.encode(suffix, add_special_tokens=False)
            return Infill(prefix, (before_suffix, *ids, middle))
    message = "'suffix' is not supported: this model has no tokens for filling in the middle."
    raise RequestError(message, param="suffix", code="unsupported_parameter")
