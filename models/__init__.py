"""Source checkpoints and recipes that ship with EvoServe, and the scripts that made them."""
