"""What to serve, as data: the manifest's schema, checks, canonical digest, and mergekit's YAML."""
