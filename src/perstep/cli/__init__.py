"""The command line: thin commands over the library, errors as one line, exit codes as documented.

Nothing heavy is imported here, so that `perstep --help` answers at once.
"""

from perstep.cli.app import main, run

__all__ = ["main", "run"]
