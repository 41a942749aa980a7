"""How far a build is: the bytes of its sources that have been read."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from evoserve.errors import EngineError
from evoserve.sources.checkpoint import TensorInfo, TensorReader
from evoserve.sources.recipe import Recipe


class ReadCounter:
    """Bytes read so far; written by building threads, read by whoever reports progress."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._is_stopped = False

    @property
    def num_bytes(self) -> int:
        """The sum so far."""
        return sum(self._sizes)

    def add(self, num_bytes: int) -> None:
        """Count a tensor; safe from several threads (appending is atomic)."""
        self._sizes.append(num_bytes)

    def stop(self) -> None:
        """Nobody waits for the build any more: it ends before the next tensor."""
        self._is_stopped = True

    def check(self) -> None:
        """Raises EngineError once the build is to end."""
        if self._is_stopped:
            raise EngineError("the build was stopped")


class CountedReader:
    """A reader that counts what is read."""

    def __init__(self, reader: TensorReader, counter: ReadCounter) -> None:
        self._reader = reader
        self._counter = counter

    def names(self) -> Sequence[str]:
        """All names, sorted."""
        return self._reader.names()

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype from the header. Raises SourceError for an unknown name."""
        return self._reader.info(name)

    def read(self, name: str) -> torch.Tensor:
        """The tensor, counted. Raises EngineError once the build is to end."""
        self._counter.check()
        tensor = self._reader.read(name)
        self._counter.add(tensor.nbytes)
        return tensor


def counted(recipe: Recipe, counter: ReadCounter) -> Recipe:
    """The same recipe, telling `counter` what is read of its sources."""
    checkpoints = {
        name: replace(each, tensors=CountedReader(each.tensors, counter))
        for name, each in recipe.checkpoints.items()
    }
    return replace(recipe, checkpoints=checkpoints)
