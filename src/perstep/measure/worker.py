"""A worker that times calls of one function in an interpreter of its own; standard library only.

It is started as a script by `WorkerArm`, perhaps by a Python in which perstep is not installed.
Protocol: one JSON object a line. In: {"calls": n}.
Out: {"wall_ns": n, "processor_ns": n, "waited_ns": n or null} or {"error": text, "call": n}.
"""

import contextlib
import gc
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path


def load(path: str, name: str) -> Callable[[], object]:
    """The function `name` of the Python file at `path`."""
    sys.path.insert(0, str(Path(path).resolve().parent))
    spec = importlib.util.spec_from_file_location("perstep_worker_script", path)
    assert spec is not None  # noqa: S101 - the path ends in .py
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[], object] | None = getattr(module, name, None)
    if function is None:
        raise AttributeError(f"{path} has no function {name!r}")
    return function


def waited_ns() -> "int | None":
    """How long the threads of this process were ready to run and did not; None where the kernel does not tell."""
    try:
        files = list(Path("/proc/self/task").glob("*/schedstat"))
        return sum(int(file.read_text().split()[1]) for file in files) if files else None
    except (OSError, IndexError, ValueError):
        return None


def timed(call: Callable[[], object], calls: int) -> "dict[str, object]":
    """One call that is not timed, then `calls` that are."""
    call()
    waited, processor = waited_ns(), time.process_time_ns()
    begun = time.perf_counter_ns()
    for _ in repeat(None, calls):
        call()
    wall = time.perf_counter_ns() - begun
    processor = time.process_time_ns() - processor
    after = waited_ns()
    waited = None if after is None or waited is None else max(after - waited, 0)
    return {"wall_ns": wall, "processor_ns": processor, "waited_ns": waited}


def main() -> None:
    """Answer requests until standard input ends."""
    path, name = sys.argv[1:]
    answers = sys.stdout
    calls_made = 0
    with contextlib.redirect_stdout(sys.stderr):
        call: Callable[[], object] | None = None
        gc.disable()
        for line in sys.stdin:
            calls = json.loads(line)["calls"]
            answer: dict[str, object]
            try:
                if call is None:
                    call = load(path, name)
                answer = timed(call, calls)
                calls_made += calls + 1
            except BaseException as error:
                answer = {"error": f"{type(error).__name__}: {error}", "call": calls_made + 1}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
