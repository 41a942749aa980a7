"""Optimizers behind one ask/tell seam; nothing here imports torch."""
