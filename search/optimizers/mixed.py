"""Mixed binary and real search: flips drawn as flips, scales adapted only where they count.

One natural-gradient step per generation (information-geometric optimization, Ollivier et al.,
1106.3708) on a product of independent distributions:

- Bernoulli for each binary dimension, whose step is PBIL's; its probability keeps a margin of
  1 / (population * num_binary) from 0 and 1, after CMA-ES with margin (Hamano et al., 2205.13482),
  so that on average one bit per generation still flips at the end;
- a normal with a step size of its own for each real dimension, whose step is SNES's (Schaul et
  al., GECCO 2011). An individual in which the dimension is inactive (a scale off the path) says
  nothing of it and is left out of its step, after the conditional scales of 2605.12326.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np

from search.genome.protocol import Flags, Space, Vector
from search.optimizers.generation import (
    check_binary,
    check_told,
    on_probability,
    place,
    read_fitness,
)
from search.optimizers.protocol import Scored
from search.optimizers.state import pack_state, signature, unpack_state

_KIND = "mixed 1"
_CONVERGED = 1e-9


@dataclass(frozen=True)
class MixedSettings:
    """population: 4 + floor(3 ln n) if None; binary_rate: step of the Bernoulli probabilities,
    min(1/2, mu_eff / (2 sqrt(n))) if None, small enough that chance does not fix bits early."""

    population: int | None = None
    binary_rate: float | None = None


class Mixed:
    """An `Optimizer`."""

    def __init__(self, space: Space, seed: int, settings: MixedSettings | None = None) -> None:
        check_binary(space)
        chosen = settings or MixedSettings()
        self._space = space
        self._settings = chosen
        self._signed = signature(space, seed, chosen)
        self._population = chosen.population or 4 + int(3 * log(space.size))
        if self._population < 2:
            raise ValueError(f"population {self._population}: needs at least 2")
        self._rng = np.random.default_rng(seed)
        self._on = self._keep_margin(np.where(space.is_binary, on_probability(space), 0.5))
        self._mean = space.initial.copy()
        self._sigma = space.sigma.copy()
        self._asked: list[Vector] = []

    def ask(self) -> Sequence[Vector]:
        """One generation: binary dimensions at their bounds, real ones clipped."""
        if not self._asked:
            shape = (self._population, self._space.size)
            is_on = self._rng.random(shape) < self._on
            real = self._mean + self._sigma * self._rng.standard_normal(shape)
            self._asked = list(place(self._space, real, is_on))
        return [x.copy() for x in self._asked]

    def tell(self, generation: Sequence[Scored]) -> None:
        """One natural-gradient step."""
        check_told(self._asked, generation)
        weights = utilities(read_fitness(generation, "mixed search"))[:, None]
        points = np.stack(self._asked)
        active = np.stack([self._space.is_active(x) for x in self._asked])
        self._asked = []
        self._step_binary(weights * active, points > 0)
        self._step_real(weights * active, points, active)

    def state(self) -> bytes:
        """See `Optimizer`."""
        payload = (self._rng, self._on, self._mean, self._sigma, self._asked)
        return pack_state(_KIND, self._signed, payload)

    def restore(self, state: bytes) -> None:
        """See `Optimizer`."""
        payload: Any = unpack_state(_KIND, self._signed, state)
        self._rng, self._on, self._mean, self._sigma, self._asked = payload

    def is_done(self) -> bool:
        """Are all steps a billionth of the first ones, and all bits at the margin?"""
        binary = self._space.is_binary
        at_margin = (self._on <= self._margin) | (self._on >= 1 - self._margin)
        is_small = self._sigma < _CONVERGED * self._space.sigma
        return bool(np.where(binary, at_margin, is_small).all())

    def mean(self) -> Vector | None:
        """Real means; a binary dimension is on if that is the likelier."""
        return place(self._space, self._mean, self._on > 0.5)

    def _step_binary(self, weights: Vector, is_on: Flags) -> None:
        gradient = (weights * (is_on - self._on)).sum(axis=0)
        moved = self._keep_margin(self._on + self._binary_rate * gradient)
        self._on = np.where(self._space.is_binary, moved, self._on)

    def _step_real(self, weights: Vector, points: Vector, active: Flags) -> None:
        real = ~self._space.is_binary
        if not real.any():
            return
        space = self._space
        count = max(1.0, float(active[:, real].sum(axis=1).mean()))
        rate = (3 + log(count)) / (5 * sqrt(count))
        z = (points - self._mean) / self._sigma
        mean = self._mean + self._sigma * (weights * z).sum(axis=0)
        growth = np.exp(rate / 2 * (weights * (z**2 - 1)).sum(axis=0))
        widest = (space.upper - space.lower) / 2
        sigma = np.clip(self._sigma * growth, 1e-12 * space.sigma, widest)
        self._mean = np.where(real, np.clip(mean, space.lower, space.upper), self._mean)
        self._sigma = np.where(real, sigma, self._sigma)

    @property
    def _binary_rate(self) -> float:
        if self._settings.binary_rate is not None:
            return self._settings.binary_rate
        best = utilities(np.arange(self._population, dtype=np.float64))
        effective = 1 / float((np.maximum(best, 0) ** 2).sum())
        return min(0.5, effective / (2 * sqrt(max(1, self._num_binary))))

    @property
    def _num_binary(self) -> int:
        return int(self._space.is_binary.sum())

    @property
    def _margin(self) -> float:
        return min(0.5, 1 / (self._population * max(1, self._num_binary)))

    def _keep_margin(self, on: Vector) -> Vector:
        kept: Vector = np.clip(on, self._margin, 1 - self._margin)
        return kept


def utilities(fitness: Vector) -> Vector:
    """SNES's rank weights (n,), which sum to 0; equal fitness shares them equally."""
    count = len(fitness)
    by_rank = np.maximum(0.0, log(count / 2 + 1) - np.log(np.arange(1, count + 1)))
    by_rank = by_rank / by_rank.sum() - 1 / count
    _, inverse, sizes = np.unique(-fitness, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    sums = np.concatenate([[0.0], np.cumsum(by_rank)])
    shared = (sums[ends] - sums[ends - sizes]) / sizes
    weights: Vector = shared[inverse]
    return weights if len(sizes) > 1 else np.zeros(count)
