"""The command line: thin commands over the library, errors as one line, exit codes as documented.

Nothing heavy is imported here, so that `perstep --help` answers at once.
"""

import atexit
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    from perstep.cli.app import run

    return run(argv)


def main() -> NoReturn:
    """The console script. Ctrl-C while it is imported, or while it says that it was interrupted, is no traceback."""
    # Registered first, so called last, when threads and other handlers have ended. Then Python gives SIGINT back to the
    # system and takes its modules down, for up to a second: a Ctrl-C would end a command that is done by the signal.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    try:
        from perstep.cli.app import main as start

        code = start()
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        # CPython remembers a Ctrl-C that met an exec() of a text, as dataclasses are made, and `python -m` would end by
        # the signal; the next such text makes it forget.
        eval("0")  # noqa: S307
    sys.exit(code)
