"""`python -m cvtune` is the command line."""

from cvtune.cli import main

main()
