"""Arms that run outside this process: whole commands, and functions in another interpreter."""

import json
import shlex
import subprocess
from pathlib import Path

from perstep.errors import InputError
from perstep.measure.blocks import ArmFailed
from perstep.measure.clock import Clock

_WORKER = Path(__file__).with_name("worker.py")


class CommandArm:
    """A command, a fresh process at every call, from its start to its end.

    Args:
        name: of the arm.
        command: as a shell would split it; no shell runs it. Its output is thrown away.
        clock: read before and after a block.

    Raises:
        InputError: the command is empty or cannot be split.
    """

    def __init__(self, name: str, command: str, clock: Clock) -> None:
        try:
            self._argv = shlex.split(command)
        except ValueError as error:
            raise InputError(f"command {command!r} cannot be split into words: {error}") from error
        if not self._argv:
            raise InputError("a command is empty; give a program and its arguments")
        self._name = name
        self._clock = clock
        self._calls = 0

    def block(self, calls: int) -> int:
        """See `Arm`.

        Raises:
            ArmFailed: the program cannot be started or exits with a code other than 0.
        """
        self._call()
        begun_ns = self._clock.now()
        for _ in range(calls):
            self._call()
        return self._clock.now() - begun_ns

    def _call(self) -> None:
        self._calls += 1
        try:
            done = subprocess.run(
                self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
            )
        except TimeoutError as error:  # the alarm of the comparison; `run` has killed the process
            raise ArmFailed(self._name, self._calls, str(error)) from error
        except OSError as error:
            raise ArmFailed(self._name, self._calls, f"{self._argv[0]}: {error.strerror}") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ArmFailed(self._name, self._calls, f"exit code {done.returncode}" + (f": {said[-1]}" if said else ""))

    def close(self) -> None:
        """Every process has ended."""


class WorkerArm:
    """A function of a script, in one fresh worker process of a given interpreter, timed inside the worker.

    Args:
        name: of the arm.
        python: the interpreter; perstep need not be installed there.
        script: path of the Python file.
        function: its function to call, without arguments.

    Raises:
        InputError: the interpreter cannot be started.
    """

    def __init__(self, name: str, python: str, script: str, function: str) -> None:
        self._name = name
        self._calls = 0
        try:
            self._process = subprocess.Popen(
                [python, str(_WORKER), script, function], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise InputError(
                f"cannot start {python}: {error.strerror}; give the path of a Python interpreter"
            ) from error

    def block(self, calls: int) -> int:
        """See `Arm`.

        Raises:
            ArmFailed: the function raised, or the worker died.
        """
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101
        try:
            self._process.stdin.write(json.dumps({"calls": calls}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        except TimeoutError as error:  # the alarm of the comparison
            raise ArmFailed(self._name, self._calls + 1, str(error)) from error
        if not line:
            raise ArmFailed(self._name, self._calls + 1, f"its worker ended with exit code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ArmFailed(self._name, answer["call"], answer["error"])
        self._calls += calls + 1
        return int(answer["ns"])

    def close(self) -> None:
        """End the worker."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()
