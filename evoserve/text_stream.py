"""Token pieces into text that never changes again, and stop strings found across its borders.

A fast tokenizer decodes a whole list of tokens through a chain of decoders; each stage here does
the same piece by piece, in time and memory bounded by the piece (by the run, where a decoder needs
a whole run of byte tokens before it can tell what they spell).
"""

import codecs
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tokenizers import Regex, decoders

from evoserve.errors import RequestError, UnsupportedModel

_BYTE_TOKEN = re.compile(r"<0x(\+[0-9A-Fa-f]|[0-9A-Fa-f]{2})>")
_SUPPORTED = "ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, WordPiece, Sequence"


class Stage(Protocol):
    """One decoder of the chain as a stream."""

    def push(self, piece: str) -> Sequence[str]:
        """The pieces that are certain now that `piece` has come."""
        ...

    def finish(self) -> Sequence[str]:
        """The pieces that were held back."""
        ...


class TextStream:
    """Token pieces (as the vocabulary spells them) in, text out; the sum is the decoder's text."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)

    def push(self, piece: str) -> str:
        """The text that became certain."""
        return "".join(self._run([piece], 0))

    def finish(self) -> str:
        """The text that was held back; nothing may be pushed afterwards."""
        text = ""
        for index, stage in enumerate(self._stages):
            text += "".join(self._run(stage.finish(), index + 1))
        return text

    def _run(self, pieces: Sequence[str], first: int) -> Sequence[str]:
        for stage in self._stages[first:]:
            pieces = [out for piece in pieces for out in stage.push(piece)]
        return pieces


class StopChecker:
    """Finds the first stop string in streamed text and lets neither it nor what follows through.

    First is the one that is complete first; of those that end together, the one that starts first.
    How the text is cut into pieces makes no difference.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises RequestError for an empty stop string."""
        if any(not stop for stop in stops):
            raise RequestError("a stop string must not be empty", param="stop")
        self._stops = tuple(stops)
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""
        self._num_cut = 0
        self.matched: str | None = None

    @property
    def num_kept(self) -> int:
        """Characters that were pushed and did not come out, whether they may yet or not."""
        return self._num_cut + len(self._held)

    def push(self, text: str) -> tuple[str, bool]:
        """(text to send, whether a stop string was found); once found, nothing more comes."""
        if self.matched is not None:
            self._num_cut += len(text)
            return "", True
        if not self._stops:
            return text, False
        buffer = self._held + text
        found = [(buffer.find(stop), stop) for stop in self._stops]
        ends = [(at + len(stop), at, stop) for at, stop in found if at >= 0]
        if ends:
            _, start, self.matched = min(ends)
            self._held = ""
            self._num_cut = len(buffer) - start
            return buffer[:start], True
        keep = self._num_held(buffer)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep], False

    def flush(self) -> str:
        """The text that was held back because a stop string might have begun in it."""
        held, self._held = self._held, ""
        return held

    def _num_held(self, buffer: str) -> int:
        for length in range(min(self._longest - 1, len(buffer)), 0, -1):
            if any(stop.startswith(buffer[-length:]) for stop in self._stops):
                return length
        return 0


def byte_level_bytes(piece: str) -> bytes:
    """The bytes a byte-level piece stands for; a piece with other characters is its own UTF-8."""
    try:
        return piece.translate(_BYTE_OF_CHAR).encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode()


def byte_token_value(piece: str) -> int | None:
    """The byte of a piece such as `<0xE3>`, None for any other piece."""
    match = _BYTE_TOKEN.fullmatch(piece)
    return int(match.group(1), 16) if match else None


def flatten_decoder(decoder: Any) -> list[dict[str, Any]]:
    """The chain of a `tokenizers` decoder (None: there is none) as a list of their settings."""
    if decoder is None:
        return [{"type": "Join"}]
    state = json.loads(decoder.__getstate__())
    return _flatten(state)


def build_stream(chain: Sequence[dict[str, Any]]) -> TextStream:
    """A fresh stream for `flatten_decoder`'s list.

    Raises UnsupportedModel for a decoder that cannot be streamed exactly.
    """
    stages: list[Stage] = []
    is_fused = False
    for settings in chain:
        kind = settings["type"]
        if kind == "Strip" and is_fused:
            stages.append(_FusedStrip(settings))
        elif kind in ("Fuse", "ByteLevel") and not is_fused:
            stages.append(_STAGES[kind](settings))
            is_fused = True
        elif kind in _STAGES and not is_fused:
            stages.append(_STAGES[kind](settings))
        elif kind != "Fuse":
            raise UnsupportedModel(
                f"the tokenizer's decoder {kind} cannot be streamed here; supported: {_SUPPORTED}"
            )
    return TextStream(stages)


def _flatten(state: dict[str, Any]) -> list[dict[str, Any]]:
    if state["type"] != "Sequence":
        return [state]
    return [part for inner in state["decoders"] for part in _flatten(inner)]


def _byte_of_char() -> dict[int, int]:
    """GPT-2's table: printable bytes are themselves, the others follow from U+0100.

    Characters that stand for no byte become one that Latin-1 does not have.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in plain]
    shifted = {256 + index: value for index, value in enumerate(others)}
    return dict.fromkeys(others, 0xFFFD) | {value: value for value in plain} | shifted


