"""Arms that run outside this process: whole commands, and functions in another interpreter."""

import contextlib
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from perstep.errors import InputError
from perstep.measure.blocks import ArmFailed, BlockTime
from perstep.measure.clock import Clock

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

_WORKER = Path(__file__).with_name("worker.py")


def _environment(seed: int) -> dict[str, str]:
    """This process's environment with a seed for the hashes of strings.

    With a seed of its own in each process, a function that filled a dictionary differed by 10 % between processes;
    with one seed a pair by 3.8 %.
    """
    return {**os.environ, "PYTHONHASHSEED": str(seed)}


class CommandArm:
    """A command, a fresh process at every call, from its start to its end. No call is discarded: none has a past.

    Args:
        name: of the arm.
        command: its words; a string is split as a shell would, and no shell runs it. Its output is thrown away.
        clock: read before and after each call.

    Raises:
        InputError: the command is empty or cannot be split.
    """

    fresh = True
    least_calls = 1

    def __init__(self, name: str, command: str, clock: Clock) -> None:
        try:
            self._argv = shlex.split(command)
        except ValueError as error:
            raise InputError(f"command {command!r} cannot be split into words: {error}") from error
        if not self._argv:
            raise InputError("a command is empty; give a program and its arguments")
        self._name = name
        self._now = clock.now
        self._calls = 0
        self._seed = 0

    def renew(self, seed: int, calls: int) -> None:  # noqa: ARG002 - the arms' signature
        """See `Arm`: the calls of a round get this seed."""
        self._seed = seed

    def block(self, calls: int) -> BlockTime:
        """See `Arm`.

        Raises:
            ArmFailed: the program cannot be started or exits with a code other than 0.
        """
        times = [self._call() for _ in range(calls)]
        waits = [time.waited_ns for time in times if time.waited_ns is not None]
        return BlockTime(
            sum(time.wall_ns for time in times),
            sum(time.processor_ns for time in times),
            sum(waits) if len(waits) == len(times) else None,
        )

    def _call(self) -> BlockTime:
        self._calls += 1
        before_ns, begun_ns = _children_ns(), self._now()
        try:
            with self._started() as process:
                said = process.stderr.read() if process.stderr is not None else b""
                waited_ns = _waited_at_its_end(process.pid)
                code = process.wait()
        except TimeoutError as error:  # the alarm of the comparison
            raise ArmFailed(self._name, self._calls, str(error)) from error
        except OSError as error:
            raise ArmFailed(self._name, self._calls, f"{self._argv[0]}: {error.strerror}") from error
        wall_ns = self._now() - begun_ns
        if code != 0:
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            raise ArmFailed(self._name, self._calls, ": ".join([f"exit code {code}", *last]))
        return BlockTime(wall_ns, _children_ns() - before_ns, waited_ns)

    @contextlib.contextmanager
    def _started(self) -> Iterator[subprocess.Popen[bytes]]:
        """The process; it does not outlive this, whatever happens."""
        process = subprocess.Popen(
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(self._seed),
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            _close(process.stderr)
            process.wait()

    def close(self) -> None:
        """Every process has ended."""


def _children_ns() -> int:
    """Processor time of all child processes that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((usage.ru_utime + usage.ru_stime) * 1e9)


def _waited_at_its_end(pid: int) -> int | None:
    """Wait for the end of a child; how long its first thread was ready to run and did not, if the kernel tells."""
    if not hasattr(os, "waitid"):
        return None
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended and can still be read
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _close(pipe: IO[bytes] | IO[str] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.close()


class WorkerArm:
    """A function of a script, timed inside a worker process of a given interpreter; each round has a new worker.

    Args:
        name: of the arm.
        python: the interpreter; perstep need not be installed there.
        script: path of the Python file.
        function: its function to call, without arguments.

    Raises:
        InputError: the interpreter cannot be started.
    """

    fresh = True
    least_calls = 2

    def __init__(self, name: str, python: str, script: str, function: str) -> None:
        self._name = name
        self._argv = [python, str(_WORKER), script, function]
        self._calls = 0
        self._process = self._start(0)

    def _start(self, seed: int) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(seed)
            )
        except OSError as error:
            raise InputError(
                f"cannot start {self._argv[0]}: {error.strerror}; give the path of a Python interpreter"
            ) from error

    def renew(self, seed: int, calls: int) -> None:
        """See `Arm`: a new process, which imports the script and makes one block that does not count.

        Raises:
            ArmFailed: see `block`.
        """
        self.close()
        self._process = self._start(seed)
        self.block(calls)

    def block(self, calls: int) -> BlockTime:
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
        return BlockTime(int(answer["wall_ns"]), int(answer["processor_ns"]), answer["waited_ns"])

    def close(self) -> None:
        """End the worker."""
        for pipe in (self._process.stdin, self._process.stdout):
            _close(pipe)
        self._process.kill()
        self._process.wait()
