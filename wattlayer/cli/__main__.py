"""`python -m wattlayer.cli`."""

from . import main

main()
