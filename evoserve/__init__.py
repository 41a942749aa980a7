"""EvoServe: serve evolved model-merge recipes by recipe."""

__version__ = "0.1.0"
