"""Which of an alias's recipes a request gets: by weight, and the same one for the same key."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from evoserve.errors import RequestError

MAX_TARGETS = 16
MAX_WEIGHT = 1e6


@dataclass(frozen=True)
class Target:
    """A recipe and its share of an alias's requests, relative to the other targets'."""

    model_id: str
    weight: float = 1.0


def check_targets(targets: Sequence[Target]) -> None:
    """Raises RequestError unless there are 1 to 16 distinct recipes and some weight is not 0."""
    if not 1 <= len(targets) <= MAX_TARGETS:
        message = f"An alias has 1 to {MAX_TARGETS} targets (got {len(targets)})."
        raise RequestError(message, param="targets", code="invalid_value")
    for index, target in enumerate(targets):
        if not 0 <= target.weight <= MAX_WEIGHT:  # a NaN is caught, too
            message = f"Invalid weight {target.weight}: must be from 0 to {MAX_WEIGHT:g}."
            param = f"targets[{index}].weight"
            raise RequestError(message, param=param, code="invalid_value")
        if target.model_id in [each.model_id for each in targets[:index]]:
            message = f"Recipe '{target.model_id}' is a target twice; add its weights up."
            raise RequestError(message, param=f"targets[{index}].recipe", code="invalid_value")
    if not any(target.weight for target in targets):
        message = "All weights are 0: no request could be answered."
        raise RequestError(message, param="targets", code="invalid_value")


def choose(alias: str, targets: Sequence[Target], key: str) -> str:
    """The model id that `key` gets of `alias`.

    Weighted rendezvous hashing (Schindelhauer & Schomaker 2005): over keys, each target gets its
    weight's share; raising one weight moves keys to that target and nowhere else, so a canary that
    grows keeps the users it has. A target of weight 0 gets nothing.
    """
    if len(targets) == 1:
        return targets[0].model_id
    _, model_id = min((_distance(alias, target, key), target.model_id) for target in targets)
    return model_id


def _distance(alias: str, target: Target, key: str) -> float:
    """An exponential variate of rate `weight`; the smallest of several wins by weight's share."""
    if target.weight == 0:
        return math.inf
    digest = hashlib.blake2b(
        "\0".join((alias, target.model_id, key)).encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()
    uniform = (int.from_bytes(digest, "little") + 1) / (2**64 + 1)
    return -math.log(uniform) / target.weight
