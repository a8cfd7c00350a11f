"""Reading and writing the files of a run: regular files alone, and nobody ever sees half of one.

A folder may come from elsewhere. What lies in it under the name of a run's file is opened only if it is a regular
file: a link leads to somebody else's file, a FIFO never ends, a device has no size.
"""

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from perstep._json import Json
from perstep.errors import InputError

MAX_BYTES = 2**28
"""Largest manifest, and largest line of samples, that is read or written: 256 MiB."""

_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


class NotRegularError(OSError):
    """Something else lies where a run has a file."""


def open_regular(path: Path, flags: int = os.O_RDONLY) -> IO[bytes]:
    """Open a file, without a buffer where it is written; never through a link, and nothing but a regular file.

    Args:
        path: of the file.
        flags: as of `os.open`.

    Raises:
        OSError: there is none, it cannot be opened, or it is a link, a FIFO, a device or a folder.
    """
    try:
        descriptor = os.open(path, flags | _SAFE, 0o666)
    except OSError as error:
        status = _lstat(path)
        if status is not None and error.errno != errno.EEXIST:
            _refuse_irregular(path, status)
        raise
    try:
        _refuse_irregular(path, os.fstat(descriptor))
        if flags & (os.O_WRONLY | os.O_RDWR):
            return os.fdopen(descriptor, "ab" if flags & os.O_APPEND else "wb", buffering=0)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_irregular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "a folder" if stat.S_ISDIR(status.st_mode) else "a device"
        what = "a FIFO" if stat.S_ISFIFO(status.st_mode) else what
        raise NotRegularError(errno.EINVAL, f"it is {what}, and a run consists of regular files", str(path))


def is_regular(path: Path) -> bool:
    """Whether a regular file lies there; a link is none."""
    status = _lstat(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (OSError, ValueError):  # ValueError: a NUL character in the name
        return None


def read_regular(path: Path) -> bytes:
    """The content of a regular file of at most `MAX_BYTES`.

    Raises:
        OSError: as `open_regular`; or it is larger.
    """
    with open_regular(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_BYTES:,} bytes", str(path))
    return content


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: readers see the old file or the new one, never a part.

    The new file has the mode of the old one. A link is replaced, not followed.

    Raises:
        InputError: the disk is full, read-only or otherwise refuses; the old file is untouched.
    """
    # A name that nobody can guess, and O_EXCL: who may write in the folder cannot have laid a link there.
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}.tmp")
    try:
        with open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            if is_regular(path):
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            write_whole(file, content)
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # it is there only if something went wrong, which is the error to tell
            temporary.unlink()


def write_whole(file: IO[bytes], content: bytes) -> None:
    """Write all of it to a file without a buffer, which may take less at a time.

    Raises:
        OSError: the disk is full, or otherwise refuses; a part may be written.
    """
    left = memoryview(content)
    while left:
        left = left[file.write(left) or 0 :]


def write_to(path: Path, content: bytes) -> None:
    """Write where a person said: a file, or what a link leads to, is replaced whole; a device or FIFO takes it.

    Raises:
        InputError: it names no file, or cannot be written.
    """
    if not path.name:
        raise InputError(f"{str(path)!r} names no file; give the name of a file to write")
    try:
        special = path.exists() and not path.is_file()
        if not special:
            replace_file(Path(os.path.realpath(path)), content)
            return
        with path.open("wb", buffering=0) as file:
            write_whole(file, content)
    except OSError as error:
        raise cannot_write(path, error) from error


def is_leftover(name: str) -> bool:
    """Whether a killed `replace_file` has left a file of this name."""
    return _LEFTOVER.fullmatch(name) is not None


def encode_json(value: Json) -> bytes:
    """JSON with two spaces of indent and a final newline; field order is kept, so equal values give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error for a file that cannot be written, with what to do."""
    return InputError(f"cannot write {path}: {error.strerror or error}; choose another place, or free space there")


def children(folder: Path) -> list[Path]:
    """What lies in a folder; nothing if there is no such folder.

    Raises:
        InputError: it is a file, or must not be read.
    """
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise InputError(f"{folder} is a file; give a folder") from error
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from error
