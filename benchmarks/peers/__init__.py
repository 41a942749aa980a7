"""Drivers of other programs, each run by the Python of an environment of its own."""
