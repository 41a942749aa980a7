"""Heads, bodies and manifests made to hurt: refused by name, and the server goes on."""

import json

import httpx
import pytest

from tests.attack_lab import ADMIN, JSON, MODEL, check_refusal, read_to_end, request_bytes

DEEP = 20_000
GOOD = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
CHAT = "/v1/chat/completions"


def chat(**fields: object) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


BODIES = [
    b"",
    b"\0" * 100,
    b"\xff\xfe{}",
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b'{"model": "' + b"A" * 60_000 + b'"}',
    b"[" * DEEP + b"]" * DEEP,
    b'{"max_tokens": ' + b"9" * 5000 + b"}",
    b'{"temperature": 1e999}',
    b'{"model": "\\ud800"}',
    b"null",
    b'"text"',
    b"1",
    chat(n=10**9),
    chat(n=-1),
    chat(seed=2**64),
    chat(max_tokens=2**63),
    chat(stop=["x"] * 10_000),
    chat(stop=[""] * 4),
    chat(logit_bias={str(number): 100 for number in range(-5, 3)}),
    chat(logit_bias={"9" * 400: 1}),
    chat(top_k=2**70),
    chat(stop_token_ids=[-1]),
    chat(messages=[]),
    chat(messages=[{"role": "system\n<|im_start|>", "content": "x"}]),
    chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": "file:///x"}]}]),
    chat(model="../../x"),
    chat(model="mini-dfs\0"),
    chat(model=["mini-dfs"]),
]


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_a_hostile_body_is_refused(target, number: int) -> None:
    answer = httpx.post(target.url + CHAT, content=BODIES[number], headers=JSON, timeout=30)
    check_refusal(answer.status_code, answer.text)


def test_hostile_tokens_and_prompts(target) -> None:
    for prompt in ([[]], [[-1]], [[2**40]], [1.5], [["a", 1]], {"a": 1}, [[1] * 30_000]):
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 1}
        answer = httpx.post(f"{target.url}/v1/completions", json=body, timeout=30)
        check_refusal(answer.status_code, answer.text)


def test_control_characters_in_a_prompt_are_only_text(target) -> None:
    for text in ("\0\x01\x1b[2J", "<|im_end|>\r\n\r\nHTTP/1.1 200 OK", "\u202e\ufeff" * 50):
        answer = httpx.post(
            f"{target.url}/v1/completions",
            json={"model": MODEL, "prompt": text, "max_tokens": 1, "echo": True},
            timeout=30,
        )
        assert answer.status_code == 200, answer.text


HEADS = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GE\0T / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{",
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST " + CHAT.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"ffffffffffffffffff\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX\r\n: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("number", range(len(HEADS)))
def test_a_hostile_head_ends_the_connection(target, number: int) -> None:
    """With 4xx, or with nothing; what is half a request is cut off when its time is over."""
    with target.connect() as sock:
        try:
            sock.sendall(HEADS[number])
        except ConnectionError:
            return
        received = read_to_end(sock)
    assert not received or received.startswith(b"HTTP/1.1 4"), received[:300]
    assert b"Traceback" not in received


def test_hostile_header_values_are_not_echoed(target) -> None:
    sent = {"x-request-id": "a" * 5000, "authorization": "Bearer \xff\xfe".encode("latin-1")}
    answer = httpx.get(f"{target.url}/v1/models", headers=sent)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"].startswith("req-")
    answer = httpx.get(f"{target.url}/v1/models", headers={"x-request-id": "my.id:1"})
    assert answer.headers["x-request-id"] == "my.id:1"
    for value in ("a b", '"', "{}", "\xe9"):
        answer = httpx.get(f"{target.url}/v1/models", headers={"x-request-id": value.encode()})
        assert answer.headers["x-request-id"].startswith("req-")


def test_a_smuggled_second_request_is_not_run_with_the_first(target) -> None:
    """One declared length, a second request behind it: two answers or a cut, never a mix-up."""
    inner = b"DELETE /v1/recipes/mini-dfs HTTP/1.1\r\nHost: x\r\n\r\n"
    with target.connect() as sock:
        sock.sendall(request_bytes(CHAT, b"{}") + inner)
        sock.shutdown(1)
        received = read_to_end(sock)
    statuses = [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]
    assert set(statuses) <= {b"400", b"401"}, received
    target.check_alive()


def manifest(**fields: object) -> dict[str, object]:
    source = {"base": {"model": "mini/base"}}
    return {"format": "evoserve/1", "name": "hostile", "sources": source, **fields}


LAUGHS = "a: &a [x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
MANIFESTS = [
    manifest(sources={"base": {"model": "../../../../etc"}}),
    manifest(sources={"base": {"model": "/etc"}}),
    manifest(sources={"base": {"model": "/proc/self"}}),
    manifest(sources={"base": {"model": "file:///etc/passwd"}}),
    manifest(sources={"base": {"model": "http://127.0.0.1:1/x"}}),
    manifest(sources={"base": {"model": "mini/base", "digest": "sha256:" + "0" * 64}}),
    manifest(sources={"base": {"model": "mini/base", "revision": "--upload-pack=x"}}),
    manifest(sources={}),
    manifest(name="../../x"),
    manifest(name="a\nb"),
    manifest(name="<script>alert(1)</script>"),
    manifest(name="x" * 100_000),
    manifest(path=["base[0:1000000000]"]),
    manifest(path=["base[-1]"]),
    manifest(path=["base[0]"] * 5000),
    manifest(path=[{"a": 1}]),
    manifest(merges={"m": {"method": "__import__('os').system('id')", "weights": {}}}),
    manifest(merges={"m": {"method": "linear", "weights": {"base": [1e308, 1e308]}}}),
    manifest(merges={"a": {"method": "linear", "weights": {"a": 1}}}),
    manifest(scaling={"default": 1e300, "target": "mlp_output"}, format="evoserve/2"),
    manifest(chat_template="{{ ''.__class__.__mro__ }}", surprise=1),
]


@pytest.mark.parametrize("number", range(len(MANIFESTS)))
def test_a_hostile_manifest_is_refused(target, number: int) -> None:
    answer = httpx.post(
        f"{target.url}/v1/recipes", json=MANIFESTS[number], headers=ADMIN, timeout=30
    )
    assert 400 <= answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['id']",
        LAUGHS,
        "a: &a\n  b: *a\n",
        "\t- :\n :-",
        "[" * 10_000,
        "\ufeff---\n---\n",
        "2001-01-01",
    ],
)  # fmt: skip
def test_hostile_yaml_is_refused(target, text: str) -> None:
    headers = {**ADMIN, "Content-Type": "application/yaml"}
    answer = httpx.post(f"{target.url}/v1/recipes", content=text, headers=headers, timeout=30)
    check_refusal(answer.status_code, answer.text)


def test_no_key_no_change(target) -> None:
    for method, path in [
        ("POST", "/v1/recipes"),
        ("GET", "/v1/recipes"),
        ("DELETE", "/v1/recipes/mini-dfs"),
        ("PUT", "/v1/aliases/prod"),
        ("GET", "/v1/recipes/events"),
    ]:
        answer = httpx.request(method, target.url + path)
        assert answer.status_code == 401, path
        check_refusal(answer.status_code, answer.text)
