"""What disturbed a round: switches, faults, stolen and throttled time, collections.

A `NoiseProbe` reads kernel counters before and after a round; the difference
is a `Noise`, in integers. A round that was hit is marked and kept: dropping
rounds by what happened to them would choose the result. Nothing is read
inside a round.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from perstep.errors import InputError
from perstep.machine._counters import Counters, KernelFile, Reading, current_cpu, difference
from perstep.machine._sources import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

JIFFY_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

N = TypeVar("N", int, float)


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """What happened between two readings; None where this system has no such counter.

    `waited_ns` is the time that the process's threads were ready to run and did
    not, added up; `cpu_ns` is the CPU time of the whole process, `busy_jiffies`
    that of all processes (a jiffy is `jiffy_ns` long). Page faults and switches are the
    process's, `thread_involuntary_switches` the measuring thread's.
    `pressure_ns` is the time in which some task of the machine waited for a CPU.
    `frequency_hz` and `load_average_1min` are levels at the end, not differences.
    """

    wall_ns: int
    cpu_ns: int
    involuntary_switches: int
    voluntary_switches: int
    thread_involuntary_switches: int | None = None
    minor_faults: int
    major_faults: int
    gc_collections: int
    gc_full_collections: int
    waited_ns: int | None = None
    pressure_ns: int | None = None
    total_jiffies: int | None = None
    busy_jiffies: int | None = None
    steal_jiffies: int | None = None
    jiffy_ns: int
    throttled_periods: int | None = None
    throttled_ns: int | None = None
    frequency_hz: int | None = None
    load_average_1min: float | None = None


@dataclass(frozen=True)
class NoiseLimits:
    """From where on a round counts as hit. Shares are of the round's wall time or CPU time.

    Attributes:
        waited_share: from where on `waited_share` of a round counts.
        switches_per_s: involuntary switches of the thread; asked only where `waited_ns` is unknown.
        steal_share: of all CPU time that the hypervisor gave to others.
        others_share: of all CPU time that other processes used.
        others_jiffies: at least so much of it, because the kernel counts in whole jiffies.
    """

    waited_share: float = 0.01
    switches_per_s: float = 50.0
    steal_share: float = 0.01
    others_share: float = 0.10
    others_jiffies: int = 5


DEFAULT_LIMITS = NoiseLimits()

CEILING_LIMITS = NoiseLimits(waited_share=0.05, steal_share=0.05)
"""For rounds of ceilings, which last up to a second: less than this is taken from few of a round's timings."""

TAKEN = ("preempted", "steal", "throttled")
"""The kinds of disturbance in which the processor was taken away; what was timed meanwhile is no ceiling."""


BUSY_SHARE = 0.05
"""A round that waited for a processor for more than this share of its time was taken apart by the scheduler."""


def waited_share(noise: Noise) -> float | None:
    """The share of a round in which it could have run and had no processor; None where nothing tells.

    Of threads that wait beside others that run it is their share of all the time that the threads ran or waited.
    Where the process never gave up its processor by itself, all the wall time without processor time was waited for:
    that also counts what a hypervisor took, which the run queue does not know.
    """
    waited_ns, gap_ns = noise.waited_ns, max(noise.wall_ns - noise.cpu_ns, 0)
    if noise.voluntary_switches == 0:
        waited_ns = max(waited_ns or 0, gap_ns)
    elif waited_ns is None and noise.involuntary_switches > noise.voluntary_switches:
        waited_ns = gap_ns
    if waited_ns is None or noise.wall_ns <= 0:
        return None
    return waited_ns / max(noise.wall_ns, waited_ns + noise.cpu_ns)


