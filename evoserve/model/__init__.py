"""Data-flow space: one decoder that walks a path of (layer, scale) with a KV slot per step."""
