"""Spherical methods from inner products alone: every result is a linear combination of the inputs.

Inputs are Gram matrices, float64 (K, K, ...); further axes are rows or columns treated apart.
"""

import math

import torch

SLERP_MAX_COS = 0.9995
_MIN_NORM = 1e-8
_NUSLERP_MIN_NORM = 1e-7
_COLLINEAR = 1e-16
_MIN_NORM_PRODUCT = 1e-6
_SINGULAR = 1e-6

Gram = torch.Tensor


def slerp_coefficients(gram: Gram, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the two inputs; linear interpolation where |cos| > 0.9995 or a norm is zero."""
    cos = _cosine(gram, _MIN_NORM, floor=1.0)
    return _arc(cos, t, linear=cos.abs() > SLERP_MAX_COS)


def nuslerp_coefficients(gram: Gram, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the two inputs; linear interpolation only where they are collinear to float64."""
    cos = _cosine(gram, _NUSLERP_MIN_NORM, floor=_NUSLERP_MIN_NORM)
    return _arc(cos, t, linear=1 - cos.square() <= _COLLINEAR)


def model_stock_ratio(gram: Gram) -> torch.Tensor:
    """The ratio t between base (0) and average (1), from the Gram matrix of the task vectors.

    2403.19522 eq. 4 for N models: t = N cos / (1 + (N - 1) cos), cos averaged over pairs; where
    the denominator vanishes the base stays (t = 0).
    """
    count = gram.shape[0]
    norms = torch.stack([gram[i, i].clamp(min=0).sqrt() for i in range(count)])
    cosines = [
        (gram[i, j] / (norms[i] * norms[j]).clamp(min=_MIN_NORM_PRODUCT)).clamp(-1, 1)
        for i in range(count)
        for j in range(i + 1, count)
    ]
    cos = torch.stack(cosines).mean(dim=0)
    denominator = 1 + (count - 1) * cos
    singular = denominator.abs() < _SINGULAR
    safe = torch.where(singular, torch.ones_like(denominator), denominator)
    return torch.where(singular, torch.zeros_like(cos), count * cos / safe)


def karcher_coefficients(
    gram: Gram, weights: tuple[float, ...], max_iter: int, tol: float
) -> tuple[float, ...]:
    """Of all inputs: the weighted Karcher mean of their directions times the mean of their norms.

    gram: (K, K); weights sum to 1. Inputs with a norm below `tol` count for the norm alone. A Gram
    matrix that is not finite makes all coefficients NaN.
    """
    if not bool(torch.isfinite(gram).all()):
        return (math.nan,) * len(weights)
    norms = [math.sqrt(max(0.0, float(gram[i, i]))) for i in range(len(weights))]
    valid = [i for i, norm in enumerate(norms) if norm > tol]
    total = sum(weights[i] for i in valid)
    if not valid or abs(total) < tol:
        return (0.0,) * len(weights)
    alphas = torch.tensor([weights[i] / total for i in valid], dtype=torch.float64)
    scales = torch.tensor([norms[i] for i in valid], dtype=torch.float64)
    unit_gram = gram[valid][:, valid] / (scales[:, None] * scales[None, :])
    mean = _karcher_mean(unit_gram, alphas, max_iter, tol)
    length = sum(weight * norm for weight, norm in zip(weights, norms, strict=True))
    found = dict(zip(valid, (length * mean / scales).tolist(), strict=True))
    return tuple(found.get(i, 0.0) for i in range(len(weights)))


def _karcher_mean(gram: Gram, alphas: torch.Tensor, max_iter: int, tol: float) -> torch.Tensor:
    """Coefficients of the mean over unit vectors with inner products `gram`."""
    mean = alphas / max(_norm(alphas, gram), 1e-300)
    if _norm(alphas, gram) < tol:
        mean = torch.zeros_like(alphas)
        mean[0] = 1.0
    for _ in range(max_iter):
        tangent = _tangent(gram, alphas, mean, tol)
        length = _norm(tangent, gram)
        if length < tol:
            break
        mean = math.cos(length) * mean + math.sin(length) * (tangent / length)
        norm = _norm(mean, gram)
        if norm > tol:
            mean = mean / norm
    return mean


def _tangent(gram: Gram, alphas: torch.Tensor, mean: torch.Tensor, tol: float) -> torch.Tensor:
    """Weighted sum of the logarithms of the units at `mean`; an antipode has none: left out."""
    dots = (gram @ mean).clamp(-1, 1)
    theta = torch.arccos(dots)
    usable = (theta >= tol) & (theta <= math.pi - tol)
    factors = torch.where(usable, alphas * theta / torch.sin(theta), 0.0)
    return factors - (factors * dots).sum() * mean


def _norm(vector: torch.Tensor, gram: Gram) -> float:
    return math.sqrt(max(0.0, float(vector @ gram @ vector)))


def _cosine(gram: Gram, smallest: float, floor: float) -> torch.Tensor:
    norms = gram.diagonal(dim1=0, dim2=1).movedim(-1, 0).clamp(min=0).sqrt()
    norms = torch.where(norms > smallest, norms, torch.full_like(norms, floor))
    return (gram[0, 1] / norms[0] / norms[1]).clamp(-1, 1)


def _arc(cos: torch.Tensor, t: float, linear: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    theta = torch.acos(torch.where(linear, 0.0, cos))
    sin = torch.sin(theta)
    first = torch.where(linear, 1 - t, torch.sin((1 - t) * theta) / sin)
    second = torch.where(linear, t, torch.sin(t * theta) / sin)
    return first, second
