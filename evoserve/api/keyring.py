"""The keys that open the API: from a setting or a file that may change, held as hashes only."""

import hashlib
import hmac
import logging
import os
import time
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from pathlib import Path

from evoserve.errors import ConfigError

CHECK_S = 1.0  # how soon a changed file is noticed
MAX_FILE_BYTES = 2**20

_LOG = logging.getLogger(__name__)


class Keyring:
    """Names of keys by the SHA-256 of the key.

    The file has a key on each line, or `name:key`; empty lines and those that begin with `#` are
    passed over. A nameless key is called by the first digits of its hash.
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
        self._stamp: tuple[int, ...] | None = None
        self._from_file: Mapping[bytes, str] = {}
        self._checked_s = clock()
        if file is not None:
            self._stamp = _stamp(file)
            self._from_file = read_key_file(file)
            if not self._from_file:
                raise ConfigError(f"key file {file} holds no key")

    @property
    def is_open(self) -> bool:
        """Is no key configured, so that none is asked for?"""
        return self._file is None and not self._fixed

    def find(self, given: bytes) -> str | None:
        """The name of a key, None if it is none; the time does not tell how close it was."""
        self._reload()
        digest, found = _digest(given), None
        for keys in (self._fixed, self._from_file):
            for known, name in keys.items():
                if hmac.compare_digest(known, digest):
                    found = name
        return found

    def _reload(self) -> None:
        """Follow the file; while it is away or wrong, the last keys stay."""
        now = self._clock()
        if self._file is None or now - self._checked_s < CHECK_S:
            return
        self._checked_s = now
        try:
            stamp = _stamp(self._file)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._from_file = read_key_file(self._file)
        except ConfigError as error:
            _LOG.error("the last keys stay in use: %s", error)
        else:
            _LOG.info("key file read again: %d keys", len(self._from_file))


def read_key_file(file: Path) -> dict[bytes, str]:
    """Names by hash. Raises ConfigError, which never repeats what a line says."""
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
        name, separator, key = stripped.rpartition(b":")
        if not key or (separator and not name):
            raise ConfigError(f"key file {file}, line {number}: must be KEY or NAME:KEY")
        digest = _digest(key.strip())
        keys[digest] = name.decode("utf-8", "replace").strip() or f"key-{digest.hex()[:8]}"
    return keys


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise ConfigError(f"key file {file}: {error.strerror or error}") from None
    return found.st_mtime_ns, found.st_size, found.st_ino
