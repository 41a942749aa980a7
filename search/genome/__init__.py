"""Encodings of recipes as real vectors; nothing here imports torch."""
