"""int8 keeps the quality: perplexity within 1% of the unquantised model, also on a DFS path."""

import pytest

from benchmarks.quantization import DEMO, PATHS, TEXT, Reader, build, perplexity
from evoserve.tokenizer import load_tokenizer

pytestmark = pytest.mark.skipif(not DEMO.exists(), reason="`make demo-model` has not run")


@pytest.mark.parametrize("name", PATHS)
def test_perplexity_of_english_text_is_within_one_percent(name: str) -> None:
    plain, packed = build(name, None), build(name, "int8")
    text = load_tokenizer(DEMO).encode(TEXT.read_text(encoding="utf-8"))
    assert len(text) > 900
    ratio = perplexity(packed, text) / perplexity(plain, text)
    assert 0.99 < ratio < 1.01
    assert packed.weight_bytes < 0.3 * plain.weight_bytes


def test_a_text_reads_the_same_in_chunks_and_whole() -> None:
    model = build("plain", "int8")
    text = load_tokenizer(DEMO).encode(TEXT.read_text(encoding="utf-8"))[:300]
    whole = Reader(model, 300).read(text)
    reader = Reader(model, 300)
    parts = [reader.read(text[:7]), reader.read(text[7:8]), reader.read(text[8:])]
    starts = (0, 7, 8)
    for start, part in zip(starts, parts, strict=True):
        assert (part.argmax(-1) == whole[start : start + len(part)].argmax(-1)).all()
