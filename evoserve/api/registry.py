"""The recipes that are loaded, as the API sees them; they are kept by `evoserve.lifecycle`."""

from evoserve.lifecycle.served import Registry, ServedRecipe, describe

__all__ = ["Registry", "ServedRecipe", "describe"]
