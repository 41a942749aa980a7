"""Where weights come from: locating, verifying and lazily reading source checkpoints."""
