"""The table `[executor]` of a search: where candidates are scored, and how many at once."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from evoserve.manifest.parts import StrictModel, Word

_Positive = Annotated[int, Field(ge=1)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ExecutorConfig(StrictModel):
    """Not part of a run's terms: scores do not depend on it.

    workers: processes or Ray actors; in_flight: candidates in memory at once, per worker. Of Ray:
    address (default: a cluster of its own on this machine; `auto` joins a running one), num_cpus
    and num_gpus that each worker reserves.
    """

    kind: Literal["inprocess", "processes", "ray"] = "inprocess"
    workers: _Positive | None = None
    in_flight: _Positive = 2
    address: Word | None = None
    num_cpus: _Amount | None = None
    num_gpus: _Amount | None = None

    @model_validator(mode="after")
    def _check(self) -> "ExecutorConfig":
        if self.kind == "inprocess" and self.workers is not None:
            raise ValueError("workers: kind 'inprocess' has none; use 'processes' or 'ray'")
        if self.kind != "inprocess" and self.workers is None:
            raise ValueError(f"kind '{self.kind}' needs workers, how many of them")
        for key in ("address", "num_cpus", "num_gpus"):
            if self.kind != "ray" and getattr(self, key) is not None:
                raise ValueError(f"{key} belongs to kind 'ray'")
        return self
