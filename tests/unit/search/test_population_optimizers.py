"""What the optimizers with a population promise: NSGA-II's front, M2N2's archive of lineages."""

import numpy as np
import pytest
from optimizer_cases import (
    MIXED,
    SIX,
    run,
    scored,
    zdt1,
)

from evoserve.manifest.parts import SourceSpec
from search.genome.axes import Range, build_axes
from search.genome.lineage import build_lineage_genome, lineage_axes, read_lineage
from search.genome.pool import Pool
from search.optimizers.build import build_optimizer
from search.optimizers.m2n2 import M2n2, M2n2Settings, share_rewards
from search.optimizers.nsga2 import Nsga2, Nsga2Settings, hypervolume
from search.optimizers.protocol import Scored

SEEDS = (0, 1, 2)


def lone(genotype: np.ndarray, value: float) -> Scored:
    return Scored(genotype, np.array([value]), np.array([value, value]))


class TestNsga2:
    def test_zdt1(self) -> None:
        """The true front dominates 1.1^2 - 1/3 = 0.877 above (-1.1, -1.1)."""
        space = build_axes([f"x{i}" for i in range(30)], [Range()] * 30)
        volumes = []
        for seed in SEEDS:
            optimizer = Nsga2(space, seed, Nsga2Settings(population=40))
            run(optimizer, zdt1, 150)
            front = optimizer.front()
            values = np.stack([point.scored.objectives for point in front])
            volumes.append(hypervolume(values, np.array([-1.1, -1.1])))
            assert len(front) > 20
        assert min(volumes) > 0.83
        assert max(volumes) < 1.21 - 1 / 3

    def test_the_front_is_non_dominated_and_keeps_items(self) -> None:
        optimizer = Nsga2(MIXED, 0, Nsga2Settings(population=12))

        def evaluate(x: np.ndarray) -> Scored:
            on = float((x[:6] > 0).sum())
            values = np.array([on, -on - float(((x[6:] - 1) ** 2).sum())])
            return Scored(x, values, np.array([on, x[6]]))

        run(optimizer, evaluate, 20)
        front = optimizer.front()
        assert front[0].scored.objectives[0] >= front[-1].scored.objectives[0]
        for one in front:
            assert one.rank == 0
            assert one.scored.items.tolist() == [one.scored.objectives[0], one.scored.genotype[6]]
            for other in front:
                better = other.scored.objectives >= one.scored.objectives
                assert not (
                    better.all() and (other.scored.objectives > one.scored.objectives).any()
                )

    def test_failed_individuals_are_not_on_the_front(self) -> None:
        optimizer = Nsga2(SIX, 0, Nsga2Settings(population=8))
        told = [scored(x, np.nan if i % 2 else -5.0, -7.0) for i, x in enumerate(optimizer.ask())]
        optimizer.tell(told)
        assert len(optimizer.front()) == 4
        optimizer.tell([scored(x, np.nan, np.inf) for x in optimizer.ask()])
        assert len(optimizer.front()) == 4

    def test_wrong_number_of_objectives(self) -> None:
        optimizer = Nsga2(SIX, 0)
        with pytest.raises(ValueError, match="set up for 2 objectives, got 1"):
            optimizer.tell([scored(x, 1.0) for x in optimizer.ask()])

    def test_hypervolume(self) -> None:
        points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [1.0, 1.0], [9.0, -1.0]])
        assert hypervolume(points, np.zeros(2)) == pytest.approx(6.0)
        assert hypervolume(points[:0], np.zeros(2)) == 0.0
        assert hypervolume(points[4:], np.zeros(2)) == 0.0


class TestM2n2:
    def test_rare_skills_are_worth_more(self) -> None:
        scores = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        assert share_rewards(scores).sum(axis=1).tolist() == [1.0, 1.0, 1.0]

    def test_sources_come_first_and_lineages_never_outgrow_the_genome(self) -> None:
        for max_merges in (1, 3, 8):
            optimizer = M2n2(lineage_axes(3, max_merges), 3, 0, M2n2Settings(archive=6))
            rng = np.random.default_rng(0)
            sizes = []
            for generation in range(40):
                asked = optimizer.ask()
                lineages = [read_lineage(x, 3) for x in asked]
                if generation == 0:
                    assert [(one.rows, one.root) for one in lineages] == [((), 0), ((), 1), ((), 2)]
                sizes += [len(one.rows) for one in lineages]
                items = [rng.integers(0, 2, 12).astype(np.float64) for _ in asked]
                optimizer.tell(
                    [Scored(x, np.array([i.mean()]), i) for x, i in zip(asked, items, strict=True)]
                )
            assert max(sizes) == max_merges
            assert 0 < len(optimizer.archive()) <= 6

    def test_the_mate_is_strong_where_the_first_is_weak(self) -> None:
        """Source 2 has what source 0 and 1 lack: it is a parent of most children."""
        optimizer = M2n2(lineage_axes(3, 4), 3, 0, M2n2Settings(population=200, mutation=0))
        items = [np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])]
        optimizer.tell(
            [Scored(x, np.array([0.5]), i) for x, i in zip(optimizer.ask(), items, strict=True)]
        )
        rows = [read_lineage(x, 3).rows[0] for x in optimizer.ask()]
        assert all(2 in (row.first, row.second) for row in rows)

    def test_children_decode_to_nested_split_slerp(self) -> None:
        sources = {name: SourceSpec(model=f"mini/{name}") for name in ("ja", "math")}
        pool = Pool("t", sources, {"ja": 4, "math": 4})
        genome = build_lineage_genome(pool, ("ja", "math"), max_merges=8)
        optimizer = build_optimizer("m2n2", genome, 0)
        run(optimizer, lambda x: lone(x, 1.0), 6)
        for genotype in optimizer.ask():
            manifest = genome.decode(genotype)
            assert {merge.method for merge in manifest.merges.values()} <= {"split_slerp"}
            assert genome.decode(genome.encode(manifest)) == manifest
