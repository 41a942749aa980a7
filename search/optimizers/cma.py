"""CMA-ES through the `cma` package: full or separable, bounds, IPOP restarts.

Fitness is negated here, once: cma minimises. Binary dimensions are real numbers with a threshold,
as in the paper; see `mixed` for the alternative.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import cma
import numpy as np
from numpy.random import Generator

from search.genome.protocol import Space, Vector
from search.optimizers.generation import check_told, read_fitness
from search.optimizers.protocol import Scored
from search.optimizers.state import pack_state, signature, unpack_state

MAX_FULL = 300
"""Up to this many dimensions `auto` keeps the full covariance matrix."""


@dataclass(frozen=True)
class CmaSettings:
    """population: 4 + floor(3 ln n) if None; restarts: how often to start again with twice the
    population once converged (IPOP, Auger and Hansen 2005)."""

    population: int | None = None
    covariance: Literal["auto", "full", "separable"] = "auto"
    restarts: int = 0


class NormalSource:
    """Standard normal numbers for cma from a generator of its own, which is part of its state."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng

    def __call__(self, *shape: int) -> Vector:
        """Numbers of this shape."""
        return self.rng.standard_normal(shape)


class Cma:
    """An `Optimizer`."""

    def __init__(self, space: Space, seed: int, settings: CmaSettings | None = None) -> None:
        self._space = space
        self._settings = settings or CmaSettings()
        self._signed = signature(space, seed, self._settings)
        self._kind = f"cma {cma.__version__}"
        self._rng = np.random.default_rng(seed)
        self._stray: dict[str, Any] = np.random.RandomState(seed % 2**32).get_state(legacy=False)
        self._population = self._settings.population or default_population(space.size)
        if self._population < 3:
            raise ValueError(f"population {self._population}: CMA-ES needs at least 3")
        self._restarts = self._settings.restarts
        self._is_done = False
        self._asked: list[Vector] = []
        self._before: bytes | None = None
        with self._own_randomness():
            self._es = self._start(space.initial)

    def ask(self) -> Sequence[Vector]:
        """One generation, within the bounds."""
        if self._before is None:
            # A solution in flight is known to cma by a hash that differs between processes, so
            # the state of a generation is the one before it was asked.
            self._before = self._pack(is_asked=True)
            with self._own_randomness():
                self._asked = self._es.ask()
        return [np.clip(x, self._space.lower, self._space.upper) for x in self._asked]

    def tell(self, generation: Sequence[Scored]) -> None:
        """Update, and start again if converged and restarts are left."""
        check_told(self.ask(), generation)
        fitness = read_fitness(generation, "CMA-ES")
        with self._own_randomness():
            self._es.tell(self._asked, (-fitness).tolist())
            # cma keeps the last generation three times over and never reads it again.
            self._es.ary, self._es.pop_sorted, self._es._tell2_args = [], None, None
            is_stopped = bool(self._es.stop())
            if is_stopped and self._restarts > 0:
                self._restarts -= 1
                self._population *= 2
                self._es = self._start(self._restart_point())
                is_stopped = False
        self._is_done = is_stopped
        self._before = None

    def state(self) -> bytes:
        """See `Optimizer`."""
        return self._before or self._pack(is_asked=False)

    def restore(self, state: bytes) -> None:
        """See `Optimizer`."""
        payload: Any = unpack_state(self._kind, self._signed, state)
        self._es, self._rng, self._stray, self._population, self._restarts = payload[:5]
        self._is_done, is_asked = payload[5:]
        self._before = None
        if is_asked:
            self.ask()

    def is_done(self) -> bool:
        """Has cma stopped, with no restart left?"""
        return self._is_done

    def mean(self) -> Vector | None:
        """The distribution's mean, within the bounds."""
        with self._own_randomness():
            mean = self._es.result.xfavorite
        clipped: Vector = np.clip(mean, self._space.lower, self._space.upper)
        return clipped

    def _start(self, point: Vector) -> Any:
        space = self._space
        sigma = float(np.median(space.sigma))
        is_diagonal = {"auto": space.size > MAX_FULL, "full": False, "separable": True}
        options = {
            "bounds": [_bounds(space.lower), _bounds(space.upper)],
            "CMA_stds": space.sigma / sigma,
            "CMA_diagonal": is_diagonal[self._settings.covariance],
            "popsize": self._population,
            "randn": NormalSource(self._rng),
            "seed": np.nan,
            # Accuracy has plateaus: equal fitness ends a search after 50 generations, not at once.
            "tolflatfitness": 50,
            "tolfun": 0,
            "tolfunhist": 0,
            "verbose": -9,
            "verb_log": 0,
            "verb_disp": 0,
            "signals_filename": "",
        }
        return cma.CMAEvolutionStrategy(point, sigma, options)

    def _restart_point(self) -> Vector:
        """Uniform in the bounds (where a dimension has none: normal around the start)."""
        space = self._space
        is_bounded = np.isfinite(space.lower) & np.isfinite(space.upper)
        low, high = np.where(is_bounded, (space.lower, space.upper), ((0.0,), (1.0,)))
        uniform = self._rng.uniform(low, high)
        normal = space.initial + space.sigma * self._rng.standard_normal(space.size)
        point: Vector = np.where(is_bounded, uniform, np.clip(normal, space.lower, space.upper))
        return point

    def _pack(self, *, is_asked: bool) -> bytes:
        counters = (self._population, self._restarts, self._is_done, is_asked)
        payload = (self._es, self._rng, self._stray, *counters)
        return pack_state(self._kind, self._signed, payload)

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """cma draws a few numbers from numpy's global generator: lend it a state of our own."""
        outside = np.random.get_state(legacy=False)
        np.random.set_state(self._stray)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            self._stray = dict(np.random.get_state(legacy=False))
            np.random.set_state(outside)


def default_population(size: int) -> int:
    """4 + floor(3 ln n): 9 at n = 6."""
    return 4 + int(3 * log(size))


def _bounds(values: Vector) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
