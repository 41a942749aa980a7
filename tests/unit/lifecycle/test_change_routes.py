"""What the routes that change recipes and aliases answer when a change cannot be made."""

import httpx
import pytest

from evoserve.api.app import create_app
from evoserve.lifecycle.book import RecipeState
from evoserve.lifecycle.store import StateStore


def client(parts) -> httpx.AsyncClient:
    app = create_app(parts.settings, parts.engine, parts.registry, parts.lifecycle)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


@pytest.mark.parametrize(
    ("name", "recipe", "status"), [("prod", "nothing", 404), ("a..%20", "mini-ties", 400)]
)
async def test_a_wrong_alias_is_refused_although_nobody_waits(
    lab, name: str, recipe: str, status: int
) -> None:
    async with lab() as parts, client(parts) as http:
        await parts.register("ties")
        answer = await http.put(f"/v1/aliases/{name}?wait=false", json={"recipe": recipe})
        assert answer.status_code == status
        right = await http.put("/v1/aliases/prod?wait=false", json={"recipe": "mini-ties"})
        assert right.status_code == 202


async def test_a_failed_recipe_is_answered_with_when_to_try_again(lab) -> None:
    async with lab() as parts, client(parts) as http:
        (model_id,) = await parts.register("ties")
        entry = parts.lifecycle.recipes.get(model_id)
        for _ in range(6):
            parts.lifecycle.recipes.set_state(entry, RecipeState.FAILED, "broken")
        answer = await http.post("/v1/completions", json={"model": model_id, "prompt": "1"})
        assert answer.status_code == 503
        assert 20 < int(answer.headers["retry-after"]) <= 32


async def test_a_state_file_that_cannot_be_written_is_503_with_the_reason(lab) -> None:
    store = StateStore()
    async with lab(store) as parts, client(parts) as http:
        await parts.register("ties")
        store._db.execute("PRAGMA query_only = 1")
        answer = await http.post("/v1/recipes/mini-ties/pin")
        assert answer.status_code == 503
        assert "could not be written" in answer.json()["error"]["message"]
        assert (await http.get("/v1/recipes/mini-ties")).json()["pinned"] is False


async def test_a_malformed_manifest_is_told_in_a_sentence(lab) -> None:
    async with lab() as parts, client(parts) as http:
        answer = await http.post("/v1/recipes", json=[])
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("Invalid manifest: ")
