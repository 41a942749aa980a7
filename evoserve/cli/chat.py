"""`evoserve chat`: talk to a recipe in the terminal, no server needed."""

import asyncio
import itertools
from pathlib import Path
from typing import Annotated

import typer

from evoserve.api.registry import ServedRecipe, describe
from evoserve.cli.options import with_settings
from evoserve.cli.output import console
from evoserve.cli.recipes import open_recipe
from evoserve.config import Settings
from evoserve.engine.protocol import Engine, GenerationRequest, SamplingParams
from evoserve.engine.torch_engine import TorchEngine
from evoserve.sources.recipe import Recipe

Message = dict[str, str]


@with_settings("catalogue", "source_roots", "verify_digests", "device", "dtype", "threads")
def chat(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A manifest.")],
    settings: Settings,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Ask this, print the answer, leave.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 is greedy; default: the recipe's, else 1.")
    ] = None,
) -> None:
    """Chat with a recipe; an empty line or Ctrl-D ends it."""
    opened = open_recipe(recipe, settings)
    try:
        asyncio.run(_chat(opened, settings, message, max_tokens, temperature))
    except EOFError:
        console.print()


async def _chat(
    recipe: Recipe,
    settings: Settings,
    message: str | None,
    max_tokens: int,
    temperature: float | None,
) -> None:
    engine = TorchEngine(settings)
    try:
        served = describe(recipe, await engine.load(recipe))
        chosen = temperature if temperature is not None else served.generation.temperature
        history: list[Message] = []
        for turn in itertools.count():
            text = message if message is not None else await asyncio.to_thread(input, "> ")
            if not text.strip():
                return
            history.append({"role": "user", "content": text})
            request = _request(served, history, max_tokens, 1.0 if chosen is None else chosen, turn)
            answer = await _answer(engine, served, request)
            history.append({"role": "assistant", "content": answer})
            if message is not None:
                return
    finally:
        await engine.close()


def _request(
    served: ServedRecipe, history: list[Message], max_tokens: int, temperature: float, turn: int
) -> GenerationRequest:
    prompt = served.tokenizer.encode_chat(history, template=served.chat_template)
    room = served.max_model_len - len(prompt)
    params = SamplingParams(
        max_tokens=max(1, min(max_tokens, room)),
        temperature=temperature,
        stop_token_ids=served.tokenizer.eos_token_ids,
    )
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
