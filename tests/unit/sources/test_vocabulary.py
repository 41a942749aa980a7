"""Which tokenizer a recipe uses and where each source keeps its rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evoserve.errors import IncompatibleSources, ManifestError, SourceError
from evoserve.manifest.schema import Manifest
from evoserve.sources.locate import SourceLocator
from evoserve.sources.resolve import resolve_recipe
from evoserve.sources.vocabulary import MISSING, Vocabulary, resolve_vocabulary

LINEAR = {"method": "linear", "weights": {"a": 1.0, "b": 0.5}}
TWENTY = "abcdefghijklmnopqrst"


@pytest.fixture
def source(
    tmp_path: Path, save_model: Callable[..., Path], save_tokenizer: Callable[..., None]
) -> Callable[..., Path]:
    """A saved model with 32 rows (or `rows`) and a tokenizer of 20 letters plus `added`."""

    def build(name: str, rows: int = 32, **tokenizer: Any) -> Path:
        folder = save_model(tmp_path / name, vocab_size=rows)
        save_tokenizer(folder, **tokenizer)
        return folder

    return build


@pytest.fixture
def vocabulary(manifest: Callable[..., Manifest]) -> Callable[..., Vocabulary]:
    def build(sources: dict[str, Path], **fields: Any) -> Vocabulary:
        fields.setdefault("merges", {"m": LINEAR})
        recipe = resolve_recipe(manifest(sources, **fields), SourceLocator(offline=True))
        return resolve_vocabulary(recipe)

    return build


def listed(rows: torch.Tensor | None) -> list[int] | None:
    return None if rows is None else rows.tolist()


def test_equal_files_are_the_identity(source: Any, vocabulary: Any) -> None:
    sources = {name: source(name, added=("<x>",)) for name in "ab"}
    found = vocabulary(sources)
    assert found.size == 32
    assert found.rows == {"a": None, "b": None}
    assert found.folder == sources["a"]
    assert found.load_tokenizer().vocab["<x>"] == 20


def test_equal_vocabularies_in_different_files(source: Any, vocabulary: Any) -> None:
    sources = {name: source(name) for name in "ab"}
    file = sources["b"] / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    assert vocabulary(sources).rows == {"a": None, "b": None}


def test_padding_may_differ(source: Any, vocabulary: Any) -> None:
    sources = {"a": source("a", rows=24), "b": source("b", rows=32)}
    found = vocabulary(sources)
    assert (found.size, found.rows["a"]) == (24, None)
    assert listed(found.rows["b"]) == list(range(24))
    other = vocabulary(sources, tokenizer="b")
    assert other.size == 32
    assert listed(other.rows["a"]) == [*range(24), *[MISSING] * 8]
    assert other.rows["b"] is None


def test_a_table_too_small_for_the_tokens(source: Any, vocabulary: Any) -> None:
    sources = {"a": source("a"), "b": source("b", rows=19)}
    with pytest.raises(IncompatibleSources, match="'b' has 19 rows for 20 tokens of 'a'"):
        vocabulary(sources)


def test_added_tokens_need_a_choice(source: Any, vocabulary: Any) -> None:
    sources = {"a": source("a", added=("<x>",)), "b": source("b", added=("<y>", "<x>"))}
    with pytest.raises(
        IncompatibleSources, match=r"'a' and 'b' differ in 2 tokens, such as '<x>'.*'union'"
    ):
        vocabulary(sources)
    of_a = vocabulary(sources, tokenizer="m")
    assert of_a.folder == sources["a"]
    assert of_a.rows["a"] is None
    expected = [*range(20), 21, MISSING, *range(22, 32)]
    assert listed(of_a.rows["b"]) == expected
    of_b = vocabulary(sources, tokenizer="b")
    assert of_b.folder == sources["b"]
    assert listed(of_b.rows["a"]) == [*range(20), MISSING, 20, *range(22, 32)]
    assert of_b.rows["b"] is None


def test_union_appends_in_order_of_source_name(source: Any, vocabulary: Any) -> None:
    sources = {
        "c": source("c", rows=22, added=("<x>", "<c>")),
        "b": source("b", rows=23, added=("<b2>", "<b1>", "<x>")),
        "a": source("a", rows=21, added=("<x>",)),
    }
    merge = {"method": "linear", "models": ["a", "b", "c"], "weights": {"a": 1, "b": 1, "c": 1}}
    merge["weights"] = dict.fromkeys("abc", 1.0)
    found = vocabulary(sources, merges={"m": merge}, tokenizer="union")
    assert found.size == 24
    assert [token.content for token in found.added] == ["<b2>", "<b1>", "<c>"]
    tokenizer = found.load_tokenizer()
    new = {token: tokenizer.vocab[token] for token in ("<x>", "<b2>", "<b1>", "<c>")}
    assert new == {"<x>": 20, "<b2>": 21, "<b1>": 22, "<c>": 23}
    letters = list(range(20))
    assert listed(found.rows["a"]) == [*letters, 20, MISSING, MISSING, MISSING]
    assert listed(found.rows["b"]) == [*letters, 22, 20, 21, MISSING]
    assert listed(found.rows["c"]) == [*letters, 20, MISSING, MISSING, 21]
    assert tokenizer.encode("a<c>b") == [0, 23, 1]


def test_union_fills_the_padding_of_the_base_first(source: Any, vocabulary: Any) -> None:
    sources = {"a": source("a", added=("<x>",)), "b": source("b", added=("<x>", "<y>"))}
    found = vocabulary(sources, tokenizer="union")
    assert found.size == 32
    assert listed(found.rows["a"]) == [*range(21), MISSING, *range(22, 32)]
    assert found.rows["b"] is None


def test_union_of_equal_vocabularies_is_plain(source: Any, vocabulary: Any) -> None:
    found = vocabulary({name: source(name) for name in "ab"}, tokenizer="union")
    assert found.added == ()
    assert found.rows == {"a": None, "b": None}


def test_other_vocabularies_are_refused(source: Any, vocabulary: Any) -> None:
    sources = {"a": source("a"), "b": source("b", letters=TWENTY[::-1])}
    for tokenizer in (None, "a", "union"):
        with pytest.raises(
            IncompatibleSources,
            match=r"'a' and 'b' differ in 20 tokens, such as 'a', .* \(ids 0 and 19\)",
        ):
            vocabulary(sources, tokenizer=tokenizer)


def test_a_source_on_the_path_alone_may_have_any(source: Any, vocabulary: Any) -> None:
    sources = {"a": source("a"), "b": source("b", rows=40, letters=TWENTY[::-1])}
    found = vocabulary(sources, merges={}, path=["a[0]", "b[1]", "a[1]"])
    assert found.rows == {"a": None}
    assert found.size == 32
    with pytest.raises(IncompatibleSources, match="'a' and 'b' differ in 20 tokens"):
        vocabulary(sources, merges={}, path=["a[0]", "b[1]"])


def test_sources_without_a_tokenizer_use_the_recipes(source: Any, vocabulary: Any) -> None:
    sources = {name: source(name) for name in "ab"}
    (sources["b"] / "tokenizer.json").unlink()
    assert vocabulary(sources).rows == {"a": None, "b": None}
    (sources["a"] / "tokenizer.json").unlink()
    neither = vocabulary(sources)
    assert neither.rows == {"a": None, "b": None}
    with pytest.raises(SourceError, match="holds no tokenizer"):
        neither.load_tokenizer()


def test_union_is_reserved_unless_a_model_has_the_name(
    source: Any, vocabulary: Any, manifest: Callable[..., Manifest]
) -> None:
    folder = source("a", added=("<x>",))
    with pytest.raises(ManifestError, match="unknown model 'union'"):
        manifest({"a": folder}, embed="union", head="union")
    with pytest.raises(ManifestError, match="unknown model 'unoin'"):
        manifest({"a": folder}, tokenizer="unoin")
    merge = {"method": "linear", "weights": {"union": 1.0, "z": 1.0}}
    sources = {"union": source("u"), "z": folder}
    found = vocabulary(sources, merges={"m": merge}, tokenizer="union")
    assert found.added == ()
    assert found.folder == sources["union"]
