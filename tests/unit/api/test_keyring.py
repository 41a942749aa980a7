"""Keys: found by hash, followed as their file changes, never shown."""

import errno
import logging
import os
from collections.abc import Callable
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


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [each.message for each in caplog.records if each.levelno == logging.ERROR]


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
    assert keys.find(b"new1") is not None  # nor is emptied
    write(file, "new2\n")
    clock.now += CHECK_S
    assert keys.find(b"new1") is None
    assert keys.find(b"new2") is not None


def test_a_file_that_could_not_be_read_once_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text("revoked\n")
    keys = Keyring(None, file, clock)
    write(file, "new\n")

    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", fail)
        for _ in range(3):
            clock.now += CHECK_S
            assert keys.find(b"revoked") is not None
    assert len(errors()) == 1
    assert "Too many open files" in errors()[0]
    clock.now += CHECK_S
    assert keys.find(b"revoked") is None
    assert keys.find(b"new") is not None


def test_an_error_is_told_again_only_after_it_was_gone(
    tmp_path: Path, errors: Callable[[], list[str]]
) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text("one\n")
    keys = Keyring(None, file, clock)
    for text, num_told in (("", 1), ("", 1), ("a:\n", 2), ("a:\n", 2), ("b\n", 2), ("", 3)):
        write(file, text)
        clock.now += CHECK_S
        keys.find(b"one")
        assert len(errors()) == num_told


def test_a_file_rewritten_in_place_is_noticed_by_more_than_size_and_time(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text("old\n")
    before = file.stat()
    keys = Keyring(None, file, clock)
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # the file system's clock has steps
        file.write_text("new\n")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    clock.now += CHECK_S
    assert keys.find(b"old") is None
    assert keys.find(b"new") is not None


def test_a_line_is_split_at_its_first_colon(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("team-a:sk:12:34\nsk:56\n")
    keys = Keyring(None, file)
    assert keys.find(b"sk:12:34") == "team-a"
    assert keys.find(b"34") is keys.find(b"12:34") is None
    assert keys.find(b"sk:56") is None  # a key with a colon needs a name
    assert keys.find(b"56") == "sk"


def test_one_key_in_two_rings_is_refused_by_its_names(tmp_path: Path) -> None:
    users, admins = tmp_path / "users", tmp_path / "admins"
    users.write_text("ann:same\n")
    admins.write_text("root:same\n")
    for one, other in [
        (Keyring("same"), Keyring("same")),
        (Keyring("same"), Keyring(None, admins)),
        (Keyring(None, users), Keyring("same")),
        (Keyring(None, users), Keyring(None, admins)),
    ]:
        with pytest.raises(ConfigError, match="the same: '") as caught:
            one.keep_apart(other)
        assert "'same'" not in str(caught.value)


def test_a_file_that_would_make_users_admins_is_not_followed(
    tmp_path: Path, errors: Callable[[], list[str]]
) -> None:
    users, admins, clock = tmp_path / "users", tmp_path / "admins", Clock()
    users.write_text("ann:one\n")
    admins.write_text("root:two\n")
    keys, admin_keys = Keyring(None, users, clock), Keyring(None, admins, clock)
    keys.keep_apart(admin_keys)
    for file, text in ((admins, "root:one\n"), (users, "ann:two\n")):
        before = file.read_text()
        write(file, text)
        for asked in (keys, admin_keys, keys):
            clock.now += CHECK_S
            asked.find(b"any")
        assert (keys.find(b"one"), keys.find(b"two")) == ("ann", None)
        assert (admin_keys.find(b"one"), admin_keys.find(b"two")) == (None, "root")
        write(file, before)
        clock.now += CHECK_S
        keys.find(b"any")
    assert len(errors()) == 2


def test_two_files_may_change_places(tmp_path: Path) -> None:
    users, admins, clock = tmp_path / "users", tmp_path / "admins", Clock()
    users.write_text("ann:one\n")
    admins.write_text("root:two\n")
    keys, admin_keys = Keyring(None, users, clock), Keyring(None, admins, clock)
    keys.keep_apart(admin_keys)
    write(users, "ann:two\n")
    write(admins, "root:one\n")
    clock.now += CHECK_S
    assert (keys.find(b"one"), keys.find(b"two")) == (None, "ann")
    assert (admin_keys.find(b"one"), admin_keys.find(b"two")) == ("root", None)


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
