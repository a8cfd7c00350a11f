"""stdout and stderr, of which either may be closed, full or read by nobody.

Nobody who has gone ends a measurement: what a closed pipe does not take is dropped, and the exit code stays what the
command found. Control characters never reach a terminal. Nothing heavy is imported here.
"""

import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from perstep._words import printable
from perstep.errors import InputError


def write(text: str) -> None:
    """A result on stdout. If its reader has gone (`perstep list | head`), it is dropped.

    Raises:
        InputError: it cannot be written, on a full disk for example.
    """
    try:
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
    except BrokenPipeError:
        drop(sys.stdout)
    except OSError as error:
        drop(sys.stdout)
        raise InputError(f"stdout: {error.strerror}") from error


def drop(stream: TextIO) -> None:
    """Let nothing more be written to a stream that takes no more, at exit neither."""
    with suppress(OSError, ValueError):  # a test's stream is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def remark(text: str) -> None:
    """A sentence for the person at the terminal, on stderr."""
    STDERR.write(f"{printable(text)}\n")


Attribute = Any
"""Of the stream that is wrapped."""


class _Stderr:
    """The process's stderr as it is at the time, whose writing never fails: nobody may read it any more."""

    def write(self, text: str) -> int:
        """Write what it takes."""
        try:
            return sys.stderr.write(text)
        except (OSError, ValueError):
            drop(sys.stderr)
            return len(text)

    def flush(self) -> None:
        """Flush what it takes."""
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            drop(sys.stderr)

    def __getattr__(self, name: str) -> Attribute:
        return getattr(sys.stderr, name)


STDERR = _Stderr()
