"""The few exceptions of our own, and the words for what has to be installed.

Each exception is raised where the fact is known, with what to do next in its message,
and caught once, in the command line, which turns it into one line on stderr
and an exit code (`docs/exit-codes.md`).
"""

_IN_MAKE_ENV = ("hf", "grammar")


class PerstepError(Exception):
    """Base class of all errors that perstep raises."""

    exit_code = 70


class InputError(PerstepError):
    """An input is wrong; the message says what was wrong and what would be right (exit code 2)."""

    exit_code = 2


class InvalidMeasurement(PerstepError):  # noqa: N818 - what happened, in the words of the verdict
    """The measurement is invalid; the message says why (exit code 4)."""

    exit_code = 4


def how_to_install(extra: str) -> str:
    """What installs an extra, for errors and notes. perstep is on no package index, so pip is given its folder.

    Args:
        extra: `hf`, `grammar`, `xgrammar` or `ray`.
    """
    command = f"pip install -c constraints.txt -e '.[{extra}]'"
    return f"in perstep's folder run {'make env, or ' if extra in _IN_MAKE_ENV else ''}{command}"
