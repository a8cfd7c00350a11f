"""Run somebody's Python script as `python SCRIPT ARGS` would, and be told when it imports a module.

The script is `__main__`, has its own `sys.argv` and first path entry, and its own end: exit code, traceback,
threads that are waited for. Nothing heavy is imported on its behalf, because what it does before its own
imports (environment variables, say) must still count. Knows nothing of models.
"""

import atexit
import importlib.util
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, TracebackType

INTERRUPTED = 130


def run_script(script: Path, arguments: Sequence[str]) -> int:
    """Run a script to its end and return its exit code.

    What it raises is printed as Python prints it, by `sys.excepthook`, without the frames of perstep.

    Args:
        script: a file with Python source.
        arguments: what follows it on the command line.

    Raises:
        OSError: the file cannot be read.
    """
    with io.open_code(str(script)) as file:
        source = file.read()
    with _as_main(script, arguments) as module:
        try:
            exec(compile(source, str(script), "exec"), vars(module))  # noqa: S102 - it is what was asked for
            code = 0
        except SystemExit as error:
            code = _exit_code(error.code)
        except BaseException as error:
            _hide_ours(error)
            sys.excepthook(type(error), error, error.__traceback__)
            code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        try:
            for thread in threading.enumerate():  # as Python does before it ends
                if not thread.daemon and thread is not threading.current_thread():
                    thread.join()
        except KeyboardInterrupt:  # of a thread that never ends; the exit code stays, as Python's does
            _LEFT.append(script)
    return code


_LEFT: list[Path] = []
"""Scripts whose threads were not waited for to their end."""


def leave_threads(code: int) -> int:
    """The exit code; where an interrupt has ended the wait for a thread the process ends: Python would wait again."""
    if _LEFT:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    return code


@contextmanager
def _as_main(script: Path, arguments: Sequence[str]) -> Iterator[ModuleType]:
    """Make room for a script as `__main__`, and put back what was there, but for the module: its exit handlers live."""
    module = ModuleType("__main__")
    vars(module).update({"__file__": str(script), "__builtins__": __builtins__, "__spec__": None, "__loader__": None})
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    sys.modules["__main__"] = module
    try:
        yield module
    finally:
        sys.argv, sys.path[:] = argv, path


def _exit_code(code: object) -> int:
    """What Python makes of the argument of `sys.exit`: a number, nothing, or a message for stderr."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)  # noqa: T201
    return 1


def _hide_ours(error: BaseException) -> None:
    """Take the frames of perstep, and no others, out of the traceback of an exception and of those behind it."""
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        behind = pending.pop()
        if behind is not None and not any(behind is one for one in seen):
            seen.append(behind)
            behind.__traceback__ = _without_ours(behind.__traceback__)
            pending += [behind.__cause__, behind.__context__]


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    kept: TracebackType | None = None
    for entry in reversed(list(_entries(trace))):  # no recursion: a traceback may be as deep as the stack
        if str(entry.tb_frame.f_globals.get("__name__", "")).split(".")[0] != "perstep":
            kept = TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return kept


def _entries(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


@contextmanager
def after_import(name: str, then: Callable[[], object]) -> Iterator[None]:
    """Inside the block, call `then` once, as soon as the module is imported; at once if it is already.

    Args:
        name: of the module, with its packages.
        then: what to do; nothing of it is undone.
    """
    if name in sys.modules:
        then()
        yield
        return
    finder = _Finder(name, then)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds a module as it would be found without us, and adds a call after its execution."""

    def __init__(self, name: str, then: Callable[[], object]) -> None:
        self._name, self._then = name, then

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the module waited for; None for every other."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute: Callable[[ModuleType], None] = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self._then()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
