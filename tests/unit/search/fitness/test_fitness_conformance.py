"""What every fitness holds to, whatever it asks: one suite over all kinds."""

import numpy as np
import pytest
from fitness_lab import KINDS, Lab, logistic_table

from search.fitness.config import FitnessConfig, IrtConfig, MinibatchConfig, RacingConfig
from search.fitness.protocol import Sample

Samples = list[dict[int, Sample]]


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab(logistic_table(4 + 6 * 8, 60, 1), (40, 20), 8)


def same(first: Samples, second: Samples) -> bool:
    return all(
        one[position].items.tobytes() == two[position].items.tobytes()
        and one[position].means.tobytes() == two[position].means.tobytes()
        for one, two in zip(first, second, strict=True)
        for position in range(len(one))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_answers_do_not_depend_on_who_is_done_first(lab: Lab, kind: str) -> None:
    runs = [lab.run(lab.build(KINDS[kind], lab.executor(order))) for order in (None, 1, 2)]
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_who_learns_the_stored_generations_again_goes_on_alike(
    lab: Lab, kind: str, cut: int
) -> None:
    whole = lab.run(lab.build(KINDS[kind], lab.executor()))
    resumed = lab.build(KINDS[kind], lab.executor(3))
    for generation in range(cut):
        resumed.learn(lab.learned(generation, whole[generation]))
    again = dict(resumed.score(cut, lab.recipes(cut)))
    assert same([again], [whole[cut]])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_hold_what_was_asked_and_nothing_else(lab: Lab, kind: str) -> None:
    executor = lab.executor()
    samples = lab.run(lab.build(KINDS[kind], executor))
    rows = np.stack([one[position].items for one in samples for position in sorted(one)])
    is_asked = ~np.isnan(rows)
    truth = lab.table[: len(rows)]
    assert (rows[is_asked] == truth[is_asked]).all()
    of_sources = 4 * 60 if kind.startswith("irt") else 0
    assert executor.num_asked == is_asked.sum() + of_sources
    if kind == "full":
        assert is_asked.all()
    else:
        assert not is_asked.all()
    means = np.stack([one[position].means for one in samples for position in sorted(one)])
    assert ((means >= 0) & (means <= 1)).all()


@pytest.mark.parametrize(
    "config",
    [
        MinibatchConfig(kind="minibatch", size=40),
        RacingConfig(kind="racing", keep=1.0),
        RacingConfig(kind="racing", chunk=60),
        IrtConfig(kind="irt", size=40),
        IrtConfig(kind="irt", size=1, calibrate=6),
    ],
)
def test_asking_everything_is_the_plain_fitness(lab: Lab, config: FitnessConfig) -> None:
    plain = lab.run(lab.build(KINDS["full"], lab.executor()))
    assert same(lab.run(lab.build(config, lab.executor(1))), plain)


def test_a_batch_is_new_in_every_generation_and_the_same_for_all(lab: Lab) -> None:
    samples = lab.run(lab.build(KINDS["minibatch"], lab.executor()))
    batches = [
        {np.isnan(one.items).tobytes() for one in generation.values()} for generation in samples
    ]
    assert all(len(batch) == 1 for batch in batches)
    assert len(set.union(*batches)) == len(batches)
    first = ~np.isnan(samples[0][0].items)
    assert (first[:40].sum(), first[40:].sum()) == (9, 9)
