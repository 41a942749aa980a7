"""Bounds are wrong as rarely as they say, and racing drops the hopeless only."""

import numpy as np
import pytest
from fitness_lab import Lab
from hypothesis import given, settings
from hypothesis import strategies as st

from search.fitness.bounds import (
    hoeffding_serfling_bound,
    hypergeometric_bound,
    sure_bound,
    upper_bound,
)
from search.fitness.config import RacingConfig
from search.tasks.item import Metric


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.data())
def test_the_sure_bound_is_never_wrong(scores: list[float], data: st.DataObject) -> None:
    seen = data.draw(st.integers(1, len(scores)))
    bound = sure_bound(np.array(scores[:seen]), len(scores))
    assert bound >= np.mean(scores) - 1e-12
    if seen == len(scores):
        assert bound == np.mean(scores)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(5, 120),
    st.floats(0, 1),
    st.floats(0.02, 0.3),
    st.booleans(),
    st.integers(0, 2**31 - 1),
)
def test_the_bounds_hold_as_often_as_they_say(
    count: int, share: float, risk: float, is_binary: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.5, 0.5, count) if not is_binary else np.zeros(count)
    if is_binary:
        scores[: round(share * count)] = 1
    seen = int(rng.integers(1, count + 1))
    wrong = sum(
        upper_bound(rng.permutation(scores)[:seen], count, risk, is_binary=is_binary)
        < np.mean(scores) - 1e-12
        for _ in range(200)
    )
    # 200 draws of a coin that falls wrong with `risk`: five standard deviations above it.
    assert wrong <= 200 * risk + 5 * np.sqrt(200 * risk * (1 - risk))


def test_the_exact_bound_is_the_textbook_s_and_the_tighter_one() -> None:
    # 0 of 10 seen of 20: with M ones the chance is C(20-M, 10)/C(20, 10); > 0.05 up to M = 3.
    assert hypergeometric_bound(0, 10, 20, 0.05) == 3 / 20
    for right in range(11):
        scores = np.array([1.0] * right + [0.0] * (10 - right))
        loose = min(1.0, hoeffding_serfling_bound(scores, 20, 0.05))
        assert hypergeometric_bound(right, 10, 20, 0.05) <= loose + 1e-12


@pytest.mark.parametrize("metric", ["exact_number", "rouge_l"])
def test_a_better_candidate_is_dropped_no_more_often_than_the_confidence_allows(
    metric: Metric,
) -> None:
    config = RacingConfig(kind="racing", chunk=10, confidence=0.8, keep=0.0)
    better = dropped_better = dropped = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        if metric == "rouge_l":
            table = rng.beta(1, 1 + rng.random((24, 1)), (24, 60))
        else:
            table = (rng.random((24, 60)) < 0.3 + 0.3 * rng.random((24, 1))).astype(float)
        lab = Lab(table, (60,), 10, metric)
        samples = lab.run(lab.build(config, lab.executor()))
        incumbent = lab.table[:10].mean(axis=1).max()
        for position in range(10):
            is_dropped = bool(np.isnan(samples[1][position].items).any())
            is_better = lab.table[10 + position].mean() > incumbent
            dropped += is_dropped
            better += is_better
            dropped_better += is_dropped and is_better
    assert better > 20
    assert dropped > 50
    assert dropped_better <= 0.2 * better


def test_the_kept_are_asked_everything_and_a_drop_stays_below_the_incumbent() -> None:
    rng = np.random.default_rng(0)
    # The first generation is far better than all that come after it.
    shares = np.repeat([0.9, 0.1], [14, 20])[:, None]
    lab = Lab((rng.random((34, 80)) < shares).astype(float), (80,), 10)
    for keep, kept in ((0.0, 0), (0.25, 3), (0.5, 5)):
        config = RacingConfig(kind="racing", chunk=20, keep=keep)
        samples = lab.run(lab.build(config, lab.executor()))
        incumbent = max(float(one.means[0]) for one in samples[0].values())
        for later in samples[1:]:
            whole = [one for one in later.values() if not np.isnan(one.items).any()]
            assert len(whole) == kept
            assert all(float(one.means[0]) < incumbent for one in later.values())
