"""`python -m geomkit` is the command line."""

from geomkit.cli import main

main()
