"""`python -m search` is `evosearch`."""

from search.cli import main

main()
