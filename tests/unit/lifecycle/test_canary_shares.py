"""What a canary gets of requests that are served: its share without keys, always one with a key."""

import random

import pytest

from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.lifecycle.split import Target

NUM_REQUESTS = 2000


@pytest.mark.parametrize("weights", [(9, 1), (1, 1), (0, 1)])
async def test_requests_without_a_key_are_spread_by_weight(lab, weights: tuple[int, int]) -> None:
    async with lab() as parts:
        ids = await parts.register("ties", "slerp")
        targets = [Target(each, weight) for each, weight in zip(ids, weights, strict=True)]
        lifecycle: Lifecycle = parts.lifecycle
        lifecycle._rng = random.Random(11)
        await lifecycle.set_alias("prod", targets)
        served = []
        for _ in range(NUM_REQUESTS):
            async with lifecycle.hold("prod") as found:
                served.append(found.model_id)
    share = weights[1] / sum(weights)
    margin = 4 * (NUM_REQUESTS * share * (1 - share)) ** 0.5  # four standard deviations
    assert abs(served.count(ids[1]) - NUM_REQUESTS * share) <= margin
