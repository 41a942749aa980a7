"""The item response model against tables that were drawn from one."""

import numpy as np
from fitness_lab import Lab, logistic_table

from search.fitness.config import IrtConfig, MinibatchConfig
from search.fitness.item_model import choose_anchors, fit_items


def errors(lab: Lab, config: IrtConfig | MinibatchConfig, first: int) -> np.ndarray:
    """Of the means of the generations from `first` on, where not everything was asked."""
    samples = lab.run(lab.build(config, lab.executor()))
    found = []
    for generation in range(first, lab.num_generations):
        for position, one in samples[generation].items():
            if np.isnan(one.items).any():
                truth = lab.table[generation * lab.population + position].mean()
                found.append(float(one.means[0]) - truth)
    return np.array(found)


def test_estimates_beat_the_plain_mean_of_as_many_items() -> None:
    estimated, plain = [], []
    for seed in range(5):
        lab = Lab(logistic_table(4 + 8 * 9, 100, seed, rise=0.0), (100,), 9)
        estimated.append(np.abs(errors(lab, IrtConfig(kind="irt", size=20), 2)).mean())
        plain.append(np.abs(errors(lab, MinibatchConfig(kind="minibatch", size=20), 2)).mean())
    assert np.mean(estimated) < 0.8 * np.mean(plain)


def test_abilities_follow_the_means_and_come_back_from_some_items() -> None:
    table = logistic_table(60, 80, 7)
    model, abilities = fit_items(table, 1)
    order = np.corrcoef(abilities[:, 0], table.mean(axis=1))[0, 1]
    assert order > 0.95
    part = table.copy()
    part[:, 40:] = np.nan
    again = model.abilities(part)
    assert np.corrcoef(abilities[:, 0], again[:, 0])[0, 1] > 0.9
    nobody = model.abilities(np.full((1, 80), np.nan))
    assert np.allclose(nobody, 0)


def test_anchors_are_distinct_and_within_their_tasks() -> None:
    table = logistic_table(30, 70, 3)
    for dimensions in (1, 3):
        model, abilities = fit_items(table, dimensions)
        first, second = choose_anchors(model, abilities, [60, 10], 12)
        assert len(set(first.tolist())) == 12
        assert first.max() < 60
        assert second.tolist() == list(range(10))


def test_items_that_all_or_none_solve_break_nothing() -> None:
    table = np.zeros((20, 30))
    table[:, :10] = 1
    lab = Lab(np.vstack([table, table[:4]]), (30,), 5)
    samples = lab.run(lab.build(IrtConfig(kind="irt", size=5), lab.executor()))
    means = [float(one.means[0]) for generation in samples for one in generation.values()]
    assert np.allclose(means, 1 / 3, atol=0.05)
