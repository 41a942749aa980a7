"""The keys that open the API: from a setting or a file that may change, held as hashes only."""

import hashlib
import hmac
import logging
import os
import time
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from evoserve.errors import ConfigError

CHECK_S = 1.0  # how soon a changed file is noticed
MAX_FILE_BYTES = 2**20

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Content:
    """What a file held when its stamp was taken."""

    stamp: tuple[int, ...]
    names: Mapping[bytes, str]


class Keyring:
    """Names of keys by the SHA-256 of the key.

    The file has a key on each line, or `name:key`, split at the first colon; empty lines and those
    that begin with `#` are passed over. A nameless key is called by the first digits of its hash.
    """

    def __init__(
        self,
        key: str | None = None,
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        name: str = "default",
    ) -> None:
        """Reads the file; `name` is that of `key`.

        Raises ConfigError if the file cannot be read, is wrong or holds no key.
        """
        self._fixed = {} if key is None else {_digest(key.encode()): name}
        self._file = file
        self._clock = clock
        self._checked_s = clock()
        self._content = _Content((), {}) if file is None else _read(file)
        self._others: tuple[Keyring, ...] = ()
        self._told: set[str] = set()

    @property
    def is_open(self) -> bool:
        """Is no key configured, so that none is asked for?"""
        return self._file is None and not self._fixed

    def keep_apart(self, other: "Keyring") -> None:
        """No key is to be in both: files that would make it so are not followed.

        Raises ConfigError if one is in both already.
        """
        _check_apart([self._names(self._content), other._names(other._content)])
        self._others, other._others = (other,), (self,)

    def find(self, given: bytes) -> str | None:
        """The name of a key, None if it is none; the time does not tell how close it was."""
        self._follow()
        digest, found = _digest(given), None
        for keys in (self._fixed, self._content.names):
            for known, name in keys.items():
                if hmac.compare_digest(known, digest):
                    found = name
        return found

    def _follow(self) -> None:
        """Follow the files; the last keys stay while one is away or wrong, or both share a key."""
        now = self._clock()
        if now - self._checked_s < CHECK_S:
            return
        rings, errors = (self, *self._others), set[str]()
        contents = [ring._latest(errors) for ring in rings]
        try:
            _check_apart([ring._names(new) for ring, new in zip(rings, contents, strict=True)])
        except ConfigError as error:
            errors.add(str(error))
            contents = [ring._content for ring in rings]
        for text in sorted(errors - self._told):
            _LOG.error("the last keys stay in use: %s", text)
        for ring, content in zip(rings, contents, strict=True):
            ring._checked_s, ring._told = now, errors
            ring._take(content)

    def _latest(self, errors: set[str]) -> _Content:
        """The file as it is now; what is held, if it has not changed or cannot be used."""
        try:
            if self._file is None or _stamp(self._file) == self._content.stamp:
                return self._content
            return _read(self._file)
        except ConfigError as error:
            errors.add(str(error))
            return self._content

    def _take(self, content: _Content) -> None:
        if content is not self._content:
            self._content = content
            _LOG.info("key file read again: %d keys", len(content.names))

    def _names(self, content: _Content) -> dict[bytes, str]:
        return {**self._fixed, **content.names}


def read_key_file(file: Path) -> dict[bytes, str]:
    """Names by hash, at least one. Raises ConfigError, which never repeats what a line says."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"key file {file}: {error.strerror or error}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"key file {file} is larger than {MAX_FILE_BYTES} bytes")
    keys: dict[bytes, str] = {}
    for number, line in enumerate(raw.removeprefix(BOM_UTF8).splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith(b"#"):
            continue
        name, separator, key = stripped.partition(b":")
        if not separator:
            name, key = b"", stripped
        elif not name.strip() or not key:
            raise ConfigError(f"key file {file}, line {number}: must be KEY or NAME:KEY")
        digest = _digest(key.strip())
        keys[digest] = name.decode("utf-8", "replace").strip() or f"key-{digest.hex()[:8]}"
    if not keys:
        raise ConfigError(f"key file {file} holds no key")
    return keys


def _read(file: Path) -> _Content:
    """The stamp is the older of the two, so that a change in between is seen the next time."""
    return _Content(_stamp(file), read_key_file(file))


def _check_apart(rings: Sequence[Mapping[bytes, str]]) -> None:
    """Raises ConfigError, which tells names only, for a key that is in two of them."""
    for one, other in combinations(rings, 2):
        for digest in one.keys() & other.keys():
            names = " and ".join(sorted(f"'{each[digest]}'" for each in (one, other)))
            raise ConfigError(f"an API key and an admin key are the same: {names}")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise ConfigError(f"key file {file}: {error.strerror or error}") from None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
