"""Evolve merge recipes: genomes, optimizers, tasks, evaluation, storage, reports."""
