"""Brings recipes of the state file back, and those that fail as soon as it is possible."""

import asyncio
import logging

from evoserve.errors import ConflictError, EvoServeError, InputError
from evoserve.lifecycle.book import Entry, RecipeBook, RecipeState
from evoserve.lifecycle.loader import Loader

_LOG = logging.getLogger(__name__)


async def restore(book: RecipeBook, loader: Loader, entry: Entry) -> None:
    """Check a recipe and load it if it was loaded; it is marked as failed if that is in vain."""
    try:
        recipe, entry.footprint = await loader.open(entry.manifest, entry.base, verify=False)
        entry.warnings = recipe.warnings
        if entry.stored.is_wanted:
            await loader.load(entry)
        elif entry.state is RecipeState.FAILED:
            book.set_state(entry, RecipeState.REGISTERED)
    except EvoServeError as error:
        _LOG.error("recipe %s is not restored: %s", entry.model_id, error)
        is_refused = isinstance(error, InputError) and not isinstance(error, ConflictError)
        if is_refused and entry.retry_in_s == 0:  # the loader has not noted it
            book.set_state(entry, RecipeState.FAILED, str(error))
    except Exception as error:  # too little memory, for one: the others are served all the same
        _LOG.exception("recipe %s is not restored", entry.model_id)
        if entry.state is RecipeState.FAILED and entry.retry_in_s == 0:  # else it is tried for ever
            book.set_state(entry, RecipeState.FAILED, f"{type(error).__name__}; the log says more")


async def heal(book: RecipeBook, loader: Loader, entry: Entry) -> None:
    """Restore a failed recipe once it can be; without it the server may get no request at all."""
    while entry.state is RecipeState.FAILED:
        await asyncio.sleep(entry.retry_in_s)
        if book.find(entry.model_id) is not entry:
            return
        if entry.retry_in_s == 0:
            await restore(book, loader, entry)
