"""Writing files so that nobody ever sees half of one."""

import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from perstep.errors import InputError


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: readers see the old file or the new one, never a part.

    Raises:
        InputError: the disk is full, read-only or otherwise refuses; the old file is untouched.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp makes files that only the owner may read
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def encode_json(value: Any) -> bytes:
    """JSON with two spaces of indent and a final newline; field order is kept, so equal values give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error for a file that cannot be written, with what to do."""
    return InputError(
        f"cannot write {path}: {error.strerror or error}; choose another place with --out, or free space there"
    )
