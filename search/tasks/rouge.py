"""ROUGE-L for Japanese and for text with blanks, as the paper's VLM tasks score it."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from evoserve.errors import ConfigError
from search.tasks.language import is_language

_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f\u200d]")
_JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")


def rouge_l(reply: str, reference: str) -> float:
    """F-measure of the longest common subsequence of tokens, in [0, 1] (the paper prints x100).

    Both are normalised (NFKC, emoji removed, blanks collapsed). A Japanese reference is cut by
    MeCab, and a reply to it that is not Japanese scores 0.
    """
    japanese = _JAPANESE.search(reference) is not None
    if japanese and not is_language(reply, "ja"):
        return 0.0
    cut = _cut_japanese if japanese else str.split
    found, expected = cut(_normalise(reply)), cut(_normalise(reference))
    common = _common_length(found, expected)
    return 2 * common / (len(found) + len(expected)) if common else 0.0


def _normalise(text: str) -> str:
    return " ".join(_EMOJI.sub("", unicodedata.normalize("NFKC", text)).split())


def _cut_japanese(text: str) -> list[str]:
    return [word.surface for word in _tagger()(text)]


@lru_cache(maxsize=1)
def _tagger() -> Any:
    try:
        from fugashi import Tagger
    except ImportError:
        raise ConfigError(
            "ROUGE-L on Japanese needs fugashi and unidic-lite: pip install 'evoserve[ja]'"
        ) from None
    return Tagger("-Owakati")


def _common_length(a: Sequence[str], b: Sequence[str]) -> int:
    lengths = [0] * (len(b) + 1)
    for left in a:
        diagonal = 0
        for j, right in enumerate(b, start=1):
            above = lengths[j]
            lengths[j] = diagonal + 1 if left == right else max(above, lengths[j - 1])
            diagonal = above
    return lengths[-1]
