"""`python -m sim.cli` is the command."""

from sim.cli.app import main

main()
