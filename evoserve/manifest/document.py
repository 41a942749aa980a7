"""JSON or YAML text to plain values: nothing that JSON cannot say comes through.

YAML is read with the scalars of its JSON schema (version 1.2: `1e-3` is a number, `yes` and `010`
are strings), without aliases, tags and merge keys, which can grow a small file without bound or
run code, and without duplicate keys.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from evoserve.errors import ManifestError

MAX_DOCUMENT_CHARS = 4 * 2**20
MAX_YAML_CHARS = 2**18
MAX_DEPTH = 64

_KINDS = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "empty"}
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
)


def parse_document(text: str) -> object:
    """The value of JSON or YAML text, all of it representable in JSON. Raises ManifestError."""
    if len(text) > MAX_DOCUMENT_CHARS:
        raise ManifestError(f"is {len(text)} characters long, the limit is {MAX_DOCUMENT_CHARS}")
    try:
        value = _parse(text)
    except RecursionError:
        raise ManifestError(f"is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise ManifestError(f"cannot be read: {_one_line(str(error))}") from None
    check_document(value)
    return value


def check_document(value: object) -> None:
    """Raises ManifestError for what JSON cannot hold: NaN, infinities, other keys than text, ..."""
    _check_tree(value, ())


def describe(value: object) -> str:
    """What `value` is, in JSON's words: an object, a list, text, a number, a boolean, empty."""
    return _KINDS.get(type(value), "a number")


def join_path(where: str, key: str | int) -> str:
    """The JSON path of item `key` of the value at `where`, on one line whatever the key holds."""
    if isinstance(key, int):
        return f"{where}[{key}]"
    short = key if len(key) <= 80 else key[:77] + "..."
    name = short if short and short.isprintable() else json.dumps(short)
    return f"{where}.{name}" if where else name


def _parse(text: str) -> object:
    """JSON if it looks like an object and is one, else YAML, whose flow style looks alike."""
    json_fault = ""
    if text.lstrip().startswith("{"):
        try:
            return _parse_json(text)
        except json.JSONDecodeError as error:
            json_fault = f"is not valid JSON: {error}"
    if len(text) > MAX_YAML_CHARS:
        limit = f"is {len(text)} characters long; YAML may have {MAX_YAML_CHARS}, use JSON"
        raise ManifestError(json_fault or limit)
    try:
        return _parse_yaml(text)
    except yaml.YAMLError as error:
        fault = json_fault or f"is not valid YAML: {_one_line(str(error))}"
        raise ManifestError(fault) from None


def _parse_json(text: str) -> object:
    """Repeated keys and NaN pass here, so that `check_document` can name the place."""
    return json.loads(text, object_pairs_hook=_mark_repeated, parse_constant=float)


def _parse_yaml(text: str) -> object:
    loader = _PlainLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node, "")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _one_line(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= 300 else joined[:297] + "..."


def _check_tree(value: object, where: tuple[str | int, ...]) -> None:
    if len(where) > MAX_DEPTH:
        raise ManifestError(f"is nested deeper than {MAX_DEPTH} levels", where=_path(where)[:80])
    if isinstance(value, Mapping):
        _check_keys(value, where)
        for key, item in value.items():
            _check_tree(item, (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if type(item) is not int:  # most long lists hold numbers: spare them the call
                _check_tree(item, (*where, index))
    else:
        _check_scalar(value, where)


def _check_keys(value: Mapping[Any, object], where: tuple[str | int, ...]) -> None:
    if isinstance(value, _Repeated):
        raise ManifestError("key given twice", where=_path((*where, value.key)))
    for key in value:
        if not isinstance(key, str):
            raise ManifestError(f"key {key!r:.80} is not text; quote it", where=_path(where))
        _check_scalar(key, where)


def _check_scalar(value: object, where: tuple[str | int, ...]) -> None:
    if not isinstance(value, str | int | float | bool | None):
        raise ManifestError(f"{value!r:.80} has no JSON form", where=_path(where))
    if isinstance(value, float) and not math.isfinite(value):
        raise ManifestError(f"{value} is not a finite number", where=_path(where))
    if isinstance(value, str) and not _is_unicode(value):
        raise ManifestError("holds half of a surrogate pair, not text", where=_path(where))


def _path(keys: tuple[str | int, ...]) -> str:
    where = ""
    for key in keys:
        where = join_path(where, key)
    return where


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _Repeated(dict[str, object]):
    """An object of which one key was given twice."""

    key: str


def _mark_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            marked = _Repeated()
            marked.key = key
            return marked
        found[key] = value
    return found


def _check_nodes(node: yaml.Node, where: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check_nodes(item, join_path(where, index))
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ManifestError("has a key that is not text", where=where)
            if key.value in seen:
                raise ManifestError("key given twice", where=join_path(where, key.value))
            seen.add(key.value)
            _check_nodes(item, join_path(where, key.value))


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's table: for a plain scalar's first character, the types it may have."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, pattern, first in _SCALARS:
        for character in first:
            row = (f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z"))
            table.setdefault(character, []).append(row)
    return table


class _PlainLoader(yaml.SafeLoader):
    """YAML restricted to what JSON can say."""

    yaml_implicit_resolvers = _resolvers()

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.events.AliasEvent):
            raise ManifestError(
                f"YAML aliases (*{event.anchor} in line {line}) are not accepted; write it out"
            )
        if getattr(event, "tag", None) is not None:
            raise ManifestError(f"YAML tags ({event.tag} in line {line}) are not accepted")
        return super().compose_node(parent, index)
