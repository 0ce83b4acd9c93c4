"""`python -m graftgan` is the command line."""

from graftgan.cli import main

main()
