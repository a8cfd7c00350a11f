"""The place in the user's source where something happened.

A call site is the nearest line outside installed packages and Python's own library. In a thread whose own frames have
none, it is the line that started the thread or handed the task to an executor, while `Starts` watches.
"""

import os
import sys
import sysconfig
import threading
import weakref
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import FrameType

from perstep.targets.transformers._wrap import Function, Wraps

_LIBRARIES = ("transformers", "torch", "perstep")
_INSTALLED = {"site-packages", "dist-packages"}


def nearest_line(frame: FrameType | None, skip: Set[str]) -> str:
    """The nearest line, from a frame outwards, of a package that is not skipped: `folder/file.py:12`.

    Args:
        frame: where to begin.
        skip: top-level packages to pass over.
    """
    while frame is not None:
        if _package(frame) not in skip:
            return line_of(frame)
        frame = frame.f_back
    return "unknown"


def user_frame(frame: FrameType | None) -> FrameType | None:
    """The nearest frame, from this one outwards, outside installed packages and Python's own library; or None."""
    while frame is not None and (_package(frame) in _LIBRARIES or is_installed(frame.f_code.co_filename)):
        frame = frame.f_back
    return frame


def line_of(frame: FrameType) -> str:
    """The line that a frame is at, as `folder/file.py:12`."""
    return f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno}"


class Starts:
    """Finds the call site of a frame, and keeps from where threads are started and tasks handed to executors.

    Args:
        wraps: takes the wrappers that see it: without them a thread's site is the nearest line outside transformers.
    """

    def __init__(self, wraps: Wraps) -> None:
        self._wraps = wraps
        self._of_thread: weakref.WeakKeyDictionary[threading.Thread, str] = weakref.WeakKeyDictionary()
        self._here = threading.local()

    def watch(self) -> None:
        """Begin to keep where threads are started."""
        self._wraps.function(threading.Thread, "start", self._start)
        self._wraps.function(ThreadPoolExecutor, "submit", self._submit)

    def site(self, frame: FrameType | None) -> str:
        """The call site of what a frame calls."""
        place = user_frame(frame)
        if place is not None:
            return line_of(place)
        task = getattr(self._here, "site", None)
        return task or self._of_thread.get(threading.current_thread()) or nearest_line(frame, set(_LIBRARIES))

    def _start(self, original: Function) -> Function:
        def start(thread: threading.Thread) -> None:
            self._of_thread[thread] = self.site(sys._getframe(1))
            original(thread)

        return start

    def _submit(self, original: Function) -> Function:
        def submit(pool: ThreadPoolExecutor, task: Function, /, *args: object, **kwargs: object) -> object:
            site = self.site(sys._getframe(1))

            def run(*args: object, **kwargs: object) -> object:
                self._here.site = site
                try:
                    return task(*args, **kwargs)
                finally:
                    self._here.site = None

            return original(pool, run, *args, **kwargs)

        return submit


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).split(".")[0]


@cache
def is_installed(file: str) -> bool:
    """Whether a source file is of Python's own library or of an installed package, wherever that lies.

    Who installs a package into a folder of any name (`pip install --target`) leaves a list of its files beside it.
    """
    path = Path(file)
    if file.startswith("<frozen") or not _INSTALLED.isdisjoint(path.parts):
        return True
    if any(path.is_relative_to(folder) for folder in _library_folders()):
        return True
    return any(
        f"\n{path.relative_to(folder).as_posix()}," in f"\n{record.read_text(encoding='utf-8', errors='replace')}"
        for folder in path.parents
        for record in folder.glob("*.dist-info/RECORD")
        if os.access(record, os.R_OK)
    )


@cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
