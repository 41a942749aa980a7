"""Built weights by key, counted by the models that use them: equal layers are held once."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from evoserve.model.layer import LayerWeights
from evoserve.model.linear import Table

Weight = LayerWeights | Table | torch.Tensor


class WeightStore:
    """All weights of a process; safe to use from several threads.

    A key names a value: whoever asks for a key that is there shares it, and two who ask for a
    missing one at the same time build it once. A value goes when its last user releases it.
    """

    def __init__(self) -> None:
        self._weights: dict[str, Weight] = {}
        self._users: Counter[str] = Counter()
        self._pending: set[str] = set()
        self._changed = threading.Condition()

    def acquire(
        self, keys: Iterable[str], build: Callable[[Sequence[str]], Mapping[str, Weight]]
    ) -> "Lease":
        """Use every one of `keys` once; `build` makes those that nobody has.

        If `build` raises, nothing stays held. Others who wait for the same keys then build them
        themselves.
        """
        wanted = dict.fromkeys(keys)
        held: list[str] = []
        try:
            while len(held) < len(wanted):
                missing = self._claim([key for key in wanted if key not in held], held)
                if missing:
                    self._build(missing, build, held)
        except BaseException:
            self.release(held)
            raise
        return Lease(self, tuple(wanted))

    def get(self, key: str) -> Weight:
        """The value of a key that the caller holds."""
        with self._changed:
            return self._weights[key]

    def release(self, keys: Iterable[str]) -> None:
        """Give back one use of each key."""
        with self._changed:
            for key in keys:
                self._users[key] -= 1
                if self._users[key] == 0:
                    del self._users[key], self._weights[key]

    def users(self) -> dict[str, int]:
        """How many leases hold each key."""
        with self._changed:
            return dict(self._users)

    @property
    def num_bytes(self) -> int:
        """Bytes of everything held, shared weights counted once."""
        with self._changed:
            return sum(weight_bytes(weight) for weight in self._weights.values())

    def _claim(self, wanted: Sequence[str], held: list[str]) -> list[str]:
        """Take what is there (into `held`) and return what to build; wait if others build it all.

        Nobody waits while owing a key to others, so builders cannot wait for each other.
        """
        with self._changed:
            ready = [key for key in wanted if key in self._weights]
            self._users.update(ready)
            held.extend(ready)
            missing = [
                key for key in wanted if key not in self._weights and key not in self._pending
            ]
            self._pending.update(missing)
            if not ready and not missing:
                self._changed.wait()
            return missing

    def _build(
        self,
        missing: Sequence[str],
        build: Callable[[Sequence[str]], Mapping[str, Weight]],
        held: list[str],
    ) -> None:
        built: Mapping[str, Weight] = {}
        try:
            built = build(missing)
        finally:
            with self._changed:
                self._pending.difference_update(missing)
                self._weights.update(built)
                self._users.update(built.keys())
                held.extend(built)
                self._changed.notify_all()


@dataclass(eq=False)
class Lease:
    """One model's hold on its keys; releasing it twice is harmless."""

    store: WeightStore
    keys: tuple[str, ...]
    is_released: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes of what it holds, whoever shares it."""
        return sum(weight_bytes(self.get(key)) for key in self.keys)

    def get(self, key: str) -> Weight:
        """The weight of one of the keys."""
        return self.store.get(key)

    def release(self) -> None:
        """Give the keys back, once."""
        if not self.is_released:
            self.is_released = True
            self.store.release(self.keys)


def weight_bytes(weight: Weight) -> int:
    """Bytes of a tensor, a table or a layer."""
    return weight.nbytes if isinstance(weight, torch.Tensor) else weight.num_bytes
