"""YAML that is too deep is refused where it gets too deep, however much comes after."""

import pytest
import yaml

from evoserve.errors import ManifestError
from evoserve.manifest import document
from evoserve.manifest.document import MAX_DEPTH, MAX_YAML_CHARS, parse_document

LOADERS = [yaml.SafeLoader] + ([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])
DEEP = {
    "lists": "[",
    "objects": "{a: ",
    "block lists": "- ",
}


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def num_events(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events were taken, with and without libyaml."""
    monkeypatch.setattr(document, "_YamlLoader", request.param)
    taken = [0]
    take = document._Tree.take

    def count(self: document._Tree, event: yaml.Event) -> None:
        taken[0] += 1
        take(self, event)

    monkeypatch.setattr(document._Tree, "take", count)
    return taken


@pytest.mark.parametrize("opening", DEEP.values(), ids=DEEP)
def test_what_is_too_deep_is_not_read_to_its_end(num_events: list[int], opening: str) -> None:
    text = opening * (20_000 // len(opening))
    with pytest.raises(ManifestError, match=f"nested deeper than {MAX_DEPTH} levels"):
        parse_document(text)
    assert num_events[0] <= 2 * MAX_DEPTH + 5


def test_what_is_as_deep_as_allowed_is_read(num_events: list[int]) -> None:
    value = parse_document("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    for _ in range(MAX_DEPTH):
        value = value[0]
    assert value == []
    with pytest.raises(ManifestError, match="nested deeper"):
        parse_document("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2))


def test_an_alias_a_tag_and_a_second_document_end_it_at_once(num_events: list[int]) -> None:
    rest = "".join(f"k{number}: {number}\n" for number in range(3000))
    for text in (f"a: &x 1\nb: *x\n{rest}", f"a: !t 1\n{rest}", f"a: 1\n---\n{rest}"):
        num_events[0] = 0
        with pytest.raises(ManifestError):
            parse_document(text)
        assert num_events[0] < 12


def test_both_parsers_read_the_same(num_events: list[int]) -> None:
    numbers = "a: [1, -2.5, 1e3, .5, ~, true, no, '1', \"x\\n\", 010, 0x1]\n"
    text = numbers + "b:\n  c: |\n    x\n  d: >\n    y\n    z\n  e:"
    assert parse_document(text) == {
        "a": [1, -2.5, 1000.0, 0.5, None, True, "no", "1", "x\n", "010", "0x1"],
        "b": {"c": "x\n", "d": "y z\n", "e": None},
    }


def test_a_text_is_read_whatever_its_size_up_to_the_limit() -> None:
    items = ",".join(["1"] * (MAX_YAML_CHARS // 2 - 2))
    assert len(parse_document(f"[{items}]")) == MAX_YAML_CHARS // 2 - 2
