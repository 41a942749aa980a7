"""Random search: the baseline that needs no fitness."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.genome.protocol import Space, Vector
from search.optimizers.generation import (
    check_binary,
    check_told,
    on_probability,
    place,
    read_objectives,
)
from search.optimizers.protocol import Scored
from search.optimizers.state import pack_state, signature, unpack_state

_KIND = "random 1"


@dataclass(frozen=True)
class RandomSettings:
    """population: genotypes per generation."""

    population: int = 16


class RandomSearch:
    """An `Optimizer`: uniform within the bounds (normal around the start where there are none);
    a binary dimension is on with the probability of its start."""

    def __init__(self, space: Space, seed: int, settings: RandomSettings | None = None) -> None:
        check_binary(space)
        self._space = space
        self._settings = settings or RandomSettings()
        if self._settings.population < 1:
            raise ValueError(f"population {self._settings.population} must be at least 1")
        self._signed = signature(space, seed, self._settings)
        self._rng = np.random.default_rng(seed)
        self._asked: list[Vector] = []

    def ask(self) -> Sequence[Vector]:
        """Independent draws."""
        if not self._asked:
            space = self._space
            shape = (self._settings.population, space.size)
            is_bounded = np.isfinite(space.lower) & np.isfinite(space.upper)
            low, high = np.where(is_bounded, (space.lower, space.upper), ((0.0,), (1.0,)))
            uniform = self._rng.uniform(low, high, shape)
            normal = space.initial + space.sigma * self._rng.standard_normal(shape)
            is_on = self._rng.random(shape) < on_probability(space)
            self._asked = list(place(space, np.where(is_bounded, uniform, normal), is_on))
        return [x.copy() for x in self._asked]

    def tell(self, generation: Sequence[Scored]) -> None:
        """Only checked: the next draws do not depend on it."""
        check_told(self._asked, generation)
        read_objectives(generation)
        self._asked = []

    def state(self) -> bytes:
        """See `Optimizer`."""
        return pack_state(_KIND, self._signed, (self._rng, self._asked))

    def restore(self, state: bytes) -> None:
        """See `Optimizer`."""
        payload: Any = unpack_state(_KIND, self._signed, state)
        self._rng, self._asked = payload

    def is_done(self) -> bool:
        """Never."""
        return False

    def mean(self) -> Vector | None:
        """It has none."""
        return None
