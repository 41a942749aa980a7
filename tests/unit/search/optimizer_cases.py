"""What the conformance suite runs every optimizer on; also importable by a fresh process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from search.genome.axes import Axes, Range, build_axes, concat_axes
from search.genome.lineage import lineage_axes, read_lineage
from search.genome.protocol import Flags, Space, Vector
from search.optimizers.cma import Cma, CmaSettings
from search.optimizers.m2n2 import M2n2, M2n2Settings
from search.optimizers.mixed import Mixed
from search.optimizers.nsga2 import Nsga2, Nsga2Settings
from search.optimizers.protocol import Optimizer, Scored
from search.optimizers.random_search import RandomSearch

Evaluate = Callable[[Vector], Scored]
NUM_ITEMS = 24


@dataclass(frozen=True)
class Case:
    """An optimizer, the space it searches, and two functions with a fitness it has to reach.

    goals: after `generations`, the best on (sphere, rosenbrock) must exceed these.
    """

    build: Callable[[int], Optimizer]
    space: Space
    sphere: Evaluate
    rosenbrock: Evaluate
    generations: int
    goals: tuple[float, float]


def box(size: int) -> Axes:
    return build_axes([f"x{i}" for i in range(size)], [Range(-1.0, 2.0, 0.0, 0.5)] * size)


@dataclass(frozen=True)
class MixedSpace:
    """`count` bits, then `count` scales; scale i counts where bit i is on."""

    count: int

    @property
    def axes(self) -> Axes:
        names = [str(i) for i in range(2 * self.count)]
        bits = build_axes(
            names[: self.count], [Range(-1, 1, 0.0, 0.1)] * self.count, is_binary=True
        )
        scales = build_axes(names[self.count :], [Range(0, 2, 1.0, 0.1)] * self.count)
        return concat_axes([bits, scales])

    size = property(lambda self: 2 * self.count)
    lower = property(lambda self: self.axes.lower)
    upper = property(lambda self: self.axes.upper)
    initial = property(lambda self: self.axes.initial)
    sigma = property(lambda self: self.axes.sigma)
    is_binary = property(lambda self: self.axes.is_binary)

    def is_active(self, genotype: Vector) -> Flags:
        return np.concatenate([np.ones(self.count, bool), genotype[: self.count] > 0])


def scored(genotype: Vector, *objectives: float) -> Scored:
    return Scored(genotype, np.array(objectives, dtype=np.float64))


def sphere(x: Vector) -> Scored:
    return scored(x, -float(((x - 0.3) ** 2).sum()))


def rosenbrock(x: Vector) -> Scored:
    return scored(x, -float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()))


def mixed_problem(count: int, seed: int) -> Evaluate:
    """Minus wrong bits minus 4 times the squared error of the scales that count; best is 0."""
    rng = np.random.default_rng(seed)
    bits, goal = rng.random(count) < 0.5, rng.uniform(0.5, 1.5, count)

    def evaluate(x: Vector) -> Scored:
        on = x[:count] > 0
        wrong = float((on != bits).sum())
        return scored(x, -wrong - 4 * float(((x[count:] - goal)[on] ** 2).sum()))

    return evaluate


def zdt1(x: Vector) -> Scored:
    g = 1 + 9 * x[1:].mean()
    return scored(x, -x[0], -g * (1 - np.sqrt(x[0] / g)))


def lineage_items(seed: int) -> Evaluate:
    """Three sources of NUM_ITEMS parameters, each right on its own third; an item is right where
    its parameter exceeds 0.3. Merged like split-slerp, along the chord instead of the arc."""
    return partial(_lineage_items, seed=seed)


def _lineage_items(x: Vector, seed: int) -> Scored:
    rng = np.random.default_rng(seed)
    thetas = [rng.normal(0, 0.1, NUM_ITEMS) for _ in range(3)]
    for index, theta in enumerate(thetas):
        theta[index::3] += 1.0
    lineage = read_lineage(x, 3)
    for row in lineage.rows:
        t = np.where(np.arange(NUM_ITEMS) < row.split * NUM_ITEMS, row.t, 1 - row.t)
        thetas.append((1 - t) * thetas[row.first] + t * thetas[row.second])
    items = (thetas[lineage.root] > 0.3).astype(np.float64)
    return Scored(x, np.array([items.mean()]), items)


SIX, MIXED = box(6), MixedSpace(6)
LINEAGES = lineage_axes(3, 16)

CASES: dict[str, Case] = {
    "cma full": Case(
        lambda seed: Cma(SIX, seed, CmaSettings(covariance="full")),
        SIX,
        sphere,
        rosenbrock,
        150,
        (-1e-9, -4.0),
    ),
    "cma separable": Case(
        lambda seed: Cma(SIX, seed, CmaSettings(covariance="separable")),
        SIX,
        sphere,
        rosenbrock,
        150,
        (-1e-9, -5.0),
    ),
    "cma restarts": Case(
        lambda seed: Cma(SIX, seed, CmaSettings(restarts=2)),
        SIX,
        sphere,
        rosenbrock,
        150,
        (-1e-9, -4.0),
    ),
    "cma on bits": Case(
        lambda seed: Cma(MIXED, seed),
        MIXED,
        mixed_problem(6, 0),
        mixed_problem(6, 1),
        80,
        (-0.1, -0.1),
    ),
    "mixed on reals": Case(
        lambda seed: Mixed(SIX, seed), SIX, sphere, rosenbrock, 150, (-1e-6, -5.0)
    ),
    "mixed": Case(
        lambda seed: Mixed(MIXED, seed),
        MIXED,
        mixed_problem(6, 0),
        mixed_problem(6, 1),
        80,
        (-1e-3, -1e-3),
    ),
    "nsga2": Case(
        lambda seed: Nsga2(SIX, seed, Nsga2Settings(num_objectives=1, population=20)),
        SIX,
        sphere,
        rosenbrock,
        60,
        (-0.01, -10.0),
    ),
    "nsga2 mixed": Case(
        lambda seed: Nsga2(MIXED, seed, Nsga2Settings(num_objectives=1, population=20)),
        MIXED,
        mixed_problem(6, 0),
        mixed_problem(6, 1),
        60,
        (-0.1, -0.1),
    ),
    "random": Case(lambda seed: RandomSearch(SIX, seed), SIX, sphere, rosenbrock, 60, (-1.5, -90)),
    "m2n2": Case(
        lambda seed: M2n2(LINEAGES, 3, seed, M2n2Settings(archive=8)),
        LINEAGES,
        lineage_items(1),
        lineage_items(2),
        60,
        (0.6, 0.6),
    ),
}


def run(optimizer: Optimizer, evaluate: Evaluate, generations: int) -> list[list[Scored]]:
    """The scored generations."""
    history = []
    for _ in range(generations):
        if optimizer.is_done():
            break
        history.append([evaluate(x) for x in optimizer.ask()])
        optimizer.tell(history[-1])
    return history


def fingerprint(generations: Sequence[Sequence[Scored]]) -> str:
    """The bits of all genotypes."""
    return b"".join(s.genotype.tobytes() for g in generations for s in g).hex()


def best(generations: Sequence[Sequence[Scored]]) -> float:
    return max(float(s.objectives[0]) for g in generations for s in g)
