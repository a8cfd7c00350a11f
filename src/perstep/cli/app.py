"""The `perstep` command: which commands there are, and what becomes of their errors.

Commands are imported when they are called. Every error of ours is one line on stderr and an
exit code (docs/exit-codes.md); nothing but results goes to stdout.
"""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from traceback import format_exception

from cyclopts import App, CycloptsError, UnusedCliTokensError

from perstep._version import __version__
from perstep._words import printable
from perstep.cli.settings import from_file
from perstep.cli.streams import STDERR, drop, remark
from perstep.errors import InputError, PerstepError
from perstep.experiments.command_line import refuse_fractions

COMMANDS = {
    "ledger": ("perstep.cli.ledger:ledger", "What each part of a decode step costs."),
    "watch": (
        "perstep.cli.watch:watch",
        "What each part of a step costs in the generate calls and decode loops of a script.",
    ),
    "fix": ("perstep.cli.fix:fix", "Drop-ins for the slow parts of a script, tried and measured."),
    "generate": ("perstep.cli.generate:generate", "What logits processors and stopping criteria cost in generate()."),
    "mask": ("perstep.cli.mask:mask", "What a JSON-schema mask costs a decode step, by engine and vocabulary."),
    "cache": ("perstep.cli.cache:cache", "What the KV cache costs and saves, against the length of the context."),
    "ops": ("perstep.cli.ops:ops", "What each operator of a layer costs, and what a cached mask saves."),
    "depth": ("perstep.cli.knobs:depth", "Latency and quality against the decoder blocks that run."),
    "experts": ("perstep.cli.knobs:experts", "Latency and quality against the experts a token."),
    "context": ("perstep.cli.knobs:context", "Latency against input tokens: text and images."),
    "output": ("perstep.cli.knobs:output", "Latency against generated tokens, per token and per forward."),
    "sweep": ("perstep.cli.sweep:sweep", "Many runs of one experiment over a grid of options, in one table."),
    "worker": ("perstep.cli.sweep:worker", "Measure cells of a sweep that was begun elsewhere."),
    "predict": ("perstep.cli.predict:predict", "A decode step that was not measured, with an interval, or a refusal."),
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
    "completion": ("perstep.cli.completion:completion", "The script that completes perstep in a shell."),
}

INTERRUPTED = 130
UNEXPECTED = 70
"""EX_SOFTWARE of sysexits.h; 1 is `gate`'s word for a regression."""
_MOST_CHARACTERS = 300
_EPILOGUE = "--traceback, with any command, shows where an unexpected error (exit code 70) arose."


def make_app(called: str = "") -> App:
    """The application. A line in the list of commands hides a command's own help, so the one called has none."""
    app = App(
        name="perstep",
        help="What every part of an LLM decode step costs, proved, and the time saved by replacing that part.",
        help_epilogue=None if called in COMMANDS else _EPILOGUE,
        version=__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        config=[from_file, refuse_fractions],
    )
    for name, (target, line) in COMMANDS.items():
        app.command(target, name=name, help=None if name == called else line)
    return app


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    shown = False
    try:
        _check_text(tokens)
        if tokens[:1] in (["watch"], ["fix"]):
            from perstep.cli.watch import shield

            tokens = shield(tokens)
        shown = _take(tokens, "--traceback")
        code = make_app(tokens[0] if tokens else "")(tokens, exit_on_error=False, print_error=False)
        return _flushed(code if isinstance(code, int) else 0)
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
    except SystemExit:  # by rich, where the reader of the help has gone
        return 0 if _asks_for_help(tokens) else UNEXPECTED
    except Exception as error:
        return _other(error, tokens, traceback=shown)


def _other(error: Exception, tokens: list[str], *, traceback: bool) -> int:
    """The exit code of an error that perstep did not raise itself, and its line."""
    if isinstance(error, OSError) and _asks_for_help(tokens):  # what prints the help knows neither closed nor full
        drop(sys.stdout)
        return 0 if isinstance(error, BrokenPipeError) else _complain(f"stdout: {error.strerror}", InputError.exit_code)
    if isinstance(error, OSError) and error.filename is not None:
        return _complain(f"{error.filename}: {error.strerror}", InputError.exit_code)
    if isinstance(error, MemoryError):
        return _complain(f"not enough memory: {error}", InputError.exit_code)
    if traceback:
        STDERR.write(printable("".join(format_exception(error))))
    said = f"unexpected {type(error).__name__}: {str(error)[:_MOST_CHARACTERS]}"
    ask = "please report it" if traceback else "please report it, with what the same command says with --traceback"
    return _complain(f"{said}; this is a fault of perstep: {ask}", UNEXPECTED)


def _flushed(code: int) -> int:
    """The exit code when all of stdout is out, of which the reader may have gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop(sys.stdout)
    except OSError as error:
        drop(sys.stdout)
        return _complain(f"stdout: {error.strerror}", InputError.exit_code)
    return code


def _asks_for_help(tokens: list[str]) -> bool:
    return not tokens or bool({"--help", "-h", "--version"} & set(tokens))


def _take(tokens: list[str], option: str) -> bool:
    """Take an option of perstep itself out of the tokens; what stands behind `--` belongs to somebody else."""
    own = tokens[: tokens.index("--")] if "--" in tokens else tokens
    if option not in own:
        return False
    tokens.remove(option)
    return True


def main() -> int:
    """The exit code of the console script."""
    # Closed by the shell (`>&-`), a stream is None; an encoding that lacks µ or █ gets a question mark.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    return run()


def _check_text(tokens: list[str]) -> None:
    for token in tokens:
        try:
            token.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{token!a} is not valid UTF-8; give names and texts in UTF-8") from error
        if "\0" in token:
            raise InputError(f"{token!a} has a NUL character in it, which no name and no text has")


def _complain(message: str, exit_code: int) -> int:
    remark(f"perstep: {' '.join(message.split())}")
    return exit_code
