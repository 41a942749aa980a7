"""One script per claim; each takes --quick and --json FILE."""
