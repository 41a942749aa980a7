"""Which tokenizer a recipe uses, and which row of each source's tables holds which token.

Only sources whose embedding or head is read matter; one that lends layers to a path alone may have
any vocabulary. Vocabularies may differ by added tokens if the manifest says whose tokenizer to use:
`tokenizer` names a model, or is `union` for the embedding's tokenizer plus the tokens that others
add. A source without tokenizer files is taken to use the recipe's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from evoserve.errors import IncompatibleSources
from evoserve.manifest.check import UNION
from evoserve.manifest.schema import Manifest
from evoserve.sources.checkpoint import Checkpoint
from evoserve.sources.compatible import table_sources
from evoserve.sources.recipe import Recipe
from evoserve.tokenizer import TOKENIZER_FILES, AddedToken, Tokenizer, load_tokenizer

MISSING = -1


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a recipe and where each source keeps them.

    size: rows of the recipe's embedding and head (padding beyond the tokenizer's length included);
    folder: where the tokenizer's files are; added: tokens to append to it (union);
    rows: by source, int64 (size,): for each row of the recipe the row of the source's tables, or
    MISSING where the source has no such token; None: the source's rows are the recipe's.
    """

    size: int
    folder: Path
    added: tuple[AddedToken, ...]
    rows: Mapping[str, torch.Tensor | None]

    def load_tokenizer(self) -> Tokenizer:
        """The recipe's tokenizer. Raises SourceError."""
        tokenizer = load_tokenizer(self.folder)
        return tokenizer.with_added(self.added) if self.added else tokenizer


def resolve_vocabulary(recipe: Recipe) -> Vocabulary:
    """The vocabulary of a recipe; tokenizers are parsed only if their files differ.

    Raises IncompatibleSources that names two sources, how many tokens differ and one of them.
    """
    manifest = recipe.manifest
    is_union = manifest.tokenizer_model == UNION and UNION not in _models(manifest)
    chosen = manifest.base_source(manifest.embed_model if is_union else manifest.tokenizer_model)
    tables = {name: recipe.checkpoints[name] for name in table_sources(manifest)}
    reference = recipe.checkpoints[chosen]
    others = {name: found for name, found in tables.items() if not _same_files(found, reference)}
    if not others:
        return _of_equal_files((chosen, reference), tables)
    tokenizers = {name: load_tokenizer(found.folder) for name, found in others.items()}
    own = load_tokenizer(reference.folder)
    _check_differences(manifest, (chosen, own), tokenizers)
    added = _added_by_others(own, tokenizers) if is_union else ()
    whole = own.with_added(added) if added else own
    rows_used = reference.architecture.vocab_size
    size = max(rows_used, whole.vocab_size) if added else rows_used
    rows = {
        name: _rows(whole, tokenizers.get(name, own), found.architecture.vocab_size, size)
        for name, found in tables.items()
    }
    return Vocabulary(size, reference.folder, added, rows)


def _models(manifest: Manifest) -> Sequence[str]:
    return [*manifest.sources, *manifest.merges]


def _same_files(one: Checkpoint, other: Checkpoint) -> bool:
    """Equal tokenizer.json, byte for byte, or no tokenizer at all."""
    if one.folder == other.folder or not _has_tokenizer(one.folder):
        return True
    mine, theirs = one.folder / "tokenizer.json", other.folder / "tokenizer.json"
    if not (mine.is_file() and theirs.is_file()):
        return False
    return mine.stat().st_size == theirs.stat().st_size and mine.read_bytes() == theirs.read_bytes()


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _of_equal_files(chosen: tuple[str, Checkpoint], tables: Mapping[str, Checkpoint]) -> Vocabulary:
    """One tokenizer for all; tables may be padded to different sizes beyond its length."""
    name, reference = chosen
    size = reference.architecture.vocab_size
    counts = {other: found.architecture.vocab_size for other, found in tables.items()}
    length = size
    if set(counts.values()) != {size} and _has_tokenizer(reference.folder):
        length = min(size, load_tokenizer(reference.folder).vocab_size)
    for other, count in counts.items():
        if count < length:
            raise IncompatibleSources(
                f"the embedding of '{other}' has {count} rows for {length} tokens of '{name}'"
            )
    rows = {other: _padded_rows(count, size) for other, count in counts.items()}
    return Vocabulary(size, reference.folder, (), rows)


def _padded_rows(count: int, size: int) -> torch.Tensor | None:
    rows = torch.arange(size)
    return None if count == size else rows.where(rows < count, MISSING)


def _check_differences(
    manifest: Manifest, chosen: tuple[str, Tokenizer], others: Mapping[str, Tokenizer]
) -> None:
    """Only added tokens may differ, and only if the manifest says whose tokenizer to use."""
    name, own = chosen
    for other, tokenizer in sorted(others.items()):
        if tokenizer.vocab == own.vocab:
            continue
        tokens = own.vocab.items() ^ tokenizer.vocab.items()
        differing = sorted({token for token, _ in tokens})
        plain = [token for token in differing if not _is_added(token, own, tokenizer)]
        count = f"the vocabularies of '{name}' and '{other}' differ in {len(differing)} tokens"
        if plain:
            raise IncompatibleSources(
                f"{count}, such as '{plain[0]}', which is no added token (ids "
                f"{own.vocab.get(plain[0])} and {tokenizer.vocab.get(plain[0])}); only sources "
                "with one vocabulary, up to added tokens, can be merged"
            )
        if manifest.tokenizer is None:
            raise IncompatibleSources(
                f"{count}, such as '{differing[0]}', all of them added tokens; set the manifest's "
                f"tokenizer to a model, or to '{UNION}' to keep the tokens of all"
            )


def _is_added(token: str, *tokenizers: Tokenizer) -> bool:
    """Is it an added token wherever it exists?"""
    return all(
        tokenizer.vocab[token] in tokenizer.added_tokens
        for tokenizer in tokenizers
        if token in tokenizer.vocab
    )


def _added_by_others(own: Tokenizer, others: Mapping[str, Tokenizer]) -> tuple[AddedToken, ...]:
    """Tokens that `own` lacks: by source name, within a source by id; the first spelling wins."""
    found: dict[str, AddedToken] = {}
    for _, tokenizer in sorted(others.items()):
        for token in tokenizer.added_tokens.values():
            if token.content not in own.vocab:
                found.setdefault(token.content, token)
    return tuple(found.values())


def _rows(whole: Tokenizer, source: Tokenizer, count: int, size: int) -> torch.Tensor | None:
    """Which of the source's `count` rows each row of the recipe is: tokens by spelling, padding
    (a number that no token has here or there) by number."""
    taken = {*whole.vocab.values(), *source.vocab.values()}
    rows = [row if row < count and row not in taken else MISSING for row in range(size)]
    for token, index in whole.vocab.items():
        row = source.vocab.get(token, MISSING)
        if index < size and row < count:
            rows[index] = row
    is_identity = count == size and rows == list(range(size))
    return None if is_identity else torch.tensor(rows)
