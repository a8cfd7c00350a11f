"""Reading a file that a person names, for every room: whole, and never more than fits into memory."""

import errno
from pathlib import Path

MAX_BYTES = 2**28
"""Largest file of text that is read: 256 MiB. A device such as /dev/zero has no end."""


def read_given(path: Path, most: int = MAX_BYTES) -> bytes:
    """The content of a file, or what a pipe (`<(command)`) gives.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, or has more.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most >> 10:,} KiB", str(path))
    return content


def read_given_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file, with every line ended by a newline alone.

    Raises:
        OSError: as `read_given`.
        UnicodeDecodeError: it is not in this encoding.
    """
    return read_given(path).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
