"""The indicator vector of data-flow space and the path it stands for.

Paper 2403.13187, section 3.2: all layers in order (A's, then B's, ...), repeated r times, make
T = M * r slots; slot t is layer t mod M and is on the path if I_t > 0.

A's first layer is forced as the first step: slot 0 is on whatever its indicator. A's last layer is
forced as the last step: it is appended unless the last slot that is on holds it already. If the
path would exceed `max_hops`, the first `max_hops` - 1 steps and A's last layer are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evoserve.manifest.refs import LayerRef
from search.genome.protocol import Flags


@dataclass(frozen=True)
class Slots:
    """The layers of the pool, how often they are laid out, and how long a path may be.

    layers: all M of them, A's first; num_first: how many are A's; repeats: r.
    """

    layers: tuple[LayerRef, ...]
    num_first: int
    repeats: int
    max_hops: int

    @property
    def count(self) -> int:
        """T = M * r."""
        return len(self.layers) * self.repeats

    @property
    def last(self) -> int:
        """A's last layer, as an index into `layers`."""
        return self.num_first - 1

    def layer(self, slot: int) -> int:
        """The layer at a slot, as an index into `layers`."""
        return slot % len(self.layers)

    def body(self, is_on: Flags) -> list[int]:
        """The slots of all steps but the last, which is always A's last layer.

        is_on: (T,); the result ascends and starts with slot 0, or is empty if A's one layer is the
        whole path.
        """
        included = self._included(is_on)
        if self.layer(included[-1]) == self.last:
            included.pop()
        return included[: self.max_hops - 1]

    def path(self, body: Sequence[int]) -> list[int]:
        """All steps, as indices into `layers`."""
        return [*(self.layer(slot) for slot in body), self.last]

    def is_active(self, is_on: Flags) -> Flags:
        """Which indicators count (T,): changing all others at once leaves the path as it is."""
        active = np.ones(self.count, dtype=bool)
        active[0] = False
        included = self._included(is_on)
        limit = self.max_hops - 1
        if len(included) < limit:
            tail = self._tail(included)
            active[tail] = False
        elif self.layer(included[limit - 1]) != self.last:
            active[included[limit - 1] + 1 :] = False
        return active

    def find(self, path: Sequence[int]) -> Flags:
        """Indicators (T,) whose path is `path` (indices into `layers`, as `path` gives them).

        Each step takes the earliest slot after the one before. Raises ValueError if there is none.
        """
        is_on = np.zeros(self.count, dtype=bool)
        slot = -1
        for layer in path[:-1]:
            slot = self._next(slot, layer)
            is_on[slot] = True
        if len(path) > 1 and path[-2] == self.last:
            self._close(is_on, slot, is_full=len(path) == self.max_hops)
        return is_on

    def _included(self, is_on: Flags) -> list[int]:
        found: list[int] = np.flatnonzero(is_on[1:]).tolist()
        return [0, *(slot + 1 for slot in found)]

    def _tail(self, included: Sequence[int]) -> list[int]:
        """The one slot of A's last layer that stands in for the forced end, if any.

        Such slots after every other slot that is on: where none is on, turning on the first one
        changes nothing; where one is on, turning it off changes nothing.
        """
        others = [slot for slot in included if self.layer(slot) != self.last]
        if not others:
            return []
        after = others[-1]
        on = [slot for slot in included if slot > after]
        if len(on) > 1:
            return []
        return on or self._last_slots(after)[:1]

    def _last_slots(self, after: int) -> list[int]:
        return [slot for slot in range(after + 1, self.count) if self.layer(slot) == self.last]

    def _next(self, slot: int, layer: int) -> int:
        found = slot + 1 + (layer - slot - 1) % len(self.layers)
        if found >= self.count:
            raise ValueError(f"the path needs more than {self.repeats} repetitions")
        return found

    def _close(self, is_on: Flags, slot: int, *, is_full: bool) -> None:
        """The step before the last is A's last layer too: mark that it is not the end itself."""
        closing = self._last_slots(slot)[:1] or ([slot + 1] if is_full else [])
        if not closing or closing[0] >= self.count:
            raise ValueError(f"the path needs more than {self.repeats} repetitions")
        is_on[closing[0]] = True


def repeat_layers(models: Sequence[tuple[str, int]]) -> tuple[LayerRef, ...]:
    """All layers of (model, layer count) in order."""
    return tuple(LayerRef(model, layer) for model, count in models for layer in range(count))
