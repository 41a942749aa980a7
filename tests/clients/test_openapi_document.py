"""Schemathesis reads our OpenAPI document and asks a live server what no client would.

EVOSERVE_FUZZ_EXAMPLES asks more of each operation than CI does; then the seed is free.
"""

import os

import hypothesis
import pytest
import requests
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given

from evoserve.api.operations import OPERATIONS
from evoserve.api.routes import openai, public

schemathesis = pytest.importorskip("schemathesis", reason="the extra `clients` is not installed")

from schemathesis import checks as all_checks  # noqa: E402
from schemathesis.generation import GenerationMode  # noqa: E402
from schemathesis.specs.openapi import checks as openapi_checks  # noqa: E402

NUM_EXAMPLES = int(os.environ.get("EVOSERVE_FUZZ_EXAMPLES", "0"))
ENDLESS = ("/v1/recipes/events", "get")
CHECKS = [
    all_checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
]
REFUSED = [*CHECKS, openapi_checks.negative_data_rejection]
SETTINGS = hypothesis.settings(
    max_examples=NUM_EXAMPLES or 12,
    derandomize=not NUM_EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(hypothesis.Phase.generate,),
)


@pytest.fixture(scope="module")
def document(server):
    root = server.url.removesuffix("/v1")
    return schemathesis.openapi.from_url(f"{root}/openapi.json")


@pytest.fixture(scope="module")
def session():
    with requests.Session() as session:
        yield session


def affordable(case):
    """The case, of the model that is there, and with numbers that end soon."""
    body = case.body
    if isinstance(body, dict):
        if isinstance(body.get("model"), str) and 1 <= len(body["model"]) <= 512:
            body["model"] = "tiny"
        for name, most in (
            ("max_tokens", 8),
            ("max_completion_tokens", 8),
            ("max_output_tokens", 8),
            ("n", 3),
            ("best_of", 3),
            ("min_tokens", 8),
        ):
            if type(body.get(name)) is int and most < body[name] < 2**31:
                body[name] = most
    return case


@pytest.mark.parametrize(("path", "method"), sorted(set(OPERATIONS) - {ENDLESS}))
def test_right_requests_are_answered_as_documented(document, session, path, method) -> None:
    @SETTINGS
    @given(document[path][method].as_strategy(GenerationMode.POSITIVE))
    def ask(case) -> None:
        affordable(case).call_and_validate(session=session, timeout=60, checks=CHECKS)

    ask()


@pytest.mark.parametrize(
    ("path", "method"), sorted(key for key, each in OPERATIONS.items() if each.body is not None)
)
def test_wrong_requests_are_refused_as_documented(document, session, path, method) -> None:
    @SETTINGS
    @given(document[path][method].as_strategy(GenerationMode.NEGATIVE))
    def ask(case) -> None:
        affordable(case).call_and_validate(session=session, timeout=60, checks=REFUSED)

    ask()


def test_the_life_of_a_recipe_and_its_alias_is_answered_as_documented(document, server) -> None:
    sources = {"base": {"model": str(server.folder)}}
    manifest = {"format": "evoserve/1", "name": "second", "sources": sources}

    def ask(status: int, method: str, path: str, name: str | None = None, **more):
        if name is not None:
            more["path_parameters"] = {"name": name}
        if "body" in more:
            more["media_type"] = "application/json"
        case = document[path][method].Case(**more)
        answer = case.call_and_validate(timeout=60, checks=CHECKS)
        assert answer.status_code == status, answer.text
        return answer.json()

    one, alias = "/v1/recipes/{name}", "/v1/aliases/{name}"
    card = ask(201, "post", "/v1/recipes", body=manifest)
    ask(200, "post", "/v1/recipes", body=manifest)
    ask(202, "post", f"{one}/load", "second", query={"wait": "false"})
    loaded = ask(200, "post", f"{one}/load", "second")
    assert (loaded["id"], loaded["state"]) == (card["id"], "ready")
    ask(200, "put", alias, "canary", body={"recipe": "second"})
    ask(409, "delete", one, "second")
    ask(200, "put", alias, "canary", body={"targets": [{"recipe": "second", "weight": 2}]})
    assert ask(200, "get", alias, "canary")["targets"][0]["weight"] == 2
    assert ask(200, "post", f"{alias}/rollback", "canary")["targets"][0]["weight"] == 1
    assert [each["id"] for each in ask(200, "get", "/v1/aliases")["data"]] == ["canary"]
    assert ask(200, "get", one, "second")["manifest"]["name"] == "second"
    assert card["id"] in [each["id"] for each in ask(200, "get", "/v1/recipes")["data"]]
    assert ask(200, "post", f"{one}/pin", "second")["pinned"] is True
    assert ask(200, "post", f"{one}/unpin", "second")["pinned"] is False
    ask(202, "put", alias, "canary", body={"recipe": "second"}, query={"wait": "false"})
    ask(200, "delete", alias, "canary")
    ask(200, "post", f"{one}/unload", "second")
    assert ask(200, "delete", one, "second")["deleted"] is True
    ask(404, "get", one, "second")


def test_the_endless_stream_of_events_has_its_documented_type(document, server) -> None:
    url = server.url.removesuffix("/v1") + ENDLESS[0]
    with requests.get(url, stream=True, timeout=60) as answer:
        told = document.raw_schema["paths"][ENDLESS[0]]["get"]["responses"]["200"]["content"]
        assert list(told) == [answer.headers["content-type"].partition(";")[0]]
        assert answer.status_code == 200


def test_the_document_names_who_may_ask(document) -> None:
    schemes = document.raw_schema["components"]["securitySchemes"]
    assert {name: each["scheme"] for name, each in schemes.items()} == {
        "apiKey": "bearer",
        "adminKey": "bearer",
    }
    for path, methods in document.raw_schema["paths"].items():
        for told in methods.values():
            named = [name for each in told.get("security", ()) for name in each]
            is_admin = path.startswith(("/v1/recipes", "/v1/aliases"))
            is_open = not path.startswith(("/v1/", "/tokenize", "/detokenize", "/openapi", "/metr"))
            assert named == (["adminKey"] if is_admin else [] if is_open else ["apiKey"]), path


def test_every_route_is_in_the_document_with_its_errors(document) -> None:
    routes = [route for router in (openai, public) for route in router.routes]
    paths = document.raw_schema["paths"]
    for route in routes:
        assert isinstance(route, APIRoute)
        if route.methods == {"HEAD"}:  # of a GET, and without anything of its own
            continue
        for method in route.methods:
            told = paths[route.path_format][method.lower()]
            assert told["responses"]["500"]["content"].keys() == {"application/json"}
            assert "422" not in told["responses"]
