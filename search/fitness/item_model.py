"""Item response theory in numpy: P(model m solves item i) = sigmoid(a_i . theta_m + b_i).

The two-parameter logistic model (2PL; with several dimensions M2PL, Reckase 2009), fitted as MAP
by turns: items given abilities, abilities given items, each a small ridge-penalised logistic
regression. Scores between 0 and 1 count as fractions of a success. Everything is deterministic.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Priors: abilities N(0, 1); the first slope N(1, 1), for a general ability; others N(0, 1).
_OFFSET_PRECISION = 1 / 9
_ROUNDS = 40
_STEPS = 4


@dataclass(frozen=True, eq=False)
class ItemModel:
    """slopes: (num_items, num_dimensions); offsets: (num_items,), minus the difficulty."""

    slopes: Array
    offsets: Array

    def probabilities(self, abilities: Array) -> Array:
        """(num_models, num_items) for abilities (num_models, num_dimensions)."""
        return _sigmoid(abilities @ self.slopes.T + self.offsets)

    def abilities(self, responses: Array) -> Array:
        """MAP of (num_models, num_dimensions); responses (num_models, num_items), NaN unasked."""
        precision = np.ones(self.slopes.shape[1])
        start = np.zeros((len(responses), self.slopes.shape[1]))
        return _regress(
            self.slopes, self.offsets, responses, (np.zeros_like(precision), precision), start, 25
        )


def fit_items(responses: Array, num_dimensions: int) -> tuple[ItemModel, Array]:
    """Items and abilities of responses (num_models, num_items), all asked."""
    count = responses.shape[1]
    abilities = _start(responses, num_dimensions)
    mean = np.zeros(num_dimensions + 1)
    mean[0] = 1.0
    precision = np.ones(num_dimensions + 1)
    precision[-1] = _OFFSET_PRECISION
    items = np.tile(mean, (count, 1))
    none = (np.zeros(num_dimensions), np.ones(num_dimensions))
    for _ in range(_ROUNDS):
        design = np.column_stack([abilities, np.ones(len(abilities))])
        zero = np.zeros(len(abilities))
        items = _regress(design, zero, responses.T, (mean, precision), items, _STEPS)
        slopes, offsets = items[:, :-1], items[:, -1]
        abilities = _regress(slopes, offsets, responses, none, abilities, _STEPS)
    return ItemModel(items[:, :-1], items[:, -1]), abilities


def choose_anchors(
    model: ItemModel, abilities: Array, counts: list[int], size: int
) -> list[Indices]:
    """Up to `size` ascending items of each task; counts: the tasks' items, in a row.

    Greedy: each next item is the one that most lowers the variance of the predicted sum of all
    items, averaged over the abilities: what it tells of an ability (Laplace) and its own chance.
    """
    chance = model.probabilities(abilities)
    weight = chance * (1 - chance)
    slope = weight @ model.slopes
    dimensions = model.slopes.shape[1]
    covariance = np.tile(np.eye(dimensions), (len(abilities), 1, 1))
    task_of = np.repeat(np.arange(len(counts)), counts)
    left = np.array([min(size, count) for count in counts])
    is_chosen = np.zeros(len(task_of), dtype=bool)
    while left.any():
        moved = np.einsum("mde,ie->mid", covariance, model.slopes)
        spread = 1 + weight * np.einsum("mid,id->mi", moved, model.slopes)
        gain = weight * np.einsum("mid,md->mi", moved, slope) ** 2 / spread + weight
        value = np.where(is_chosen | (left[task_of] == 0), -np.inf, gain.mean(axis=0))
        best = int(np.argmax(value))
        is_chosen[best] = True
        left[task_of[best]] -= 1
        ratio = (weight[:, best] / spread[:, best])[:, None, None]
        covariance = covariance - ratio * np.einsum("md,me->mde", moved[:, best], moved[:, best])
    starts = np.cumsum([0, *counts])
    return [np.flatnonzero(is_chosen[start:stop]) for start, stop in pairwise(starts)]


def _start(responses: Array, num_dimensions: int) -> Array:
    """Standardised means, then the main directions of what they leave unexplained."""
    means = responses.mean(axis=1)
    first = (means - means.mean()) / (means.std() + 1e-9)
    start = np.zeros((len(responses), num_dimensions))
    start[:, 0] = first
    centred = responses - responses.mean(axis=0)
    rest = centred - np.outer(first, first @ centred) / len(first)
    left, sizes, _ = np.linalg.svd(rest, full_matrices=False)
    for number in range(1, min(num_dimensions, int((sizes > 1e-9).sum()) + 1)):
        column = left[:, number - 1]
        start[:, number] = column / (column.std() + 1e-9)
    return start


def _regress(
    design: Array,
    offsets: Array,
    responses: Array,
    prior: tuple[Array, Array],
    start: Array,
    steps: int,
) -> Array:
    """Newton steps of logistic regressions that share a design (num_points, num_coefficients).

    responses: (num_problems, num_points), NaN unasked; prior: mean and precision of the
    coefficients; start: (num_problems, num_coefficients).
    """
    mean, precision = prior
    is_known = ~np.isnan(responses)
    known = np.where(is_known, responses, 0.0)
    found = start.copy()
    for _ in range(steps):
        chance = _sigmoid(found @ design.T + offsets)
        gradient = (is_known * (known - chance)) @ design - precision * (found - mean)
        weight = is_known * chance * (1 - chance)
        curvature = np.einsum("pn,ni,nj->pij", weight, design, design, optimize=True)
        curvature = curvature + np.diag(precision)
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        # A full Newton step of a logistic loss can overshoot far from its end.
        length = np.linalg.norm(step, axis=1, keepdims=True)
        found = found + step * np.minimum(1.0, 3.0 / np.maximum(length, 1e-12))
    return found


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))
