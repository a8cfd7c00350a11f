"""Refusing what does not fit into free memory, with both numbers, before anything is allocated."""

import psutil

from perstep.errors import InputError


def refuse_if_too_large(what: str, num_bytes: int, available_bytes: int | None = None) -> None:
    """Raise InputError if `num_bytes` exceed `available_bytes` (what the system reports as available, if None)."""
    available = psutil.virtual_memory().available if available_bytes is None else available_bytes
    if num_bytes > available:
        raise InputError(f"{what} needs {num_bytes / 1e9:.2f} GB of memory, {available / 1e9:.2f} GB are available")
