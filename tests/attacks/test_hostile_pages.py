"""What a web page could make a browser send to a server on loopback that has no admin key."""

import pytest

from tests.attack_lab import Target, read_to_end

PATHS = ("/v1/recipes", "/v1/aliases", "/nowhere", "/live", "/")
GUARDED = PATHS[:2]
HOSTS = [
    b"[", b"[::1", b"x]", b"[zz]", b"", b"127.0.0.1:abc", b"127.0.0.1#", b"127.0.0.1@evil",
    b"evil@127.0.0.1", b"127.0.0.1.", b"2130706433", b"a\xff", b"\xe2\x84\x80.com", b"evil.example",
    b"127.0.0.1:8000\r\nHost: evil.example", b"localhost.evil.example", b"127.0.0.1:99999999",
]  # fmt: skip
ORIGINS = [b"[", b"http://[", b"http://[::1", b"null", b"", b"http://evil.example", b"file://"]


def ask(target: Target, path: str, host: bytes, *lines: bytes) -> bytes:
    """The first bytes of the answer to a GET with these header lines."""
    head = [b"GET %s HTTP/1.1" % path.encode(), b"Host: " + host, b"Connection: close", *lines]
    with target.connect() as sock:
        sock.sendall(b"\r\n".join(head) + b"\r\n\r\n")
        return read_to_end(sock)[:12]


@pytest.mark.parametrize("host", HOSTS)
def test_a_hostile_host_changes_nothing_and_breaks_nothing(keyless, host: bytes) -> None:
    for path in PATHS:
        expected = b"403" if path in GUARDED else b"404" if path == "/nowhere" else b"200"
        assert ask(keyless, path, host) == b"HTTP/1.1 " + expected, path


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_hostile_origin_changes_nothing(keyless, origin: bytes) -> None:
    host = f"127.0.0.1:{keyless.port}".encode()
    for path in GUARDED:
        assert ask(keyless, path, host, b"Origin: " + origin) == b"HTTP/1.1 403"
        assert ask(keyless, path, host, b"Origin: http://" + host) == b"HTTP/1.1 200"


def test_without_a_host_nothing_is_changed(keyless) -> None:
    with keyless.connect() as sock:
        sock.sendall(b"GET /v1/recipes HTTP/1.0\r\n\r\n")
        assert read_to_end(sock).startswith(b"HTTP/1.1 403")
