"""Where candidates are scored: in this process, in local processes, on a Ray cluster."""
