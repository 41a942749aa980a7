"""How many bytes of a text one token can stand for at most, where that can be told.

A text of more bytes than a context's tokens can hold need not be tokenized to be refused.
"""

import json
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers

from evoserve.text_stream import byte_level_bytes

_MAX_NFC_RATIO = 4  # seven bytes may become the two of U+0390
_UTF8_BYTES = frozenset(range(256)) - {0xC0, 0xC1, *range(0xF5, 256)}
_Settings = dict[str, Any]


def max_bytes_per_token(backend: tokenizers.Tokenizer) -> int | None:
    """Bytes of text in the longest token; None if a token may swallow text of any length.

    Told for BPE that can spell every byte, if nothing on the way to it drops text: unknown tokens,
    normalizers that strip and added tokens that take blanks along have no bound.
    """
    ratio = _max_ratio(_parts(backend.normalizer))
    splitters = _parts(backend.pre_tokenizer)
    added = backend.get_added_tokens_decoder().values()
    drops_text = any(map(_drops_text, splitters)) or any(t.lstrip or t.rstrip for t in added)
    if ratio is None or drops_text or not isinstance(backend.model, models.BPE):
        return None
    is_byte_level = any(splitter["type"] == "ByteLevel" for splitter in splitters)
    longest = _longest_piece(backend, is_byte_level=is_byte_level)
    if longest is None:
        return None
    return ratio * max([longest, *(len(token.content.encode()) for token in added)])


def _longest_piece(backend: tokenizers.Tokenizer, *, is_byte_level: bool) -> int | None:
    """In bytes; None if there is a byte that the vocabulary cannot spell."""
    vocab = backend.get_vocab(with_added_tokens=False)
    if is_byte_level:
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        needed = [char for char in alphabet if byte_level_bytes(char)[0] in _UTF8_BYTES]
        longest = max(map(len, vocab), default=0)  # a character stands for a byte
    elif backend.model.byte_fallback:
        needed = [f"<0x{value:02X}>" for value in range(256)]
        longest = max((len(piece.encode()) for piece in vocab), default=0)
    else:
        return None
    return longest if all(piece in vocab for piece in needed) else None


def _max_ratio(normalizers: list[_Settings]) -> int | None:
    """By how much the normalizers may shorten a text; None if there is no saying."""
    ratio = 1
    for settings in normalizers:
        if settings["type"] == "NFC":
            ratio *= _MAX_NFC_RATIO
        elif settings["type"] != "Prepend" and not _is_longer(settings):
            return None
    return ratio


def _is_longer(normalizer: _Settings) -> bool:
    """Does it replace a fixed text by one that is no shorter?"""
    if normalizer["type"] != "Replace":
        return False
    pattern = normalizer["pattern"].get("String")
    return pattern is not None and len(normalizer["content"].encode()) >= len(pattern.encode())


def _drops_text(splitter: _Settings) -> bool:
    if splitter["type"] == "Split":
        return bool(splitter["behavior"] == "Removed")
    return splitter["type"] not in ("ByteLevel", "Digits", "Metaspace")


def _parts(component: Any) -> list[_Settings]:
    """The settings of a normalizer or pre-tokenizer, those of a sequence one by one."""
    return [] if component is None else _flatten(json.loads(component.__getstate__()))


def _flatten(settings: _Settings) -> list[_Settings]:
    inner = settings.get("normalizers", settings.get("pretokenizers"))
    return [settings] if inner is None else [part for one in inner for part in _flatten(one)]
