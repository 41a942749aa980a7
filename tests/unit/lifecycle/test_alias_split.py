"""Choosing a recipe of an alias: shares follow weights, a key stays, a change moves few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoserve.errors import RequestError
from evoserve.lifecycle.aliases import check_alias_name
from evoserve.lifecycle.split import Target, check_targets, choose

NAMES = ["a@0", "b@1", "c@2", "d@3"]
KEYS = [f"user-{number}" for number in range(4000)]
WEIGHTS = st.lists(st.floats(0.05, 20), min_size=2, max_size=4)


def targets_of(weights: list[float]) -> list[Target]:
    return [Target(name, weight) for name, weight in zip(NAMES, weights, strict=False)]


def shares(targets: list[Target]) -> dict[str, float]:
    chosen = [choose("prod", targets, key) for key in KEYS]
    return {target.model_id: chosen.count(target.model_id) / len(KEYS) for target in targets}


@pytest.mark.parametrize("weights", [[1, 1], [99, 1], [1, 2, 3], [0.5, 0.25, 0.25, 0]])
def test_shares_are_the_weights(weights: list[float]) -> None:
    found = shares(targets_of(weights))
    for target in targets_of(weights):
        wanted = target.weight / sum(weights)
        margin = 4 * (wanted * (1 - wanted) / len(KEYS)) ** 0.5  # four standard deviations
        assert abs(found[target.model_id] - wanted) <= margin


@given(WEIGHTS, st.integers(0, 3), st.floats(1.0, 10), st.text(max_size=8))
def test_a_larger_weight_takes_keys_and_gives_none(
    weights: list[float], index: int, factor: float, key: str
) -> None:
    before = targets_of(weights)
    index %= len(before)
    after = list(before)
    after[index] = Target(before[index].model_id, before[index].weight * factor)
    old, new = choose("prod", before, key), choose("prod", after, key)
    assert new in (old, after[index].model_id)


@given(WEIGHTS, st.text(max_size=8), st.randoms())
def test_the_order_of_targets_does_not_matter(weights: list[float], key: str, rng) -> None:
    targets = targets_of(weights)
    shuffled = list(targets)
    rng.shuffle(shuffled)
    assert choose("prod", targets, key) == choose("prod", shuffled, key)


@given(st.text(max_size=8))
def test_one_target_takes_all_and_weight_0_nothing(key: str) -> None:
    assert choose("prod", [Target("a@0", 3)], key) == "a@0"
    assert choose("prod", [Target("a@0", 0), Target("b@1", 1e-6)], key) == "b@1"


def test_aliases_split_independently() -> None:
    targets = targets_of([1, 1])
    same = sum(choose("x", targets, key) == choose("y", targets, key) for key in KEYS)
    assert 0.45 < same / len(KEYS) < 0.55


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        ([], "1 to 16"),
        ([Target(f"r@{number}") for number in range(17)], "1 to 16"),
        ([Target("a@0", -1)], "-1"),
        ([Target("a@0", float("nan"))], "nan"),
        ([Target("a@0"), Target("a@0")], "twice"),
        ([Target("a@0", 0), Target("b@1", 0)], "All weights are 0"),
    ],
)
def test_bad_targets_are_refused(targets: list[Target], named: str) -> None:
    with pytest.raises(RequestError, match=named):
        check_targets(targets)


@pytest.mark.parametrize(
    "name", ["a/../b", "a/..", "a/./b", "a//b", "tr/", "", "/a", ".a", "a" * 129]
)
def test_a_name_that_a_path_could_not_carry_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="Invalid alias"):
        check_alias_name(name)


@pytest.mark.parametrize("name", ["a", "team/prod", "v1.2", "a/..b", "a" * 128])
def test_names_of_parts_are_aliases(name: str) -> None:
    check_alias_name(name)
