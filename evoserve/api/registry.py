"""The recipes that are served and the names they answer to."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from evoserve.engine.protocol import ModelInfo
from evoserve.errors import RequestError, UnknownModel
from evoserve.manifest.parts import GenerationSpec
from evoserve.sources.recipe import Recipe
from evoserve.sources.vocabulary import resolve_vocabulary
from evoserve.tokenizer import Tokenizer

LONG_TEXT_CHARS = 20_000  # tokenizing more takes milliseconds that the event loop must not wait


@dataclass(frozen=True)
class ServedRecipe:
    """What the API needs of a loaded recipe; `created` is in seconds since 1970."""

    model_id: str
    tokenizer: Tokenizer
    chat_template: str | None
    generation: GenerationSpec
    max_model_len: int
    created: int

    @property
    def fingerprint(self) -> str:
        """OpenAI's system_fingerprint: the first twelve digits of the recipe's digest."""
        return "fp_" + self.model_id.rpartition("@")[2]

    async def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; a long one is tokenized in a thread. Raises RequestError."""
        if len(text) <= LONG_TEXT_CHARS:
            return self.tokenizer.encode(text, add_special_tokens)
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens)


def describe(recipe: Recipe, info: ModelInfo) -> ServedRecipe:
    """What to serve of `recipe`, which the engine has loaded as `info`.

    Raises SourceError and IncompatibleSources for tokenizers that cannot be had.
    """
    return ServedRecipe(
        model_id=info.model_id,
        tokenizer=resolve_vocabulary(recipe).load_tokenizer(),
        chat_template=recipe.manifest.chat_template,
        generation=recipe.manifest.generation,
        max_model_len=info.max_model_len,
        created=int(time.time()),
    )


class Registry:
    """Full model ids and aliases; the newest recipe takes over a name that is already in use."""

    def __init__(self) -> None:
        self._recipes: dict[str, ServedRecipe] = {}
        self._aliases: dict[str, str] = {}

    def add(self, served: ServedRecipe, aliases: Sequence[str] = ()) -> None:
        """Serve a recipe under its id, its plain name and `aliases`."""
        self._recipes[served.model_id] = served
        for name in (served.model_id.rpartition("@")[0], *aliases):
            self._aliases[name] = served.model_id

    def remove(self, model_id: str) -> None:
        """Forget a recipe and the names that lead to it. Raises UnknownModel."""
        if self._recipes.pop(model_id, None) is None:
            raise UnknownModel(model_id)
        self._aliases = {
            name: target for name, target in self._aliases.items() if target != model_id
        }

    def resolve(self, name: str | None) -> ServedRecipe:
        """The recipe behind an id or alias; None is the only one.

        Raises UnknownModel, and RequestError for None where there is not exactly one recipe.
        """
        if name is None:
            if len(self._recipes) != 1:
                message = f"'model' is needed: {len(self._recipes)} recipes are served."
                raise RequestError(message, param="model")
            return next(iter(self._recipes.values()))
        served = self._recipes.get(self._aliases.get(name, name))
        if served is None:
            raise UnknownModel(f"{name:.200}")
        return served

    def names(self) -> dict[str, ServedRecipe]:
        """Every id, then every alias, and what is served under it."""
        aliases = {name: self._recipes[target] for name, target in self._aliases.items()}
        return {**self._recipes, **aliases}
