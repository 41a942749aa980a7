"""The OpenAPI document: complete, of valid references, guarded by the keys."""

import json
import re

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from evoserve.api.app import create_app
from evoserve.api.operations import OPERATIONS
from evoserve.api.schemas import ChatBody
from evoserve.config import Settings
from evoserve.errors import RequestError


async def never(request):
    raise AssertionError
    yield


@pytest.fixture
def make_app(make_service):
    def make(**settings):
        service = make_service(never)
        return create_app(Settings(**settings), service.engine, service.registry)

    return make


def test_it_tells_of_exactly_the_routes_there_are(make_app) -> None:
    document = make_app().openapi()
    told = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert told == set(OPERATIONS)


def test_every_reference_leads_to_a_schema(make_app) -> None:
    document = make_app().openapi()
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert len(names) > 30
    assert names <= set(document["components"]["schemas"])
    assert "#/$defs" not in json.dumps(document)


def test_a_route_without_an_entry_is_an_error(make_app) -> None:
    app, more = make_app(), APIRouter()
    more.add_api_route("/more", lambda: None)
    app.include_router(more)
    with pytest.raises(KeyError, match="/more"):
        app.openapi()


def test_it_wants_the_api_key_and_loads_no_page_of_scripts(make_app) -> None:
    client = TestClient(make_app(api_key="k"))
    assert client.get("/openapi.json").status_code == 401
    answer = client.get("/openapi.json", headers={"Authorization": "Bearer k"})
    assert answer.json()["openapi"].startswith("3.1")
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


@pytest.mark.parametrize(
    ("field", "value", "is_taken"),
    [
        ("service_tier", "auto", True),
        ("service_tier", "flex", False),
        ("modalities", ["text"], True),
        ("modalities", ["audio"], False),
    ],
)
def test_values_that_change_nothing_are_listed_and_taken(field, value, is_taken: bool) -> None:
    told = ChatBody.model_json_schema()["properties"][field]["enum"]
    assert (value in told) is is_taken
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], field: value}
    if is_taken:
        assert ChatBody.model_validate(body)
    else:
        with pytest.raises((ValueError, RequestError)):
            ChatBody.model_validate(body)
