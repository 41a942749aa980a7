"""Continuous batching over token ids; one thread owns the models and the KV cache."""
