"""The recipes that are loaded, as the API sees them; they are kept by `evoserve.lifecycle`."""

from evoserve.lifecycle.served import LONG_TEXT_CHARS, Registry, ServedRecipe, describe

__all__ = ["LONG_TEXT_CHARS", "Registry", "ServedRecipe", "describe"]
