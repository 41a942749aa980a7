"""`evoserve chat`: talk to a recipe in the terminal, no server needed."""

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from evoserve.api.generate import build_params, choose_max_tokens
from evoserve.api.registry import ServedRecipe, describe
from evoserve.api.schemas import ChatBody
from evoserve.cli.options import with_settings
from evoserve.cli.output import console
from evoserve.cli.recipes import open_recipe
from evoserve.config import Settings
from evoserve.engine.protocol import Engine, GenerationRequest
from evoserve.engine.torch_engine import TorchEngine
from evoserve.sources.recipe import Recipe

DEFAULT_MAX_TOKENS = 512
Message = dict[str, str]


@with_settings("catalogue", "source_roots", "verify_digests", "device", "dtype", "threads")
def chat(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A manifest.")],
    settings: Settings,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Ask this, print the answer, leave.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer; default: the recipe's, else 512.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 is greedy; default: the recipe's, else 1.")
    ] = None,
) -> None:
    """Chat with a recipe; an empty line or Ctrl-D ends it."""
    opened = open_recipe(recipe, settings)
    wishes = {"max_tokens": max_tokens, "temperature": temperature}
    try:
        asyncio.run(_chat(opened, settings, message, wishes))
    except EOFError:
        console.print()


async def _chat(
    recipe: Recipe, settings: Settings, message: str | None, wishes: Mapping[str, float | None]
) -> None:
    engine = TorchEngine(settings)
    try:
        served = describe(recipe, await engine.load(recipe))
        history: list[Message] = []
        for turn in itertools.count():
            text = message if message is not None else await asyncio.to_thread(input, "> ")
            if not text.strip():
                return
            history.append({"role": "user", "content": text})
            answer = await _answer(engine, served, _request(served, history, wishes, turn))
            history.append({"role": "assistant", "content": answer})
            if message is not None:
                return
    finally:
        await engine.close()


def _request(
    served: ServedRecipe, history: list[Message], wishes: Mapping[str, float | None], turn: int
) -> GenerationRequest:
    """The request that the HTTP API would make, the recipe's own defaults included."""
    body = ChatBody.model_validate({"model": served.model_id, "messages": history, **wishes})
    prompt = served.tokenizer.encode_chat(history, template=served.chat_template)
    max_tokens = choose_max_tokens(
        served, len(prompt), body.max_tokens, DEFAULT_MAX_TOKENS, param="messages"
    )
    params = build_params(body, served, max_tokens)
    return GenerationRequest(f"chat-{turn}", served.model_id, prompt, params)


async def _answer(engine: Engine, served: ServedRecipe, request: GenerationRequest) -> str:
    detokenizer = served.tokenizer.detokenizer()
    pieces: list[str] = []
    async for event in engine.submit(request):
        ended = event.finish_reason == "stop"
        text = "" if event.token_id is None or ended else detokenizer.push(event.token_id)
        if event.finish_reason is not None:
            text += detokenizer.flush()
        pieces.append(text)
        console.print(text, end="", markup=False, soft_wrap=True)
    console.print()
    return "".join(pieces)
