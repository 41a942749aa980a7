"""What a server needs of a recipe once it is loaded, and the names it answers to."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from evoserve.engine.protocol import ModelInfo
from evoserve.errors import ContextLengthError, RequestError, UnknownModel
from evoserve.manifest.parts import GenerationSpec
from evoserve.sources.digest import SIDE_FILES
from evoserve.sources.recipe import Recipe
from evoserve.sources.vocabulary import Vocabulary, resolve_vocabulary
from evoserve.tokenizer import LONG_TEXT_CHARS, TOKENIZER_FILES, Tokenizer

MAX_LONG_TEXTS = 2  # tokenized at once; each takes a core from the engine


@dataclass(frozen=True)
class ServedRecipe:
    """What the API needs of a loaded recipe; `created` is in seconds since 1970.

    turns: taken for every long text that is tokenized.
    """

    model_id: str
    tokenizer: Tokenizer
    chat_template: str | None
    generation: GenerationSpec
    max_model_len: int
    created: int
    turns: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MAX_LONG_TEXTS), compare=False, repr=False
    )

    @property
    def fingerprint(self) -> str:
        """OpenAI's system_fingerprint: the first twelve digits of the recipe's digest."""
        return "fp_" + self.model_id.rpartition("@")[2]

    async def encode(
        self, text: str, *, add_special_tokens: bool = True, param: str = "prompt"
    ) -> list[int]:
        """Token ids of `text`; a long one is tokenized in a thread when it is its turn.

        Raises RequestError, and ContextLengthError that names `param` for a text that cannot fit
        the context whatever its tokens are: it is not tokenized.
        """
        if len(text) <= LONG_TEXT_CHARS:
            return self.tokenizer.encode(text, add_special_tokens)
        self._check_bytes(text, param)
        async with self.turns:
            return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens)

    def _check_bytes(self, text: str, param: str) -> None:
        longest = self.tokenizer.max_bytes_per_token
        if longest is None:
            return
        num_bytes = len(text.encode(errors="surrogatepass"))
        num_tokens = -(-num_bytes // longest)
        if num_tokens > self.max_model_len:
            raise ContextLengthError(
                f"This model's maximum context length is {self.max_model_len} tokens, but the "
                f"{num_bytes} bytes of '{param}' are {num_tokens} tokens at least; reduce them.",
                param=param,
            )


class Tokenizers:
    """Tokenizers in use, by the files they were read from: recipes over equal files share one.

    Parsing one holds the interpreter for tenths of a second, in which no stream goes on.
    turns: of the long texts that these tokenizers are given.
    """

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(MAX_LONG_TEXTS)
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
    shared = tokenizers or Tokenizers()
    return ServedRecipe(
        model_id=info.model_id,
        tokenizer=shared.load(resolve_vocabulary(recipe)),
        chat_template=recipe.manifest.chat_template,
        generation=recipe.manifest.generation,
        max_model_len=info.max_model_len,
        created=int(time.time()),
        turns=shared.turns,
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
