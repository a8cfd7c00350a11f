"""A worker that times calls of one function in an interpreter of its own; standard library only.

It is started as a script by `WorkerArm`, perhaps by a Python in which perstep is not installed.
Protocol: one JSON object a line. In: {"calls": n}. Out: {"ns": n} or {"error": text, "call": n}.
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


def main() -> None:
    """Answer requests until standard input ends."""
    path, name = sys.argv[1:]
    answers = sys.stdout
    made = 0
    with contextlib.redirect_stdout(sys.stderr):
        call: Callable[[], object] | None = None
        gc.disable()
        for line in sys.stdin:
            calls = json.loads(line)["calls"]
            answer: dict[str, object]
            try:
                if call is None:
                    call = load(path, name)
                call()
                begun = time.perf_counter_ns()
                for _ in repeat(None, calls):
                    call()
                answer = {"ns": time.perf_counter_ns() - begun}
                made += calls + 1
            except BaseException as error:
                answer = {"error": f"{type(error).__name__}: {error}", "call": made + 1}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
