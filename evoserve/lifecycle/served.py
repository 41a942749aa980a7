"""What a server needs of a recipe once it is loaded, and the names it answers to."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from evoserve.engine.protocol import ModelInfo
from evoserve.errors import RequestError, UnknownModel
from evoserve.manifest.parts import GenerationSpec
from evoserve.sources.digest import SIDE_FILES
from evoserve.sources.recipe import Recipe
from evoserve.sources.vocabulary import Vocabulary, resolve_vocabulary
from evoserve.tokenizer import TOKENIZER_FILES, Tokenizer

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


class Tokenizers:
    """Tokenizers in use, by the files they were read from: recipes over equal files share one.

    Parsing one holds the interpreter for tenths of a second, in which no stream goes on.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[object, Tokenizer] = WeakValueDictionary()

    def load(self, vocabulary: Vocabulary) -> Tokenizer:
        """The vocabulary's tokenizer. Raises SourceError."""
        key = (_digest(vocabulary.folder), vocabulary.added)
        tokenizer = self._known.get(key)
        if tokenizer is None:
            tokenizer = self._known[key] = vocabulary.load_tokenizer()
        return tokenizer


def describe(recipe: Recipe, info: ModelInfo, tokenizers: Tokenizers | None = None) -> ServedRecipe:
    """What to serve of `recipe`, which the engine has loaded as `info`.

    tokenizers: those that may be shared. Raises SourceError and IncompatibleSources for tokenizers
    that cannot be had.
    """
    return ServedRecipe(
        model_id=info.model_id,
        tokenizer=(tokenizers or Tokenizers()).load(resolve_vocabulary(recipe)),
        chat_template=recipe.manifest.chat_template,
        generation=recipe.manifest.generation,
        max_model_len=info.max_model_len,
        created=int(time.time()),
    )


class Registry:
    """Loaded recipes by full id and name; the newest takes over a name that is already in use.

    What may be named without being loaded, and aliases that change, are `Lifecycle`'s.
    """

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

    def get(self, model_id: str) -> ServedRecipe | None:
        """The recipe of a full id, None if it is not loaded."""
        return self._recipes.get(model_id)

    def resolve(self, name: str | None) -> ServedRecipe:
        """The recipe behind an id or name; None is the only one.

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
        """Every id, then every name, and what is served under it."""
        aliases = {name: self._recipes[target] for name, target in self._aliases.items()}
        return {**self._recipes, **aliases}


def _digest(folder: Path) -> str:
    """Of everything but weights that a tokenizer may be read from."""
    digest = hashlib.blake2b()
    for name in sorted({*SIDE_FILES, *TOKENIZER_FILES}):
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()
