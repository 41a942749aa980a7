"""Remote commands when what answers is wrong, or stops answering: one line, exit code 2."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evoserve.cli.main import main

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command: (exit code, what it said on stderr)."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["evoserve", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capsys.readouterr().err

    return call


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers one connection and closes it: its URL, and what it has heard."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(65536))
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # closed with a body unread, it would be reset
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
        thread.join(10)


HEAD = b"HTTP/1.1 200 OK\r\n"
ANSWERS = [
    (HEAD + b"Content-Length: 5\r\n\r\n<html", "no EvoServe server"),
    (HEAD + b"Content-Length: 50\r\n\r\n{", "broken off"),
    (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno", "HTTP 502"),
    (b"", "no server answers"),
    (b"SSH-2.0-x\r\n", "no server answers"),
]


@pytest.mark.parametrize(("answer", "said"), ANSWERS)
def test_a_wrong_answer_is_one_line(run: Run, answer: bytes, said: str) -> None:
    with answering(answer) as (url, _):
        code, text = run("recipes", "list", "--url", url)
    assert code in (1, 2)
    assert said in text
    assert "Traceback" not in text


def test_events_that_are_none_are_one_line(run: Run) -> None:
    with answering(HEAD + b'\r\ndata: {"state": "ready"}\n\ndata: {"st\n\n') as (url, _):
        code, text = run("recipes", "events", "--url", url)
    assert (code, "no EvoServe server" in text) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recipes", "list", "--url", "ftp://x"], "must begin with http"),
        (["recipes", "list", "--url", "http://[::1"], "--url"),
        (["recipes", "list", "--url", "http://a b"], "--url"),
        (["recipes", "list", "--url", "http://127.0.0.1:1", "--api-key", "\u20ac"], "--api-key"),
        (["aliases", "set", "x", "r=heavy"], "r=heavy"),
    ],
)
def test_what_cannot_be_sent_is_named(run: Run, arguments: list[str], said: str) -> None:
    code, text = run(*arguments)
    assert (code, said in text) == (2, True), text


def test_a_manifest_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "none.json"
    code, text = run("recipes", "register", str(file))
    assert code == 2
    assert str(file) in text.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["recipes", "load", "r"], b"POST /v1/recipes/r/load?wait=false "),
        (["aliases", "set", "a", "r"], b"PUT /v1/aliases/a?wait=false "),
    ],
)
def test_no_wait_asks_the_server_to_answer_at_once(
    run: Run, arguments: list[str], wanted: bytes
) -> None:
    body = b'{"id": "x", "state": "changing", "pinned": false, "reason": null}'
    with answering(HEAD + b"\r\n" + body) as (url, heard):
        code, text = run(*arguments, "--no-wait", "--url", url)
    assert code == 0, text
    assert heard[0].startswith(wanted)
