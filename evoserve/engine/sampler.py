"""From logits to tokens: greedy or drawn, each row a function of its own request alone."""

from collections.abc import Sequence as Rows
from itertools import accumulate

import numpy as np
import torch

from evoserve.engine.draw import draw
from evoserve.engine.logits import adjust_row, is_adjusted
from evoserve.engine.request import TokenLogprobs
from evoserve.engine.sequence import Chunk, Sample, Sequence
from evoserve.errors import EngineError, EvoServeError, RequestError

_SMALLEST_TEMPERATURE = 1e-5


@torch.inference_mode()
def sample(chunks: Rows[Chunk], logits: torch.Tensor) -> list[Sample]:
    """One Sample per chunk. logits: float32 (sum of the chunks' num_logits, vocab_size).

    A row that holds NaN or an infinite maximum, or whose grammar cannot go on, ends its own
    sequence with an error, no other.
    """
    if logits.shape[0] == 0:
        return [Sample() for _ in chunks]
    argmax, sound = _best(logits)
    counts = [chunk.num_logits for chunk in chunks]
    stops = list(accumulate(counts))
    last_rows = {
        stop - 1: chunk.sequence
        for chunk, stop in zip(chunks, stops, strict=True)
        if chunk.samples and sound[stop - 1]
    }
    tokens, errors = _choose(logits, argmax, last_rows)
    samples: list[Sample] = []
    for chunk, count, stop in zip(chunks, counts, stops, strict=True):
        error: EvoServeError | None = errors.get(stop - 1) if chunk.samples else None
        if not all(sound[stop - count : stop]):
            error = EngineError(f"the model's logits are not finite (positions below {chunk.stop})")
        if error is not None:
            culprit = error.param if isinstance(error, RequestError) else None
            samples.append(Sample(error=str(error), culprit=culprit))
            continue
        token_id = tokens.get(stop - 1) if chunk.samples else None
        samples.append(_report(chunk, logits, range(stop - count, stop), token_id))
    return samples


def _best(logits: torch.Tensor) -> tuple[list[int], list[bool]]:
    """The argmax of every row, and whether the row holds no NaN and a finite maximum."""
    if logits.device.type == "cpu":  # numpy's is several times faster
        rows = logits.numpy()
        found = rows.argmax(axis=1)
        largest = rows[np.arange(len(rows)), found]
        return found.tolist(), np.isfinite(largest).tolist()
    best, greedy = logits.max(dim=1)
    return greedy.tolist(), torch.isfinite(best).tolist()


def _choose(
    logits: torch.Tensor, argmax: Rows[int], rows: dict[int, Sequence]
) -> tuple[dict[int, int], dict[int, EvoServeError]]:
    """The next token by row, or why there is none; the raw `argmax` is all that many need."""
    tokens = {row: argmax[row] for row in rows}
    errors: dict[int, EvoServeError] = {}
    drawn: dict[int, torch.Tensor] = {}
    for row, sequence in rows.items():
        try:
            changed = adjust_row(logits[row], sequence) if is_adjusted(sequence) else None
        except (EngineError, RequestError) as error:
            errors[row] = error
            continue
        if sequence.params.temperature >= _SMALLEST_TEMPERATURE:
            drawn[row] = logits[row] if changed is None else changed
        elif changed is not None:
            tokens[row] = int(changed.argmax())
    if drawn:
        chosen = draw(torch.stack(list(drawn.values())), [rows[row] for row in drawn])
        tokens.update(zip(drawn, chosen, strict=True))
    return tokens, errors


def _report(chunk: Chunk, logits: torch.Tensor, rows: range, token_id: int | None) -> Sample:
    """The chosen token with the logprobs that its request wants; rows: the chunk's own."""
    sequence, params = chunk.sequence, chunk.sequence.params
    if params.logprobs is None and params.prompt_logprobs is None:
        return Sample(token_id)
    own, logprobs = logits[rows.start : rows.stop], None
    if token_id is not None and params.logprobs is not None:
        logprobs = _logprobs(own[-1:], [token_id], params.logprobs)[0]
    prompt: tuple[TokenLogprobs, ...] = ()
    if params.prompt_logprobs is not None and sequence.lacks_prompt_logprobs:
        known = len(sequence.prompt_logprobs)
        targets = sequence.prompt[known : chunk.stop + 1]
        prompt = tuple(_logprobs(own[: len(targets)], targets, params.prompt_logprobs))
    return Sample(token_id=token_id, logprobs=logprobs, prompt_logprobs=prompt)


def _logprobs(logits: torch.Tensor, targets: Rows[int], num_top: int) -> list[TokenLogprobs]:
    """Of the raw logits, as OpenAI and vLLM report; targets: one token per row."""
    logprobs = logits.log_softmax(dim=1)
    index = torch.tensor(list(targets), dtype=torch.int64).to(logits.device)[:, None]
    chosen = logprobs.gather(1, index)[:, 0].tolist()
    top = logprobs.topk(min(num_top, logits.shape[1]), dim=1)
    return [
        TokenLogprobs(token_id, logprob, tuple(zip(ids, values, strict=True)))
        for token_id, logprob, ids, values in zip(
            targets, chosen, top.indices.tolist(), top.values.tolist(), strict=True
        )
    ]
