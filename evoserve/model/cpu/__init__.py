"""The path model compiled for the CPU: one native call per engine step, threads and all."""
