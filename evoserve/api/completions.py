"""/v1/completions: from prompts to a call, from pieces to OpenAI's words."""

import time
import uuid
from dataclasses import replace
from typing import Any

from evoserve.api.choice import Call, Job, Piece, ScoredToken, spell
from evoserve.api.generate import build_params, choose_max_tokens, constrain
from evoserve.api.infill import Infill, infill_of
from evoserve.api.registry import ServedRecipe
from evoserve.api.schemas import Choice, CompletionBody, Prompt
from evoserve.api.service import Service
from evoserve.api.stream import Wording
from evoserve.api.structured import answer_grammar
from evoserve.engine.protocol import TokenGrammar
from evoserve.errors import RequestError

DEFAULT_MAX_TOKENS = 16  # OpenAI's, of this endpoint alone
CONTEXT_TOKENS = 16  # enough for any tokenizer to see that its text has begun


async def prepare_completion(service: Service, body: CompletionBody, served: ServedRecipe) -> Call:
    """Check and tokenize a request. Raises RequestError and its subclasses."""
    n = body.n or 1
    if body.best_of not in (None, 0, n):
        message = f"'best_of' {body.best_of} is not supported unless it equals 'n' ({n})."
        raise RequestError(message, param="best_of", code="unsupported_parameter")
    limit = service.settings.max_queue + service.settings.max_num_seqs
    if len(body.prompt) * n > limit:
        message = f"{len(body.prompt)} prompts times n = {n} exceed the {limit} this server holds."
        raise RequestError(message, param="prompt", code="invalid_value")
    grammar = await answer_grammar(served, None, body.structured_outputs)
    infill = infill_of(served.tokenizer, body.suffix) if body.suffix else None
    return Call(
        id=f"cmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=body.model,
        served=served,
        jobs=tuple([await _job(served, body, prompt, infill, grammar) for prompt in body.prompt]),
        n=n,
        stops=body.stop,
        skip_special_tokens=body.skip_special_tokens is not False,
    )


async def _job(
    served: ServedRecipe,
    body: CompletionBody,
    prompt: Prompt,
    infill: Infill | None,
    grammar: TokenGrammar | None,
) -> Job:
    token_ids = await served.encode(prompt) if isinstance(prompt, str) else prompt
    echoed = slice(None)
    if infill is not None:
        token_ids, echoed = infill.around(token_ids)
    max_tokens = choose_max_tokens(
        served, len(token_ids), body.max_tokens, DEFAULT_MAX_TOKENS, param="prompt"
    )
    params = replace(
        constrain(build_params(body, served, max_tokens), grammar),
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
    )
    echo = None
    if body.echo:
        is_short = body.skip_special_tokens is not False
        echo = prompt if isinstance(prompt, str) else served.tokenizer.decode(prompt, is_short)
    return Job(token_ids, params, echo, token_ids[-CONTEXT_TOKENS:], echoed)


def _choice(piece: Piece) -> Choice:
    return {
        "index": piece.index,
        "text": piece.text,
        "logprobs": _logprobs(piece),
        "finish_reason": piece.finish_reason,
    }


def _chunks(piece: Piece, is_first: bool) -> list[Choice]:
    del is_first
    return [_choice(piece)]


def _logprobs(piece: Piece) -> dict[str, Any] | None:
    if not piece.tokens:
        return None
    return {
        "text_offset": [token.start for token in piece.tokens],
        "token_logprobs": [token.logprob for token in piece.tokens],
        "tokens": [spell(token.spelling) for token in piece.tokens],
        "top_logprobs": [_top(token) for token in piece.tokens],
    }


def _top(token: ScoredToken) -> dict[str, float] | None:
    """The likeliest tokens and, always, the one that came; None for the first of a prompt."""
    if token.logprob is None:
        return None
    likeliest = {spell(spelling): logprob for spelling, logprob in reversed(token.top)}
    return {spell(token.spelling): token.logprob, **likeliest}


COMPLETION = Wording("text_completion", "text_completion", _choice, _chunks)
