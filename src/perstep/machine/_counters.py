"""The kernel's and the interpreter's counters of what disturbs a process, as one flat reading.

Each counter only grows, so the difference of two readings is what happened in
between. A counter that this system does not have is None. Files stay open:
opening one costs several times as much as reading it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from typing import TYPE_CHECKING

from perstep.errors import InputError
from perstep.machine._limits import throttle_file

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from perstep.machine._sources import Source

RUSAGE_THREAD: int | None = getattr(resource, "RUSAGE_THREAD", None)  # Linux only
READ_BYTES = 512  # the longest of these texts that is needed, the first line of /proc/stat, has about 120

Reading = dict[str, int | None]


def current_cpu() -> Callable[[], int] | None:
    """The C library's `sched_getcpu`: the CPU that the calling thread runs on; None without it."""
    try:
        function: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError):
        return None
    return function


class KernelFile:
    """A small kernel file that stays open; one that cannot be opened always reads as empty."""

    def __init__(self, path: Path | None) -> None:
        self._descriptor: int | None = None
        if path is not None:
            with contextlib.suppress(OSError):
                self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def text(self) -> str:
        """The first 512 bytes as text."""
        if self._descriptor is None:
            return ""
        try:
            return os.pread(self._descriptor, READ_BYTES, 0).decode(errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        """Close the file; it reads as empty from then on."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Counters:
    """The counters of this process, of the thread that made this object, and of the machine.

    Raises:
        InputError: the system does not count a process's time and switches, so no disturbance would be seen.
    """

    def __init__(self, source: Source) -> None:
        if resource is None:
            raise InputError(
                "this system does not count what disturbs a process (Windows has no getrusage), so nothing can be"
                " measured; use Linux, macOS or WSL"
            )
        self._stat = KernelFile(source.root / "proc/stat")
        self._sched = KernelFile(source.root / "proc/thread-self/schedstat")
        self._tasks = source.root / "proc/self/task"
        self._pressure = KernelFile(source.root / "proc/pressure/cpu")
        self._throttle = KernelFile(throttle_file(source))

    def close(self) -> None:
        """Close the files."""
        for file in (self._stat, self._sched, self._pressure, self._throttle):
            file.close()

    def read(self) -> Reading:
        """All counters, by the names of the fields of `Noise`."""
        process = resource.getrusage(resource.RUSAGE_SELF)
        thread = None if RUSAGE_THREAD is None else resource.getrusage(RUSAGE_THREAD)
        generations = gc.get_stats()
        total, busy, steal = parse_jiffies(self._stat.text())
        periods, throttled_ns = parse_throttled(self._throttle.text())
        return {
            "cpu_ns": round((process.ru_utime + process.ru_stime) * 1e9),
            "involuntary_switches": process.ru_nivcsw,
            "voluntary_switches": process.ru_nvcsw,
            "thread_involuntary_switches": None if thread is None else thread.ru_nivcsw,
            "minor_faults": process.ru_minflt,
            "major_faults": process.ru_majflt,
            "gc_collections": sum(one["collections"] for one in generations),
            "gc_full_collections": generations[-1]["collections"],
            "waited_ns": self._waited_ns(),
            "pressure_ns": parse_pressure(self._pressure.text()),
            "total_jiffies": total,
            "busy_jiffies": busy,
            "steal_jiffies": steal,
            "throttled_periods": periods,
            "throttled_ns": throttled_ns,
        }

    def _waited_ns(self) -> int | None:
        """The waiting of all threads; one that has ended takes its own with it."""
        threads = count_threads(self._tasks)
        if threads < 2:  # the usual case: one open file instead of a folder and a file a thread
            return parse_waited(self._sched.text())
        return sum(waited_of_threads(self._tasks))


def count_threads(tasks: Path) -> int:
    """How many threads a process has by its `task` folder: each is a folder, which counts as a link; 0 if unknown."""
    try:
        return tasks.stat().st_nlink - 2
    except OSError:
        return 0


def waited_of_threads(tasks: Path) -> list[int]:
    """The waiting of each thread in a `task` folder, in nanoseconds."""
    waited = []
    for task in tasks.iterdir():
        with contextlib.suppress(OSError):  # it ended since the folder was listed
            waited.append(parse_waited((task / "schedstat").read_text()) or 0)
    return waited


def difference(end: Reading, begin: Reading) -> Reading:
    """`end - begin` for each counter; None where either is None."""
    return {
        name: None if after is None or (before := begin[name]) is None else after - before
        for name, after in end.items()
    }


def parse_waited(schedstat: str) -> int | None:
    """Nanoseconds on the run queue: the second of `time on the CPU, time waiting, slices`."""
    words = schedstat.split()
    return int(words[1]) if len(words) >= 2 and words[1].isdigit() else None


def parse_pressure(pressure: str) -> int | None:
    """Nanoseconds in which some task of the machine waited for a processor: `some avg10=... total=µs`."""
    total = pressure.partition("\n")[0].rpartition("total=")[2]
    return int(total) * 1000 if total.isdigit() else None


def parse_jiffies(stat: str) -> tuple[int, int, int] | tuple[None, None, None]:
    """All, busy and stolen jiffies of `cpu user nice system idle iowait irq softirq steal ...`."""
    words = stat.partition("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu" or not all(word.isdigit() for word in words[1:9]):
        return None, None, None
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, words[1:9])
    busy = user + nice + system + irq + softirq  # a guest's time is already in user and nice
    return busy + idle + iowait + steal, busy, steal


def parse_throttled(stat: str) -> tuple[int, int] | tuple[None, None]:
    """Throttled periods and nanoseconds, from `cpu.stat` of cgroup v2 (µs) or v1 (ns)."""
    table = dict(line.split() for line in stat.splitlines() if len(line.split()) == 2)
    periods = table.get("nr_throttled", "")
    micros, nanos = table.get("throttled_usec", ""), table.get("throttled_time", "")
    if not periods.isdigit() or not (micros.isdigit() or nanos.isdigit()):
        return None, None
    return int(periods), int(micros) * 1000 if micros.isdigit() else int(nanos)
