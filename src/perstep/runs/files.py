"""Writing files so that nobody ever sees half of one."""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from perstep._json import Json
from perstep.errors import InputError


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: readers see the old file or the new one, never a part.

    Raises:
        InputError: the disk is full, read-only or otherwise refuses; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # it is there only if something went wrong, which is the error to tell
            temporary.unlink()


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
