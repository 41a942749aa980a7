"""The most bytes of a text that one token can stand for: never exceeded, or not told at all."""

import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from evoserve.text_bound import _MAX_NFC_RATIO, max_bytes_per_token
from evoserve.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
HANGUL = "\u1112\u1161\u11ab"  # three letters of one syllable
IOTA = "\u1fbe\u0308\u0301"  # seven bytes of one character of two


def byte_level(alphabet: list[str] = ALPHABET) -> LibraryTokenizer:
    """All bytes, and a token of three."""
    merges = [("Ġ", "a"), ("Ġa", "b"), ("í", "ķ"), ("íķ", "ľ")]
    tokens = [*alphabet, *("".join(pair) for pair in merges)]
    vocab = {token: index for index, token in enumerate(tokens)}
    built = LibraryTokenizer(models.BPE(vocab, merges))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    built.add_tokens(["日本語"])
    return built


def byte_fallback(num_bytes: int = 256) -> LibraryTokenizer:
    tokens = [*(f"<0x{value:02X}>" for value in range(num_bytes)), "▁", "a", "▁a"]
    vocab = {token: index for index, token in enumerate(tokens)}
    model = models.BPE(vocab, [("▁", "a")], byte_fallback=True, fuse_unk=True)
    built = LibraryTokenizer(model)
    built.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    built.decoder = decoders.ByteFallback()
    return built


def with_parts(**parts: object) -> LibraryTokenizer:
    built = byte_level()
    for name, part in parts.items():
        setattr(built, name, part)
    return built


def with_added(token: AddedToken) -> LibraryTokenizer:
    built = byte_level()
    built.add_tokens([token])
    return built


BOUNDED = {
    "byte_level": (byte_level(), 9),
    "byte_fallback": (byte_fallback(), 6),
    "composed": (with_parts(normalizer=normalizers.NFC()), 36),
}


@pytest.mark.parametrize("kind", BOUNDED)
@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab 1é日本語 e\u0301") | st.characters(codec="utf-8"), max_size=40))
@example("日本語" * 9)
@example(HANGUL * 9)
@example(IOTA * 9)
@example(" ab ab ab")
def test_no_token_stands_for_more(kind: str, text: str) -> None:
    built, bound = BOUNDED[kind]
    assert max_bytes_per_token(built) == bound
    ids = built.encode(text, add_special_tokens=False).ids
    assert len(text.encode()) <= bound * len(ids)


@pytest.mark.parametrize(
    "built",
    [
        LibraryTokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")),
        byte_level([char for char in ALPHABET if char != "c"]),
        LibraryTokenizer(models.BPE({"a": 0}, [])),
        byte_fallback(255),
        with_parts(normalizer=normalizers.Strip()),
        with_parts(normalizer=normalizers.Replace(Regex(" +"), " ")),
        with_parts(normalizer=normalizers.Replace("aa", "a")),
        with_parts(pre_tokenizer=pre_tokenizers.Whitespace()),
        with_parts(
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel()]
            )
        ),
        with_added(AddedToken("<x>", lstrip=True)),
        with_added(AddedToken("<x>", rstrip=True)),
    ],
)
def test_what_may_swallow_text_has_no_bound(built: LibraryTokenizer) -> None:
    assert max_bytes_per_token(built) is None


def test_composing_shortens_no_character_s_equivalents_by_more() -> None:
    single: dict[str, int] = {}  # bytes of the longest single character that is another one
    parts: dict[str, str] = {}
    for char in map(chr, range(sys.maxunicode + 1)):
        parted = unicodedata.normalize("NFD", char)
        if parted != char:
            parts[char] = parted
            if len(parted) == 1:
                single[parted] = max(single.get(parted, 0), len(char.encode()))
    for char, parted in parts.items():
        composed = unicodedata.normalize("NFC", char)
        longest = sum(max(single.get(part, 0), len(part.encode())) for part in parted)
        assert longest <= _MAX_NFC_RATIO * len(composed.encode()), char
    for part, num_bytes in single.items():
        assert num_bytes <= _MAX_NFC_RATIO * len(part.encode())


@pytest.mark.parametrize("name", ["base", "ja", "math"])
def test_the_mini_models_have_one(name: str) -> None:
    tokenizer = load_tokenizer(ROOT / "models/mini" / name)
    bound = tokenizer.max_bytes_per_token
    assert bound is not None
    spelled = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
    assert bound == max(map(len, spelled))
