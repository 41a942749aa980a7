"""From logits to tokens: greedy or drawn, each row a function of its own request alone."""

from collections.abc import Sequence as Rows
from itertools import accumulate

import torch

from evoserve.engine.draw import draw
from evoserve.engine.logits import adjust_row, is_adjusted
from evoserve.engine.request import TokenLogprobs
from evoserve.engine.sequence import Chunk, Sample, Sequence

_SMALLEST_TEMPERATURE = 1e-5


@torch.inference_mode()
def sample(chunks: Rows[Chunk], logits: torch.Tensor) -> list[Sample]:
    """One Sample per chunk. logits: float32 (sum of the chunks' num_logits, vocab_size).

    A row that holds NaN or an infinite maximum ends its own sequence with an error, no other.
    """
    if logits.shape[0] == 0:
        return [Sample() for _ in chunks]
    best, greedy = logits.max(dim=1)
    sound = torch.isfinite(best).tolist()
    stops = list(accumulate(chunk.num_logits for chunk in chunks))
    last_rows = {
        stop - 1: chunk.sequence
        for chunk, stop in zip(chunks, stops, strict=True)
        if chunk.samples and sound[stop - 1]
    }
    tokens = _choose(logits, greedy, last_rows)
    return [
        _report(chunk, logits[stop - chunk.num_logits : stop], tokens.get(stop - 1))
        if all(sound[stop - chunk.num_logits : stop])
        else Sample(error=f"the model's logits are not finite (positions below {chunk.stop})")
        for chunk, stop in zip(chunks, stops, strict=True)
    ]


def _choose(
    logits: torch.Tensor, greedy: torch.Tensor, rows: dict[int, Sequence]
) -> dict[int, int]:
    """The next token by row; `greedy` is the argmax of the raw logits, all that many need."""
    argmax = greedy.tolist()
    tokens = {row: argmax[row] for row in rows}
    drawn: dict[int, torch.Tensor] = {}
    for row, sequence in rows.items():
        changed = adjust_row(logits[row], sequence) if is_adjusted(sequence) else None
        if sequence.params.temperature >= _SMALLEST_TEMPERATURE:
            drawn[row] = logits[row] if changed is None else changed
        elif changed is not None:
            tokens[row] = int(changed.argmax())
    if drawn:
        chosen = draw(torch.stack(list(drawn.values())), [rows[row] for row in drawn])
        tokens.update(zip(drawn, chosen, strict=True))
    return tokens


def _report(chunk: Chunk, logits: torch.Tensor, token_id: int | None) -> Sample:
    """The chosen token with the logprobs that its request wants; logits: the chunk's own rows."""
    sequence, params = chunk.sequence, chunk.sequence.params
    logprobs = None
    if token_id is not None and params.logprobs is not None:
        logprobs = _logprobs(logits[-1:], [token_id], params.logprobs)[0]
    prompt: tuple[TokenLogprobs, ...] = ()
    if params.prompt_logprobs is not None and sequence.lacks_prompt_logprobs:
        known = len(sequence.prompt_logprobs)
        targets = sequence.prompt[known : chunk.stop + 1]
        prompt = tuple(_logprobs(logits[: len(targets)], targets, params.prompt_logprobs))
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
