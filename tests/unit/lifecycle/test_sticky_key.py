"""The key that keeps a client on one recipe."""

import httpx
import pytest
from starlette.requests import Request

from evoserve.api.app import create_app
from evoserve.api.routes import _sticky
from evoserve.api.schemas import CompletionBody
from evoserve.lifecycle.split import Target


@pytest.mark.parametrize(
    ("header", "user", "key"),
    [(None, "", None), ("", "", None), (None, "u", "u"), ("h", "u", "h"), ("", "u", "u")],
)
def test_an_empty_key_is_none(header: str | None, user: str, key: str | None) -> None:
    headers = [] if header is None else [(b"x-evoserve-sticky", header.encode())]
    request = Request({"type": "http", "headers": headers})
    assert _sticky(request, CompletionBody(model="m", prompt="a", user=user)) == key
    assert _sticky(request) == (header or None)


async def test_tokenizing_keeps_to_the_recipe_of_the_key_and_names_it(lab) -> None:
    async with lab() as parts:
        await parts.register("ties", "slerp")
        targets = [Target("mini-ties"), Target("mini-slerp")]
        await parts.lifecycle.set_alias("prod", targets)
        app = create_app(parts.settings, parts.engine, parts.registry, parts.lifecycle)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            for key in "abcdefgh":
                sticky = {"x-evoserve-sticky": key}
                wanted = await parts.ask("prod", key)
                for path, given in (
                    ("/tokenize", {"prompt": "1"}),
                    ("/detokenize", {"tokens": [1]}),
                ):
                    body = {"model": "prod", **given}
                    answer = await http.post(path, json=body, headers=sticky)
                    assert answer.headers["x-evoserve-recipe"] == wanted
