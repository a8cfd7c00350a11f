"""The `perstep` command: which commands there are, and what becomes of their errors.

Commands are imported when they are called. Every error of ours is one line on stderr and an
exit code (docs/exit-codes.md); nothing but results goes to stdout.
"""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

from cyclopts import App, CycloptsError, UnusedCliTokensError

from perstep._version import __version__
from perstep.errors import InputError, PerstepError

COMMANDS = {
    "ledger": ("perstep.cli.ledger:ledger", "What each part of a decode step costs."),
    "watch": ("perstep.cli.watch:watch", "What each part of a step costs in the generate calls of a script."),
    "fix": ("perstep.cli.fix:fix", "Drop-ins for the slow parts of a script, tried and measured."),
    "generate": ("perstep.cli.generate:generate", "What logits processors and stopping criteria cost in generate()."),
    "mask": ("perstep.cli.mask:mask", "What a JSON-schema mask costs a decode step, by engine and vocabulary."),
    "cache": ("perstep.cli.cache:cache", "What the KV cache costs and saves, against the length of the context."),
    "ops": ("perstep.cli.ops:ops", "What each operator of a layer costs, and what a cached mask saves."),
    "depth": ("perstep.cli.knobs:depth", "Latency and quality against the decoder blocks that run."),
    "experts": ("perstep.cli.knobs:experts", "Latency and quality against the experts a token."),
    "context": ("perstep.cli.knobs:context", "Latency against input tokens: text and images."),
    "output": ("perstep.cli.knobs:output", "Latency against generated tokens, per token and per forward."),
    "compare": ("perstep.cli.compare:compare", "Compare runs part by part: is one faster or slower than the other?"),
    "gate": ("perstep.cli.gate:gate", "Fail if a run is confidently slower than another, beyond a limit."),
    "list": ("perstep.cli.stored:list_", "List the stored runs."),
    "show": ("perstep.cli.stored:show", "Show the results of a stored run."),
    "report": ("perstep.cli.stored:report", "Rebuild a run's tables and pictures from its samples."),
    "export": ("perstep.cli.export:export", "Export a run in the format of another tool."),
    "machine": (
        "perstep.cli.machine:machine",
        "This machine: its hardware, its best measured speed, and what disturbs it.",
    ),
    "selftest": ("perstep.cli.selftest:selftest", "Which changes this machine can resolve."),
}

INTERRUPTED = 130


def make_app(called: str = "") -> App:
    """The application. A line in the list of commands hides a command's own help, so the one called has none."""
    app = App(
        name="perstep",
        help="What every part of an LLM decode step costs, proved, and the time saved by replacing that part.",
        version=__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, (target, line) in COMMANDS.items():
        app.command(target, name=name, help=None if name == called else line)
    return app


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        _check_text(tokens)
        if tokens[:1] in (["watch"], ["fix"]):
            from perstep.cli.watch import shield

            tokens = shield(tokens)
        code = make_app(tokens[0] if tokens else "")(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except UnusedCliTokensError as error:
        surplus = " ".join(error.unused_tokens or ())
        return _complain(
            f"unexpected argument {surplus!r}; `perstep {tokens[0]} --help` lists the arguments", InputError.exit_code
        )
    except CycloptsError as error:
        return _complain(str(error), InputError.exit_code)
    except PerstepError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt as error:  # says what is kept and where, if anything is
        return _complain(str(error) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone (`perstep list | head`): say nothing.
        _drop_output()
        return 0
    except OSError as error:
        if error.filename is None:  # stdout itself, on a full disk for example
            _drop_output()
        return _complain(f"{error.filename or 'stdout'}: {error.strerror}", InputError.exit_code)
    except MemoryError as error:
        return _complain(f"not enough memory: {error}", InputError.exit_code)


def main() -> NoReturn:
    """The console script."""
    # Closed by the shell (`>&-`), a stream is None; an encoding that lacks µ or █ gets a question mark.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run())


def _check_text(tokens: list[str]) -> None:
    for token in tokens:
        try:
            token.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{token!a} is not valid UTF-8; give names and texts in UTF-8") from error


def _drop_output() -> None:
    """Let nothing more be flushed to a stdout that takes no more, at exit neither."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, exit_code: int) -> int:
    print(f"perstep: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return exit_code
