"""NSGA-II (Deb et al. 2002) through pymoo, for real and binary dimensions in one vector.

Real dimensions cross by SBX and mutate by polynomial mutation, binary ones cross uniformly and
flip: pymoo's own operators, each on its columns. Objectives are negated here, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.indicators.hv import HV
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.mutation.pm import PM

from search.genome.protocol import Flags, Space, Vector
from search.optimizers.generation import (
    check_binary,
    check_told,
    place,
    read_objectives,
    sample_start,
)
from search.optimizers.protocol import Scored
from search.optimizers.state import pack_state, signature, unpack_state

FAILED = -1e30
"""Every objective of a genotype that scored NaN or infinity: all that did not fail dominate it."""


@dataclass(frozen=True)
class Nsga2Settings:
    """population: parents and children per generation; crossover: its probability; eta_crossover,
    eta_mutation: SBX's and polynomial mutation's (pymoo's defaults); spread: sigmas of the first
    generation's real dimensions."""

    num_objectives: int = 2
    population: int = 40
    crossover: float = 0.9
    eta_crossover: float = 15.0
    eta_mutation: float = 20.0
    spread: float = 2.0


@dataclass(frozen=True)
class FrontPoint:
    """A survivor: rank 0 is the non-dominated front; crowding is infinite at its ends."""

    scored: Scored
    rank: int
    crowding: float


class Nsga2:
    """An `Optimizer` of several objectives (or one)."""

    def __init__(self, space: Space, seed: int, settings: Nsga2Settings | None = None) -> None:
        check_binary(space)
        self._space = space
        self._settings = settings or Nsga2Settings()
        if self._settings.population < 4:
            raise ValueError(f"population {self._settings.population}: NSGA-II needs at least 4")
        if not np.isfinite([space.lower, space.upper]).all():
            raise ValueError("NSGA-II needs finite bounds in every dimension")
        self._signed = signature(space, seed, self._settings)
        self._kind = f"nsga2 {version('pymoo')}"
        self._algorithm: Any = _build(space, seed, self._settings)
        self._asked: Any = None

    def ask(self) -> Sequence[Vector]:
        """The first population around the start, then children without duplicates."""
        if self._asked is None:
            self._asked = self._algorithm.ask()
        return [np.array(x, dtype=np.float64) for x in self._asked.get("X")]

    def tell(self, generation: Sequence[Scored]) -> None:
        """Survival of the best of parents and children."""
        check_told(self.ask(), generation)
        values = np.maximum(read_objectives(generation, FAILED), FAILED)
        count = self._settings.num_objectives
        if values.shape[1] != count:
            raise ValueError(f"NSGA-II was set up for {count} objectives, got {values.shape[1]}")
        for individual, row, scored in zip(self._asked, values, generation, strict=True):
            individual.set("F", -row)
            individual.set("earned", (scored.objectives, scored.items))
        self._algorithm.tell(infills=self._asked)
        # The first sample and the children that died would only make the state larger.
        self._algorithm.initialization = self._algorithm.off = None
        self._asked = None

    def front(self) -> list[FrontPoint]:
        """The non-dominated survivors that did not fail, best in the first objective first."""
        points = [point for point in self.survivors() if point.rank == 0]
        return [point for point in points if np.isfinite(point.scored.objectives).all()]

    def survivors(self) -> list[FrontPoint]:
        """The population, by rank, then by the first objective."""
        population = self._algorithm.pop if self._algorithm.is_initialized else ()
        points = [
            FrontPoint(_scored(one), int(one.get("rank")), float(one.get("crowding")))
            for one in population
        ]
        return sorted(points, key=lambda p: (p.rank, -float(np.nan_to_num(p.scored.objectives[0]))))

    def state(self) -> bytes:
        """See `Optimizer`."""
        return pack_state(self._kind, self._signed, (self._algorithm, self._asked))

    def restore(self, state: bytes) -> None:
        """See `Optimizer`."""
        payload: Any = unpack_state(self._kind, self._signed, state)
        self._algorithm, self._asked = payload

    def is_done(self) -> bool:
        """Never, but for a space so small that no new child is left."""
        return self._asked is not None and len(self._asked) == 0

    def mean(self) -> Vector | None:
        """A front has no centre."""
        return None


class MixedCrossover(Crossover):  # type: ignore[misc]
    """SBX on real columns, uniform on binary ones; X: (2, num_matings, size)."""

    def __init__(self, is_binary: Flags, prob: float, eta: float) -> None:
        super().__init__(2, 2, prob=prob)
        self.is_binary = is_binary
        self.real = SBX(prob=1.0, eta=eta)
        self.binary = UniformCrossover(prob=1.0)

    def _do(self, problem: Any, X: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002, N803
        crossed = X.copy()
        for columns, operator in _columns(self.is_binary, self.real, self.binary):
            part = operator._do(_part(problem, columns), X[:, :, columns], **kwargs)
            crossed[:, :, columns] = part
        return crossed


class MixedMutation(Mutation):  # type: ignore[misc]
    """Polynomial mutation of real columns, flips of binary ones, each at rate 1 / size."""

    def __init__(self, is_binary: Flags, eta: float) -> None:
        super().__init__()
        self.is_binary = is_binary
        self.real = PM(eta=eta, prob_var=min(0.5, 1 / len(is_binary)))

    def _do(self, problem: Any, X: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:  # noqa: ARG002, N803
        mutated = X.copy()
        real, binary = ~self.is_binary, self.is_binary
        if real.any():
            part = _part(problem, real)
            mutated[:, real] = self.real._do(part, X[:, real], random_state=random_state)
        flips = random_state.random(X.shape) < min(0.5, 1 / len(binary))
        other = np.where(X > 0, problem.xl, problem.xu)
        return np.where(binary & flips, other, mutated)


def hypervolume(points: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Volume that the points (num_points, num_objectives; higher is better) dominate above
    `reference` (num_objectives,); points not above it add nothing."""
    above = np.asarray(points, dtype=np.float64)
    above = above[(above > reference).all(axis=1)] if above.size else above
    if not len(above):
        return 0.0
    return float(HV(ref_point=-np.asarray(reference, dtype=np.float64))(-above))


def _build(space: Space, seed: int, settings: Nsga2Settings) -> Any:
    start = sample_start(space, settings.population, np.random.default_rng(seed), settings.spread)
    start[0] = place(space, space.initial, space.initial > 0)
    algorithm = NSGA2(
        pop_size=settings.population,
        sampling=start,
        crossover=MixedCrossover(space.is_binary, settings.crossover, settings.eta_crossover),
        mutation=MixedMutation(space.is_binary, settings.eta_mutation),
        seed=seed,
    )
    problem = Problem(
        n_var=space.size, n_obj=settings.num_objectives, xl=space.lower, xu=space.upper
    )
    algorithm.setup(problem, termination=NoTermination())
    return algorithm


def _scored(individual: Any) -> Scored:
    objectives, items = individual.get("earned")
    return Scored(np.array(individual.get("X"), dtype=np.float64), objectives, items)


def _columns(is_binary: Flags, real: Any, binary: Any) -> list[tuple[Flags, Any]]:
    both = [(~is_binary, real), (is_binary, binary)]
    return [(columns, operator) for columns, operator in both if columns.any()]


def _part(problem: Any, columns: Flags) -> Problem:
    lower, upper = problem.xl[columns], problem.xu[columns]
    return Problem(n_var=len(lower), n_obj=problem.n_obj, xl=lower, xu=upper)
