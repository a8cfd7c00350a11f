"""The `perstep` command: which commands there are, and what becomes of their errors.

Commands are imported when they are called. Every error of ours is one line on stderr and an
exit code (docs/exit-codes.md); nothing but results goes to stdout.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError

from perstep._version import __version__
from perstep.errors import InputError, PerstepError

COMMANDS = {
    "ledger": ("perstep.cli.ledger:ledger", "What each part of a decode step costs."),
    "list": ("perstep.cli.stored:list_", "The runs that are stored here."),
    "show": ("perstep.cli.stored:show", "What a stored run found."),
    "report": ("perstep.cli.stored:report", "Make a run's tables and pictures again from its samples."),
}

INTERRUPTED = 130

app = App(
    name="perstep",
    help="What every part of an LLM decode step costs, proved, and what comes back when you replace that part.",
    version=__version__,
    result_action="return_value",
)
for _name, (_target, _help) in COMMANDS.items():
    app.command(_target, name=_name, help=_help)


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        code = app(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        _complain(" ".join(str(error).split()))
        return InputError.exit_code
    except PerstepError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted; what was measured is kept")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`perstep list | head`); say nothing, and let nothing more be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def main() -> NoReturn:
    """The console script."""
    sys.exit(run())


def _complain(message: str) -> None:
    print(f"perstep: {message}", file=sys.stderr)  # noqa: T201
