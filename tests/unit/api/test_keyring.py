"""Keys: found by hash, followed as their file changes, never shown."""

import os
from pathlib import Path

import pytest

from evoserve.api.keyring import CHECK_S, Keyring, read_key_file
from evoserve.errors import ConfigError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def write(file: Path, text: str) -> None:
    """Replace a file as a deployment does: written beside it, then renamed."""
    beside = file.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, file)


def test_without_keys_nothing_is_asked_for() -> None:
    keys = Keyring()
    assert keys.is_open
    assert keys.find(b"any") is None


def test_the_setting_and_the_file_both_open(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n\nteam-a: alpha\nbeta\n")
    keys = Keyring("fixed", file)
    assert keys.find(b"fixed") == "default"
    assert keys.find(b"alpha") == "team-a"
    name = keys.find(b"beta")
    assert name is not None
    assert name.startswith("key-")
    assert "beta" not in name
    for wrong in (b"", b"team-a", b"team-a:alpha", b"alpha ", b"ALPHA", b"# ours"):
        assert keys.find(wrong) is None


def test_a_changed_file_is_followed(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text("old\n")
    keys = Keyring(None, file, clock)
    write(file, "new1\n")
    assert keys.find(b"old") is not None  # not looked at yet
    clock.now += CHECK_S
    assert keys.find(b"old") is None
    assert keys.find(b"new1") is not None
    file.unlink()
    clock.now += CHECK_S
    assert keys.find(b"new1") is not None  # away is not empty
    write(file, "a:\n")
    clock.now += CHECK_S
    assert keys.find(b"new1") is not None  # nor is wrong
    write(file, "# nobody\n")
    clock.now += CHECK_S
    assert keys.find(b"new1") is None
    assert not keys.is_open


def test_a_file_of_another_system_is_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbfalpha\r\nteam: beta \r\n\r\n")
    keys = Keyring(None, file)
    assert keys.find(b"alpha") is not None
    assert keys.find(b"beta") == "team"


@pytest.mark.parametrize("text", ["", "# only\n", "name:\n", ":key\n"])
def test_a_wrong_file_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Keyring(None, file)
    assert "keys" in str(caught.value)
    assert "only" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Keyring(None, tmp_path / "none")
    with pytest.raises(ConfigError):
        read_key_file(tmp_path)