def busy_reason(shares: Iterable[float | None]) -> str:
    """Why wall time gives no verdict: most rounds waited for a processor. Empty if they did not.

    Args:
        shares: of each round, the share of its time in which it waited; None counts as none.
    """
    measured = sorted(share or 0.0 for share in shares)
    if not measured or measured[(len(measured) - 1) // 2] <= BUSY_SHARE:
        return ""
    return f"the machine was busy: waited {sum(measured) / len(measured):.0%}".replace("%", " %")


def others_jiffies(noise: Noise) -> float | None:
    """CPU time that other processes used, in jiffies; by the kernel's rounding it may be below 0."""
    return None if noise.busy_jiffies is None else noise.busy_jiffies - noise.cpu_ns / noise.jiffy_ns


def is_hit(noise: Noise, limits: NoiseLimits = DEFAULT_LIMITS) -> list[str]:
    """The kinds of disturbance that hit a round; an empty list if none did.

    Args:
        noise: one round's readings.
        limits: from where on a reading counts.

    Returns:
        Some of `preempted`, `major faults`, `steal`, `throttled`,
        `other processes`, `garbage collection` (full collections only).
    """
    wall_s, total = noise.wall_ns / 1e9, noise.total_jiffies or 0
    others = others_jiffies(noise)
    if noise.waited_ns is not None:
        preempted = (waited_share(noise) or 0.0) > limits.waited_share
    else:
        switches = noise.thread_involuntary_switches
        switches = noise.involuntary_switches if switches is None else switches
        preempted = switches > limits.switches_per_s * wall_s
    hits = {
        "preempted": preempted,
        "major faults": noise.major_faults > 0,
        "steal": (noise.steal_jiffies or 0) > limits.steal_share * total,
        "throttled": bool(noise.throttled_periods),
        "other processes": others is not None
        and others >= limits.others_jiffies
        and others > limits.others_share * total,
        "garbage collection": noise.gc_full_collections > 0,
    }
    return [kind for kind, hit in hits.items() if hit]


def was_taken(noise: Noise) -> bool:
    """Whether the processor was taken away in a round for more of it than `CEILING_LIMITS` allow."""
    return any(kind in TAKEN for kind in is_hit(noise, CEILING_LIMITS))


class NoiseSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Noise over all rounds: how many were hit and by what, sums, and shares of the whole.

    A share is None if no round had the counter. `busy` says why wall time gives
    no verdict (`busy_reason`), and is empty where it does. `frequency_low_hz` and
    `frequency_high_hz` are the extremes of the readings at the rounds' ends.
    """

    rounds: int
    rounds_hit: int
    by_kind: dict[str, int]
    wall_ns: int
    involuntary_switches: int
    major_faults: int
    gc_full_collections: int
    waited_share: float | None = None
    busy: str = ""
    steal_share: float | None = None
    others_share: float | None = None
    throttled_periods: int | None = None
    throttled_ns: int | None = None
    frequency_low_hz: int | None = None
    frequency_high_hz: int | None = None


def summarise_noise(rounds: Iterable[Noise], limits: NoiseLimits = DEFAULT_LIMITS) -> NoiseSummary:
    """Sum up the noise of all rounds.

    Raises:
        InputError: there is no round.
    """
    noises = list(rounds)
    if not noises:
        raise InputError("a noise summary needs at least one round; none was given")
    kinds = [is_hit(noise, limits) for noise in noises]
    frequencies = [noise.frequency_hz for noise in noises if noise.frequency_hz is not None]
    total = _sum(noise.total_jiffies for noise in noises)
    return NoiseSummary(
        rounds=len(noises),
        rounds_hit=sum(1 for hits in kinds if hits),
        by_kind=dict(Counter(kind for hits in kinds for kind in hits)),
        wall_ns=sum(noise.wall_ns for noise in noises),
        involuntary_switches=sum(noise.involuntary_switches for noise in noises),
        major_faults=sum(noise.major_faults for noise in noises),
        gc_full_collections=sum(noise.gc_full_collections for noise in noises),
        waited_share=_share(_sum(_waited_wall_ns(n) for n in noises), sum(n.wall_ns for n in noises)),
        busy=busy_reason(waited_share(noise) for noise in noises),
        steal_share=_share(_sum(n.steal_jiffies for n in noises), total),
        others_share=_share(_sum(others_jiffies(n) for n in noises), total),
        throttled_periods=_sum(n.throttled_periods for n in noises),
        throttled_ns=_sum(n.throttled_ns for n in noises),
        frequency_low_hz=min(frequencies, default=None),
        frequency_high_hz=max(frequencies, default=None),
    )


def _waited_wall_ns(noise: Noise) -> float | None:
    share = waited_share(noise)
    return None if share is None else share * noise.wall_ns


def _sum(values: Iterable[N | None]) -> N | None:
    counted = [value for value in values if value is not None]
    return sum(counted) if counted else None


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


class NoiseProbe:
    """Reads noise at the two ends of a round; some 15 microseconds at each.

    Files stay open between readings. Make and use a probe in the thread that
    measures: `thread_involuntary_switches` are that thread's.

    Examples:
        with NoiseProbe() as probe:
            probe.start()
            run_one_round()
            noise = probe.stop()
    """

    def __init__(
        self,
        source: Source | None = None,
        *,
        now: Callable[[], int] = time.perf_counter_ns,
        cpu: Callable[[], int] | None = None,
    ) -> None:
        """Open what will be read; what cannot be opened stays None in every `Noise`.

        Args:
            source: the filesystem root to read below.
            now: the clock of `wall_ns`, in nanoseconds.
            cpu: gives the CPU whose frequency is read; by default the one the thread runs on.
        """
        source = source or Source()
        self._now = now
        self._cpu = cpu or current_cpu()
        self._frequency_files: dict[int, KernelFile] = {}
        self._root = source.root
        self._counters = Counters(source)
        self._load = KernelFile(source.root / "proc/loadavg")
        self._begin: Reading | None = None
        self._begin_ns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._counters.close()
        for file in (self._load, *self._frequency_files.values()):
            file.close()

    def start(self) -> None:
        """Read the counters, and the clock last, so that reading them is not part of the round."""
        self._begin = self._counters.read()
        self._begin_ns = self._now()

    def stop(self) -> Noise:
        """Read the clock, then the counters, and give the differences.

        Raises:
            InputError: `start` was not called before.
        """
        noise = self.so_far()
        self._begin = None
        return noise

    def so_far(self) -> Noise:
        """The differences up to now; the round goes on.

        Raises:
            InputError: `start` was not called before.
        """
        end_ns = self._now()
        if self._begin is None:
            raise InputError("NoiseProbe.stop() without start(): call start() before the round")
        changed = difference(self._counters.read(), self._begin)
        levels = {
            "wall_ns": end_ns - self._begin_ns,
            "jiffy_ns": JIFFY_NS,
            "frequency_hz": self._frequency_hz(),
            "load_average_1min": self._load_average(),
        }
        return msgspec.convert({**changed, **levels}, Noise)

    def _frequency_hz(self) -> int | None:
        if self._cpu is None:
            return None
        cpu = self._cpu()
        if cpu not in self._frequency_files:
            path = f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"
            self._frequency_files[cpu] = KernelFile(self._root / path)
        text = self._frequency_files[cpu].text().strip()
        return int(text) * 1000 if text.isdigit() else None

    def _load_average(self) -> float | None:
        try:
            return float(self._load.text().split()[0])
        except (IndexError, ValueError):
            return None


class QuietProbe:
    """A probe of a machine on which only a clock moves: what tests on a fake clock measure with.

    Args:
        now: the clock of `wall_ns`, in nanoseconds.
        processor: the clock of `cpu_ns`.
    """

    def __init__(self, now: Callable[[], int], processor: Callable[[], int]) -> None:
        self._clocks = now, processor
        self._begin = [0, 0]

    def start(self) -> None:
        """Read the clocks."""
        self._begin = [read() for read in self._clocks]

    def stop(self) -> Noise:
        """Read the clocks; nothing but waiting for a processor disturbs this machine."""
        wall_ns, cpu_ns = (read() - begin for read, begin in zip(self._clocks, self._begin, strict=True))
        return Noise(
            wall_ns=wall_ns,
            cpu_ns=cpu_ns,
            involuntary_switches=0,
            voluntary_switches=0,
            minor_faults=0,
            major_faults=0,
            gc_collections=0,
            gc_full_collections=0,
            jiffy_ns=JIFFY_NS,
        )

    def close(self) -> None:
        """Nothing is open."""
