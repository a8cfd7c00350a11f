"""Which other processes use the CPU, found by looking twice.

This takes a fifth of a second or more and reads every process, so it is done
only when asked, and never while something is being measured.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perstep._words import short
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# The kernel counts CPU time in ticks of 10 ms; over 0.2 s one tick is 5 % of a core.
LEAST_SAMPLE_S = 0.2

Key = tuple[int, float]  # pid and start time, because a pid is used again


@dataclass(frozen=True)
class BusyProcess:
    """A process and the CPU time it used, in percent of one core."""

    pid: int
    name: str
    cpu_percent: float


@dataclass(frozen=True)
class ProcessTime:
    """A process's name and the CPU time it has used since it began."""

    name: str
    cpu_s: float


def read_processes() -> dict[Key, ProcessTime]:
    """All processes that may be looked at, except this one."""
    import psutil

    table: dict[Key, ProcessTime] = {}
    for process in psutil.process_iter(["pid", "create_time", "name", "cpu_times"]):
        info = process.info
        if info["cpu_times"] is None or info["pid"] == os.getpid():
            continue  # without permission the times are None
        cpu_s = info["cpu_times"].user + info["cpu_times"].system
        table[info["pid"], info["create_time"]] = ProcessTime(info["name"] or "?", cpu_s)
    return table


def busy_processes(
    sample_s: float = 0.3,
    *,
    least_percent: float = 10.0,
    processes: Callable[[], Mapping[Key, ProcessTime]] = read_processes,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], int] = time.perf_counter_ns,
) -> list[BusyProcess]:
    """The other processes that used at least `least_percent` of one core, busiest first.

    Args:
        sample_s: how long to look, in seconds; at least 0.2.
        least_percent: what counts as busy, in percent of one core.
        processes: reads all processes.
        sleep: waits, in seconds.
        now: a clock in nanoseconds.

    Raises:
        InputError: `sample_s` is under 0.2.
    """
    if sample_s < LEAST_SAMPLE_S:
        raise InputError(f"sample_s is {short(sample_s)}; CPU times are too coarse below {short(LEAST_SAMPLE_S)} s")
    before, begin_ns = processes(), now()
    sleep(sample_s)
    after, end_ns = processes(), now()
    elapsed_s = (end_ns - begin_ns) / 1e9
    busy = [
        BusyProcess(key[0], entry.name, 100 * (entry.cpu_s - before[key].cpu_s) / elapsed_s)
        for key, entry in after.items()
        if key in before
    ]
    chosen = [process for process in busy if process.cpu_percent >= least_percent]
    return sorted(chosen, key=lambda process: -process.cpu_percent)
