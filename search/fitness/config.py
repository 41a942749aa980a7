"""The `[fitness]` and `[validation]` tables of a search's config; foreign keys are refused."""

from typing import Annotated, Literal

from pydantic import Field

from evoserve.manifest.parts import Name, StrictModel

Count = Annotated[int, Field(ge=1)]


class FullConfig(StrictModel):
    """Every item of every task."""

    kind: Literal["full"] = "full"


class MinibatchConfig(StrictModel):
    """size: items of each task that a generation is asked."""

    kind: Literal["minibatch"]
    size: Count


class RacingConfig(StrictModel):
    """chunk: items (of all tasks together) between two looks; confidence: that no better candidate
    is dropped, each by itself; keep: share of the generation that a look never drops."""

    kind: Literal["racing"]
    chunk: Count = 50
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    keep: Annotated[float, Field(ge=0, le=1)] = 0.5


class IrtConfig(StrictModel):
    """size: anchors of each task; calibrate: generations asked in full; refresh: every so many
    generations the best estimate is asked in full; dimensions: of an ability."""

    kind: Literal["irt"]
    size: Count
    calibrate: Count = 2
    refresh: Count = 1
    dimensions: Annotated[int, Field(ge=1, le=8)] = 2


FitnessConfig = Annotated[
    FullConfig | MinibatchConfig | RacingConfig | IrtConfig, Field(discriminator="kind")
]


class ValidationConfig(StrictModel):
    """task: a task without objective that tells the generations' best ones apart."""

    task: Name
