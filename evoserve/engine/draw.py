"""Drawing tokens: what min_p, top_k and top_p keep, and the inverse of its distribution.

Every row depends on its own logits, parameters, seed and step alone, bit for bit.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Rows

import numpy as np
import numpy.typing as npt
import torch

from evoserve.engine.request import SamplingParams
from evoserve.engine.sequence import Sequence

_WIDTHS = (256, 4096)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draw(logits: torch.Tensor, sequences: Rows[Sequence]) -> list[int]:
    """A token per row of `logits` (num_rows, vocab_size), by each sequence's parameters.

    The uniform of the row picks from the cumulative distribution in vocabulary order. The
    largest logit is taken off first, so that no temperature can overflow.
    """
    temperatures = torch.tensor([seq.params.temperature for seq in sequences])
    peaks = logits.amax(dim=1, keepdim=True)
    cooled = (logits - peaks) / temperatures.to(logits)[:, None]
    probs = cooled.softmax(dim=1)
    seeds, steps = zip(*((seq.seed, seq.num_generated_tokens) for seq in sequences), strict=True)
    uniform = torch.from_numpy(uniforms(seeds, steps)).to(logits.device)
    tokens = [0] * len(sequences)
    plain = [row for row, seq in enumerate(sequences) if not _is_truncated(seq.params)]
    if plain:
        for row, token in zip(plain, _pick(probs[plain], uniform[plain]), strict=True):
            tokens[row] = token
    cut = [row for row, seq in enumerate(sequences) if _is_truncated(seq.params)]
    for rows, ids, weights in candidates(cooled, probs, cut, sequences):
        ordered, order = ids.sort(dim=1)
        places = _pick(weights.gather(1, order), uniform[rows])
        for row, line, place in zip(rows, ordered, places, strict=True):
            tokens[row] = int(line[place])
    return tokens


def candidates(
    logits: torch.Tensor, probs: torch.Tensor, rows: Rows[int], sequences: Rows[Sequence]
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """What is kept of each of `rows`: (rows, token ids, weights), float64, 0 for what is not.

    min_p keeps tokens at least that times as likely as the likeliest; of those top_k keeps the k
    likeliest; of those top_p keeps the fewest likeliest whose probability, renormalised, reaches
    it. Tokens tied with the last one kept are kept, so that the order of equal logits never
    matters. The head of a row settles it nearly always; only the others are sorted whole.

    logits: divided by temperature, the largest 0; probs: their softmax.
    """
    vocab_size = logits.shape[1]
    pending = list(rows)
    for width in (*(width for width in _WIDTHS if width < vocab_size), vocab_size):
        if not pending:
            return
        values, ids = logits[pending].topk(width, dim=1)
        weights = probs[pending].gather(1, ids).double()
        params = [sequences[row].params for row in pending]
        kept, settled = _keep(values, weights, params)
        is_done = [True] * len(pending) if width == vocab_size else settled.tolist()
        done = [place for place, settles in enumerate(is_done) if settles]
        if done:
            kept_weights = weights[done].masked_fill(~kept[done], 0.0)
            yield [pending[place] for place in done], ids[done], kept_weights
        pending = [row for row, settles in zip(pending, is_done, strict=True) if not settles]


def uniforms(seeds: Rows[int], steps: Rows[int]) -> npt.NDArray[np.float64]:
    """One float64 in [0, 1) per (seed, step): splitmix64 twice over, a counter-based generator.

    The same on every machine; 52 bits, so that u * total < total whatever the rounding.
    """
    seed = np.array([value % 2**64 for value in seeds], dtype=np.uint64)
    step = np.array(steps, dtype=np.uint64)
    mixed = _mix(_mix(seed + _GOLDEN) + (step + np.uint64(1)) * _GOLDEN)
    return (mixed >> np.uint64(12)).astype(np.float64) * 2.0**-52


def _is_truncated(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0


def _keep(
    values: torch.Tensor, weights: torch.Tensor, params: Rows[SamplingParams]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What to keep of the largest logits `values`, descending, with probabilities `weights`.

    Also (num_rows,) which rows are settled: nothing beyond `values` could be kept or counted.
    Sums are running ones, so that a wider head gives the same bits.
    """
    width = values.shape[1]
    top_k = torch.tensor([one.top_k or width + 1 for one in params], device=values.device)
    top_p = _column([one.top_p for one in params], weights)
    last_k = values.gather(1, (top_k.clamp(max=width) - 1)[:, None])
    least_k = torch.where(top_k[:, None] <= width, last_k, -torch.inf)
    least = torch.maximum(least_k, _column([one.min_p for one in params], weights).log())
    least = least.to(values.dtype)
    is_cut = _column([float(one.top_k > 0 or one.min_p > 0) for one in params], weights) > 0
    cumulative = weights.masked_fill(values < least, 0.0).cumsum(dim=1)
    total = torch.where(is_cut, cumulative[:, -1:], 1.0)
    in_nucleus = (cumulative - weights < top_p * total) & (values >= least)
    nucleus_floor = values.masked_fill(~in_nucleus, torch.inf).amin(dim=1, keepdim=True)
    floor = torch.where(top_p < 1, nucleus_floor, least)
    beyond = values[:, -1:]
    settled = (beyond < floor) & (~is_cut | (beyond < least))
    return values >= floor, settled[:, 0]


def _pick(weights: torch.Tensor, uniform: torch.Tensor) -> list[int]:
    """The first place of each row where the running sum of weights exceeds its share."""
    cumulative = weights.cumsum(dim=1, dtype=torch.float64)
    target = uniform[:, None] * cumulative[:, -1:]
    places: list[int] = torch.searchsorted(cumulative, target, right=True)[:, 0].tolist()
    return places


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype).to(like.device)[:, None]


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * _MIX[0]
    value = (value ^ (value >> np.uint64(27))) * _MIX[1]
    mixed: npt.NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed
