"""The lock of a run's folder: one writer at a time, on every system.

The lock is the kernel's and goes with its process: a run that says `running` and is not locked was interrupted.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from perstep.errors import InputError
from perstep.runs.files import cannot_write, open_regular

LOCK = ".lock"
_ATTEMPTS, _PAUSE_S = 10, 0.02
"""A reader that looks whether a run is being written holds the lock for some microseconds."""


def is_being_written(folder: Path) -> bool:
    """Whether a live process holds the run's lock."""
    try:
        with open_regular(folder / LOCK) as lock:
            return not lock_descriptor(lock.fileno(), blocking=False)
    except OSError:
        return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other writers away from a run.

    Raises:
        InputError: another process writes it, or the folder cannot be written.
    """
    with take_lock(folder):
        yield


def take_lock(folder: Path) -> IO[bytes]:
    """The locked file of a run; closing it gives the lock back. The folder is made if it is not there.

    Raises:
        InputError: another process writes the run, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open_regular(folder / LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        for attempt in range(_ATTEMPTS):
            if lock_descriptor(lock.fileno(), blocking=False):
                return lock
            if attempt < _ATTEMPTS - 1:
                time.sleep(_PAUSE_S)
    except BaseException as error:
        lock.close()
        raise cannot_write(folder, error) if isinstance(error, OSError) else error from error
    lock.close()
    raise InputError(f"{folder} is being written by another perstep; wait for it, or choose another --out")
