"""Who may change what is served, and what the refusals look like."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from evoserve.api.app import create_app
from evoserve.api.keys import is_loopback
from evoserve.config import Settings
from evoserve.engine.protocol import FinishReason, GenerationRequest, TokenEvent
from evoserve.errors import ConfigError

LOCAL = "http://127.0.0.1:8000"
ROUTES = [
    ("GET", "/v1/recipes"),
    ("POST", "/v1/recipes"),
    ("GET", "/v1/recipes/x"),
    ("GET", "/v1/recipes/events"),
    ("DELETE", "/v1/recipes/x"),
    ("POST", "/v1/recipes/x/load"),
    ("POST", "/v1/recipes/x/unload"),
    ("POST", "/v1/recipes/x/pin"),
    ("POST", "/v1/recipes/x/unpin"),
    ("GET", "/v1/aliases"),
    ("GET", "/v1/aliases/a/b"),
    ("PUT", "/v1/aliases/a/b"),
    ("POST", "/v1/aliases/a/b/rollback"),
    ("DELETE", "/v1/aliases/a/b"),
]


async def say_ok(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
    yield TokenEvent(ord("o"), FinishReason.LENGTH)


@pytest.fixture
def make_client(make_service):
    def make(base_url: str = LOCAL, **settings) -> TestClient:
        service = make_service(say_ok)
        app = create_app(Settings(**settings), service.engine, service.registry)
        return TestClient(app, base_url=base_url, raise_server_exceptions=False)

    return make


def bearer(key: str) -> dict[str, bytes]:
    return {"Authorization": f"Bearer {key}".encode()}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_admin_route_wants_the_admin_key(make_client, method: str, path: str) -> None:
    client = make_client(admin_key="adm\u00efn", api_key="api")
    for headers in ({}, bearer("api"), bearer("wrong")):
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    if not path.endswith("events"):
        answer = client.request(method, path, headers=bearer("adm\u00efn"))
        assert answer.status_code not in (401, 403, 405)
    assert client.get("/v1/models", headers=bearer("adm\u00efn")).status_code == 401


def test_the_keys_of_an_admin_file_open_them(make_client, tmp_path: Path) -> None:
    file = tmp_path / "admins"
    file.write_text("ann:one\nbob:two\n")
    client = make_client(host="0.0.0.0", admin_key_file=file)
    for key, status in (("one", 200), ("two", 200), ("three", 401), ("", 401)):
        assert client.get("/v1/recipes", headers=bearer(key)).status_code == status


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_key_an_open_server_has_no_admin_routes(
    make_client, method: str, path: str
) -> None:
    client = make_client(host="0.0.0.0")
    answer = client.request(method, path)
    assert answer.status_code == 403
    assert "EVOSERVE_ADMIN_KEY" in answer.json()["error"]["message"]
    assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize(
    ("base_url", "headers", "status"),
    [
        (LOCAL, {}, 200),
        ("http://localhost:8000", {}, 200),
        ("http://[::1]:8000", {}, 200),
        (LOCAL, {"Origin": LOCAL}, 200),
        (LOCAL, {"Origin": "http://evil.example"}, 403),
        (LOCAL, {"Origin": "null"}, 403),
        (LOCAL, {"Origin": "http://127.0.0.1:9999"}, 403),
        ("http://evil.example:8000", {}, 403),
    ],
)
def test_on_loopback_only_this_machine_and_its_own_page_may(
    make_client, base_url: str, headers: dict[str, str], status: int
) -> None:
    answer = make_client(base_url).get("/v1/recipes", headers=headers)
    assert answer.status_code == status
    if status != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "host",
    [
        "[", "[::1", "::1", "x]", "[zz]", "[::1]x", "evil@127.0.0.1", "127.0.0.1@evil",
        "127.0.0.1#", "127.0.0.1:abc", "127.0.0.1:", "127.0.0.1:999999", "127.0.0.1/",
        "127.0.0.1, 127.0.0.1", "127.0.0.1 ", "127.0.0.1.", "localhost.", "2130706433", "a\xff", "",
    ],
)  # fmt: skip
def test_a_host_that_is_no_name_or_address_with_a_port_is_refused(make_client, host: str) -> None:
    answer = make_client().get("/v1/recipes", headers={"Host": host.encode("latin-1")})
    assert answer.status_code == 403
    assert "set an admin key" in answer.json()["error"]["message"]
    answer = make_client().get("/nowhere", headers={"Host": host.encode("latin-1")})
    assert answer.status_code == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST", "localhost:1", "[::1]", "[::1]:65535"])
def test_a_host_with_or_without_a_port_may_be_this_machine(make_client, host: str) -> None:
    assert make_client().get("/v1/recipes", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "[", "http://[", "http://[::1", "", "127.0.0.1:8000", "ftp://127.0.0.1:8000", LOCAL + "/",
        "http://evil@127.0.0.1:8000", LOCAL + "#", "http://127.0.0.1",
    ],
)  # fmt: skip
def test_an_origin_that_is_not_the_servers_own_is_refused(make_client, origin: str) -> None:
    assert make_client().get("/v1/recipes", headers={"Origin": origin}).status_code == 403


def test_a_second_host_or_origin_is_not_passed_over(make_client) -> None:
    for name, good, bad in (("Host", "127.0.0.1:8000", "evil"), ("Origin", LOCAL, "http://evil")):
        answer = make_client().get("/v1/recipes", headers=[(name, good), (name, bad)])
        assert answer.status_code == 403


def test_one_key_for_users_and_admins_is_a_config_error(make_client, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("ann:both\n")
    for given in ({"api_key": "both"}, {"api_key_file": file}):
        with pytest.raises(ConfigError, match="admin key"):
            make_client(admin_key="both", **given)


def test_on_loopback_an_api_key_guards_them_too(make_client) -> None:
    client = make_client(api_key="api")
    assert client.get("/v1/recipes").status_code == 401
    assert client.get("/v1/recipes", headers=bearer("api")).status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("GET", "/v1/recipes/absent", None, 404, "recipe"),
        ("DELETE", "/v1/recipes/absent", None, 404, "recipe"),
        ("POST", "/v1/recipes/absent/load", None, 404, "recipe"),
        ("GET", "/v1/aliases/absent", None, 404, "alias"),
        ("DELETE", "/v1/aliases/absent", None, 404, "alias"),
        ("POST", "/v1/aliases/absent/rollback", None, 404, "alias"),
        ("PUT", "/v1/aliases/prod", {"recipe": "absent"}, 404, "recipe"),
        ("PUT", "/v1/aliases/prod", {}, 400, "recipe"),
        ("PUT", "/v1/aliases/prod", {"targets": []}, 400, "targets"),
        ("PUT", "/v1/aliases/prod", {"recipe": "a", "colour": 1}, 400, "colour"),
        ("PUT", "/v1/aliases/prod?wait=maybe", {"recipe": "a"}, 400, "wait"),
        ("POST", "/v1/aliases/prod/rollback", {"version": 0}, 400, "version"),
        ("POST", "/v1/recipes", {"format": "evoserve/1"}, 400, "name"),
        ("POST", "/v1/recipes", [], 400, None),
    ],
)
def test_refusals_name_what_was_wrong(
    make_client, method: str, path: str, body: object, status: int, param: str | None
) -> None:
    answer = make_client().request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_weight_is_refused_by_its_place(make_client) -> None:
    targets = [{"recipe": "a", "weight": -1}]
    answer = make_client().put("/v1/aliases/prod", json={"targets": targets})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "targets[0].weight")


def test_a_body_that_is_no_manifest_is_refused_by_its_type(make_client) -> None:
    client = make_client()
    headers = {"Content-Type": "text/plain"}
    assert client.post("/v1/recipes", content=b"{}", headers=headers).status_code == 415
    headers = {"Content-Type": "application/yaml"}
    answer = client.post("/v1/recipes", content=b"\xff\xfe", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_manifest")
