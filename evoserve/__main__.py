"""`python -m evoserve` is the `evoserve` command."""

from evoserve.cli.main import main

main()
