"""The `evoserve` command."""