_BYTE_OF_CHAR = _byte_of_char()


class _EachAlone:
    """A decoder that looks at one piece at a time: the library's own."""

    def __init__(self, decoder: Any) -> None:
        self._decode = decoder.decode

    def push(self, piece: str) -> Sequence[str]:
        return [self._decode([piece])]

    def finish(self) -> Sequence[str]:
        return []


class _FirstDiffers:
    """A decoder that treats only the very first piece in another way."""

    def __init__(self, decoder: Any) -> None:
        self._decode = decoder.decode
        self._before: list[str] = []

    def push(self, piece: str) -> Sequence[str]:
        text: str = self._decode([*self._before, piece])
        self._before = [""]
        return [text]

    def finish(self) -> Sequence[str]:
        return []


class _Join:
    """No decoder: the pieces with blanks between them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        del settings
        self._glue = ""

    def push(self, piece: str) -> Sequence[str]:
        glue, self._glue = self._glue, " "
        return [glue + piece]

    def finish(self) -> Sequence[str]:
        return []


class _ByteLevel:
    """All pieces are bytes of one text; an unfinished character waits for its other bytes."""

    def __init__(self, settings: dict[str, Any]) -> None:
        del settings
        self._held = b""

    def push(self, piece: str) -> Sequence[str]:
        spelled = self._held + byte_level_bytes(piece)
        text, num_used = codecs.utf_8_decode(spelled, "replace", False)
        self._held = spelled[num_used:]
        return [text]

    def finish(self) -> Sequence[str]:
        held, self._held = self._held, b""
        return [held.decode("utf-8", "replace")]


class _ByteFallback:
    """A run of byte tokens is text if all of it is UTF-8, else one U+FFFD for each byte."""

    def __init__(self, settings: dict[str, Any]) -> None:
        del settings
        self._run = bytearray()

    def push(self, piece: str) -> Sequence[str]:
        value = byte_token_value(piece)
        if value is None:
            return [*self.finish(), piece]
        self._run.append(value)
        return []

    def finish(self) -> Sequence[str]:
        run, self._run = bytes(self._run), bytearray()
        if not run:
            return []
        try:
            return [run.decode()]
        except UnicodeDecodeError:
            return ["\ufffd"] * len(run)


class _Fuse:
    """From here on the pieces are parts of one."""

    def __init__(self, settings: dict[str, Any]) -> None:
        del settings

    def push(self, piece: str) -> Sequence[str]:
        return [piece]

    def finish(self) -> Sequence[str]:
        return []


class _FusedStrip:
    """Takes up to `start` characters `content` from the front of the whole text."""

    def __init__(self, settings: dict[str, Any]) -> None:
        if settings["stop"]:
            raise UnsupportedModel(
                f"the tokenizer strips {settings['stop']} characters from the end of a text, "
                "which cannot be streamed"
            )
        self._content: str = settings["content"]
        self._left: int = settings["start"]

    def push(self, piece: str) -> Sequence[str]:
        start = 0
        while self._left and start < len(piece):
            if piece[start] != self._content:
                self._left = 0
                break
            start += 1
            self._left -= 1
        return [piece[start:]]

    def finish(self) -> Sequence[str]:
        return []


def _replace(settings: dict[str, Any]) -> Stage:
    pattern = settings["pattern"]
    wanted = Regex(pattern["Regex"]) if "Regex" in pattern else pattern["String"]
    return _EachAlone(decoders.Replace(wanted, settings["content"]))


def _strip(settings: dict[str, Any]) -> Stage:
    return _EachAlone(
        decoders.Strip(settings["content"], left=settings["start"], right=settings["stop"])
    )


def _metaspace(settings: dict[str, Any]) -> Stage:
    return _FirstDiffers(
        decoders.Metaspace(settings["replacement"], settings["prepend_scheme"], settings["split"])
    )


def _word_piece(settings: dict[str, Any]) -> Stage:
    return _FirstDiffers(decoders.WordPiece(settings["prefix"], settings["cleanup"]))


_STAGES: dict[str, Callable[[dict[str, Any]], Stage]] = {
    "Join": _Join,
    "ByteLevel": _ByteLevel,
    "ByteFallback": _ByteFallback,
    "Fuse": _Fuse,
    "Strip": _strip,
    "Replace": _replace,
    "Metaspace": _metaspace,
    "WordPiece": _word_piece,
}
