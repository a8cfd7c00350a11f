"""`python -m perstep` does what `perstep` does."""

from perstep.cli import main

main()
