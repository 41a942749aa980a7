"""JSON or YAML text to plain values: nothing that JSON cannot say comes through.

YAML is read with the scalars of its JSON schema (version 1.2: `1e-3` is a number, `yes` and `010`
are strings), without aliases, tags and merge keys, which can grow a small file without bound or
run code, and without duplicate keys.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from evoserve.errors import ManifestError

MAX_DOCUMENT_CHARS = 4 * 2**20
MAX_YAML_CHARS = 2**18
MAX_DEPTH = 64

_KINDS = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "empty"}
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is many times faster


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
        if "maximum nesting" in str(error):  # libyaml's own bound, seen before ours from 0.2.6 on
            raise ManifestError(f"is nested deeper than {MAX_DEPTH} levels") from None
        fault = json_fault or f"is not valid YAML: {_one_line(str(error))}"
        raise ManifestError(fault) from None


def _parse_json(text: str) -> object:
    """Repeated keys and NaN pass here, so that `check_document` can name the place."""
    return json.loads(text, object_pairs_hook=_mark_repeated, parse_constant=float)


def _parse_yaml(text: str) -> object:
    """Built from the parser's events as they come, so what is refused is not read to its end."""
    tree = _Tree()
    for event in yaml.parse(text, Loader=_YamlLoader):
        tree.take(event)
    return tree.root


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


@dataclass(slots=True)
class _Open:
    """A list or object that has not ended; keys: the one whose value comes next, or none."""

    value: dict[Any, object] | list[object]
    keys: list[object] = field(default_factory=list)


class _Tree:
    """A value that grows by YAML events; it accepts what JSON can say, and one document."""

    def __init__(self) -> None:
        self.root: object = None
        self._open: list[_Open] = []
        self._num_documents = 0

    def take(self, event: yaml.Event) -> None:
        """The next event. Raises ManifestError, and YAMLError for a second document."""
        if isinstance(event, yaml.ScalarEvent):
            self._check_node(event)
            self._put(_scalar(event.value) if event.implicit[0] else event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._begin(event, [])
        elif isinstance(event, yaml.MappingStartEvent):
            self._begin(event, {})
        elif isinstance(event, yaml.CollectionEndEvent):
            self._put(self._open.pop().value)
        elif isinstance(event, yaml.AliasEvent):
            raise ManifestError(
                f"YAML aliases (*{event.anchor}{_line(event)}) are not accepted; write it out"
            )
        elif isinstance(event, yaml.DocumentStartEvent):
            self._num_documents += 1
            if self._num_documents > 1:
                raise yaml.YAMLError("it holds more than one document")

    def _begin(self, event: yaml.NodeEvent, value: dict[Any, object] | list[object]) -> None:
        self._check_node(event)
        if self._expects_key():
            raise ManifestError("has a key that is not text", where=self._where())
        if len(self._open) > MAX_DEPTH:
            where = self._where()[:80]
            raise ManifestError(f"is nested deeper than {MAX_DEPTH} levels", where=where)
        self._open.append(_Open(value))

    def _put(self, value: object) -> None:
        if not self._open:
            self.root = value
            return
        top = self._open[-1]
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.keys:
            top.value[top.keys.pop()] = value
        elif value in top.value:
            raise ManifestError("key given twice", where=join_path(self._where(), str(value)))
        else:
            top.keys.append(value)

    def _expects_key(self) -> bool:
        top = self._open[-1] if self._open else None
        return top is not None and isinstance(top.value, dict) and not top.keys

    def _check_node(self, event: yaml.NodeEvent) -> None:
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise ManifestError(f"YAML tags ({tag}{_line(event)}) are not accepted")

    def _where(self) -> str:
        """The path of the innermost open list or object."""
        inner = [
            len(each.value) if isinstance(each.value, list) else str(each.keys[0])
            for each in self._open[:-1]
        ]
        return _path(tuple(inner))


def _line(event: yaml.Event) -> str:
    return "" if event.start_mark is None else f" in line {event.start_mark.line + 1}"


def _scalar(text: str) -> object:
    """The value of a plain scalar. Raises ValueError for an integer of thousands of digits."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
