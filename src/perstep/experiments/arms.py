"""The arms of a live comparison: found by what was written, checked to do the same work, stopped if they hang."""

import re
import shlex
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from perstep.errors import InputError
from perstep.experiments.user_code import NAMED, import_named
from perstep.measure import Clock
from perstep.measure.blocks import Arm, ArmFailed, CallableArm
from perstep.measure.processes import CommandArm, WorkerArm
from perstep.report.format import plural

_WORKER = re.compile(r"(.+\.py):([A-Za-z_]\w*)")


def arms_of(specs: Sequence[str], pythons: Sequence[str], clock: Clock, *, check: bool) -> dict[str, Arm]:
    """The arms of a command line, by name, the first the reference.

    Args:
        specs: commands, or Python callables as module:function; with `pythons` one script, or script.py:function.
        pythons: interpreters that all run the one script.
        clock: what times them.
        check: call every Python callable once and refuse arms whose results differ.

    Raises:
        InputError: fewer than two arms, or one that cannot be run.
    """
    if pythons:
        if len(specs) != 1:
            raise InputError(f"--python compares interpreters on one script; {len(specs)} were given")
        pairs = [(python, specs[0]) for python in pythons]
    else:
        pairs = [("", spec) for spec in specs]
    if len(pairs) < 2:
        raise InputError("a comparison needs two arms or more: give two commands, or --python twice")
    names = _distinct([python or arm for python, arm in pairs])
    if check:
        calls = {name: import_callable(arm) for name, (python, arm) in zip(names, pairs, strict=True) if not python}
        check_results(calls, check=True)
    arms: dict[str, Arm] = {}
    with closed_on_error(arms.values()):
        for name, (python, spec) in zip(names, pairs, strict=True):
            arms[name] = _arm(name, python, spec, clock)
    return arms


@contextmanager
def closed_on_error(arms: Iterable[Arm]) -> Iterator[None]:
    """Close the arms if what follows fails: a worker that is in the middle of a call would outlive us."""
    try:
        yield
    except BaseException:
        for arm in arms:
            arm.close()
        raise


def _distinct(names: list[str]) -> list[str]:
    """An A/A comparison gives the same name twice; the second becomes `name#2`."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return distinct


def _arm(name: str, python: str, spec: str, clock: Clock) -> Arm:
    if python:
        function = _WORKER.fullmatch(spec)
        if function is None:
            return CommandArm(name, f"{shlex.quote(python)} {spec}", clock)
        return WorkerArm(name, python, function[1], function[2])
    if NAMED.fullmatch(spec):
        return CallableArm(name, import_callable(spec), clock)
    return CommandArm(name, spec, clock)


def import_callable(spec: str) -> Callable[[], object]:
    """The function that module:function names.

    Raises:
        InputError: it is not written so, cannot be imported, or cannot be called.
    """
    if not NAMED.fullmatch(spec):
        raise InputError(f"{spec!r} is no Python callable; write module:function (commands have no result to check)")
    function = import_named(spec)
    if not callable(function):
        raise InputError(f"{spec} is a {type(function).__name__}, not something that can be called")
    return function  # type: ignore[no-any-return]


Result = Any
"""What an arm returns: values, arrays or tensors, as `_equal` compares them."""


def reference_first(arms: Mapping[str, Callable[[], object]], reference: str | None) -> dict[str, Callable[[], object]]:
    """The arms in their order, but the reference before the others.

    Raises:
        InputError: no mapping, fewer than two arms, one that cannot be called, or a reference that is none of them.
    """
    if not isinstance(arms, Mapping):
        raise InputError(f"arms is a {type(arms).__name__}; give a dictionary of names and callables")
    if len(arms) < 2:
        raise InputError(f"{plural(len(arms), 'arm')}; a comparison needs two or more")
    for name, call in arms.items():
        if not callable(call):
            raise InputError(f"arm {name!r} is {call!r}, not something that can be called")
    first = next(iter(arms)) if reference is None else reference
    if first not in arms:
        raise InputError(f"reference {first!r} is no arm; the arms are {', '.join(arms)}")
    return {first: arms[first], **arms}


def check_results(arms: Mapping[str, Callable[[], object]], check: bool | Callable[[Result, Result], bool]) -> None:
    """Call every arm once and see that the results agree with the first one's.

    Args:
        arms: the reference first.
        check: False for no check, True for equality, or a function of two results.

    Raises:
        ArmFailed: an arm raised, or its result differs.
    """
    if check is False:
        return
    agree = _equal if check is True else check
    reference, *others = arms
    expected = _result(reference, arms[reference])
    for name in others:
        if not agree(expected, _result(name, arms[name])):
            raise ArmFailed(name, 1, f"its result differs from that of {reference!r}, so they do not do the same work")


def _result(name: str, call: Callable[[], object]) -> Result:
    try:
        return call()
    except Exception as error:
        raise ArmFailed(name, 1, f"{type(error).__name__}: {error}") from error


def _equal(expected: Result, actual: Result) -> bool:
    """Equality of values, arrays and tensors; not a number equals itself."""
    if hasattr(expected, "shape") or hasattr(actual, "shape"):
        a, b = np.asarray(expected), np.asarray(actual)
        return a.shape == b.shape and a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))
    return bool(expected == actual)


@contextmanager
def call_alarm(seconds: float) -> Iterator[None]:
    """Interrupt a call that does not return; only in the main thread, and only if nobody else uses the alarm.

    Raises:
        InputError: the time is up; from within an arm's call it is an ArmFailed with the arm's name.
    """
    usable = (
        hasattr(signal, "SIGALRM")  # Windows has none
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        and signal.getitimer(signal.ITIMER_REAL)[0] == 0
        and seconds < 1e9
    )
    if not usable:
        yield
        return

    def late(_number: int, _frame: object) -> None:
        raise TimeoutError(
            f"it has not returned within {seconds:.0f} s, twice the budget; give a larger budget, or a number of rounds"
        )

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    except TimeoutError as error:  # outside of any arm's call: the import of a module, for example
        raise InputError(str(error)) from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
