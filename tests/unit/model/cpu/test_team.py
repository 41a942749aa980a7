"""The threads of a team: equal results, many callers, an orderly end."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import model_lab as lab
import pytest
import torch

from evoserve.model.backend import Backend
from evoserve.model.cpu.path import CpuForward
from evoserve.model.cpu.team import Team
from evoserve.model.placement import Placement
from evoserve.sources.recipe import Recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder: Path = tmp_path_factory.mktemp("team")
    lab.make_checkpoint(folder, seed=3, **lab.FAMILY_CASES["llama"])
    return lab.open_recipe({"a": folder})


def built(recipe: Recipe, team: Team) -> lab.PathModel:
    placement = Placement("cpu", torch.float32, is_packed=True)
    return lab.build(recipe, backend=Backend(placement, lambda parts: CpuForward(parts, team)))


def helpers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("evoserve-cpu-")]


@pytest.mark.parametrize("num_threads", [2, 3, 5])
def test_the_bits_do_not_depend_on_the_number_of_threads(recipe: Recipe, num_threads: int) -> None:
    ids = lab.random_ids(37)
    alone = lab.all_logits(built(recipe, Team(1)), ids)
    team = Team(num_threads)
    for _ in range(20):
        assert torch.equal(lab.all_logits(built(recipe, team), ids), alone)
    team.close()


def test_callers_from_many_threads_take_turns(recipe: Recipe) -> None:
    team = Team(2)
    models = [built(recipe, team) for _ in range(4)]
    prompts = [lab.random_ids(5 + 7 * seed, seed=seed) for seed in range(4)]
    expected = [lab.all_logits(models[0], ids) for ids in prompts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            found = list(pool.map(lab.all_logits, models, prompts))
            assert all(map(torch.equal, found, expected))
    team.close()


def test_a_closed_team_starts_again(recipe: Recipe) -> None:
    team = Team(3)
    model, ids = built(recipe, team), lab.random_ids(9)
    expected = lab.all_logits(model, ids)
    before = len(helpers())
    team.close()
    assert len(helpers()) == before - 2
    team.close()
    assert torch.equal(lab.all_logits(model, ids), expected)
    team.close()


def test_a_forgotten_team_ends_its_threads(recipe: Recipe) -> None:
    team, before = Team(2), helpers()
    lab.all_logits(built(recipe, team), lab.random_ids(3))
    (helper,) = (each for each in helpers() if each not in before)
    del team
    gc.collect()
    helper.join(timeout=30)
    assert not helper.is_alive()
