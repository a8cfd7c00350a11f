"""Rows of a profiler's trace (Kineto, or a Chrome trace made of it): what each is, by its name alone.

A row is something on the host (a range, an operator, a call of the runtime) or something on a device (a kernel, a copy,
a fill). A kernel carries the correlation of the call that launched it. ROCm's rows are named as CUDA's are, with `hip`.
Pure data; knows no profiler and no model.
"""

import heapq
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

RANGE_PREFIX = "perstep:"
"""A host range so named is the part that follows."""
STEP_PREFIX = "perstep-step:"
"""A host range so named is a step of the kind that follows."""

_LAUNCH = re.compile(r"(cuda|cu|hip)(GraphLaunch|(Module|Ext|ExtModule)?Launch(?!HostFunc)|Mem(cpy|set))")
_GRAPH_LAUNCH = re.compile(r"(cuda|cu|hip)GraphLaunch")
_RUNTIME = re.compile(r"(cuda|cu|hip)[A-Z]")
_WAITS = re.compile(r"(Context|Stream|Event) (Sync|Wait Event)")
"""Rows of waiting, which some profilers lay on the device's timeline beside the kernels."""


class Row(NamedTuple):
    """One row of a trace.

    Attributes:
        name: of the kernel, call, operator or range.
        device_type: as torch spells it: `DeviceType.CPU` is the host, all others are devices.
        start_ns: on the trace's clock; host and device may differ by some microseconds.
        duration_ns: of the row.
        correlation: of a call and of the kernels that it launched; operators and ranges count in numbers of their own.
        linked: of a kernel or a call, the number of the operator around it; 0 for none.
        device: the device's number; of a host row, the process.
        stream: the stream; of a host row, the thread.
        annotation: the row is known to be a range, on whichever timeline it lies.
    """

    name: str
    device_type: str
    start_ns: int
    duration_ns: int
    correlation: int
    linked: int
    device: int
    stream: int
    annotation: bool = False

    @property
    def on_host(self) -> bool:
        """Whether it happened on the host."""
        return self.device_type.endswith("CPU")

    @property
    def end_ns(self) -> int:
        """Where it ends."""
        return self.start_ns + self.duration_ns


@dataclass(frozen=True)
class Sorted:
    """The rows of a trace by what they are.

    Attributes:
        parts: host ranges that name a part.
        steps: host ranges that name a step.
        launches: correlation -> the call that put work on a device.
        operators: number -> the operator or range.
        work: kernels, copies and fills, in the order of their start.
    """

    parts: list[Row]
    steps: list[Row]
    launches: dict[int, Row]
    operators: dict[int, Row]
    work: list[Row]


def is_launch(name: str) -> bool:
    """Whether a host row of this name puts work on a device: a kernel, a copy, a fill, a graph.

    >>> is_launch("cudaLaunchKernel"), is_launch("hipMemcpyAsync"), is_launch("cudaStreamSynchronize")
    (True, True, False)
    """
    return _LAUNCH.match(name) is not None


def is_graph_launch(name: str) -> bool:
    """Whether it replays a captured graph: one call, many kernels."""
    return _GRAPH_LAUNCH.match(name) is not None


def sort_rows(rows: Iterable[Row], *, prefix: str = RANGE_PREFIX, step_prefix: str = STEP_PREFIX) -> Sorted:
    """Tell ranges, launches, operators and device work apart.

    A range is repeated on the device's timeline under its own name, from its first to its last kernel; that is no
    work. Such rows are recognised by their name, if it is that of a host row that is known to be a range. A Triton
    kernel has the name of the operator that torch.compile puts around its launch, which is no range. If the profiler
    flags no host row as a range, every name on the host counts as one.

    Args:
        rows: in any order.
        prefix: of the host ranges that are parts.
        step_prefix: of the host ranges that are steps.
    """
    sorted_rows = Sorted([], [], {}, {}, [])
    on_device: list[Row] = []
    host_names: set[str] = set()
    range_names: set[str] = set()
    for row in rows:
        if not row.on_host:
            on_device.append(row)
            continue
        (range_names if row.annotation else host_names).add(row.name)
        if row.name.startswith(step_prefix):
            sorted_rows.steps.append(row)
        elif row.name.startswith(prefix):
            sorted_rows.parts.append(row)
        if _RUNTIME.match(row.name):
            if is_launch(row.name):
                sorted_rows.launches[row.correlation] = row
        else:
            sorted_rows.operators[row.correlation] = row
    no_work = range_names or host_names
    sorted_rows.work.extend(row for row in on_device if not (row.annotation or _is_no_work(row.name, no_work)))
    sorted_rows.work.sort(key=lambda row: (row.start_ns, row.stream, row.correlation))
    for ranges in (sorted_rows.parts, sorted_rows.steps):
        ranges.sort(key=lambda row: (row.start_ns, -row.duration_ns))
    return sorted_rows


def _is_no_work(name: str, ranges: set[str]) -> bool:
    return name in ranges or _WAITS.match(name) is not None


class Innermost:
    """Answers which range a moment lies in: of several that hold it, the one that began last.

    Args:
        ranges: (name, start, end) in nanoseconds; they may be nested, follow each other, or overlap in part.
    """

    def __init__(self, ranges: Sequence[tuple[str, int, int]]) -> None:
        self._times: list[int] = []
        self._names: list[str | None] = []
        begins = sorted(range(len(ranges)), key=lambda index: (ranges[index][1], -ranges[index][2]))
        points = sorted({at for _, start, end in ranges for at in (start, end)})
        running: list[tuple[int, int, str]] = []  # (the later it began the smaller, its end, its name)
        following = 0
        for at in points:
            while following < len(begins) and ranges[begins[following]][1] <= at:
                name, _, end = ranges[begins[following]]
                heapq.heappush(running, (-following, end, name))
                following += 1
            while running and running[0][1] <= at:
                heapq.heappop(running)
            self._times.append(at)
            self._names.append(running[0][2] if running else None)

    def at(self, moment_ns: int) -> str | None:
        """The name of the innermost range that holds a moment; None where none does. A range holds its start alone."""
        index = bisect_right(self._times, moment_ns) - 1
        return self._names[index] if index >= 0 else None

    def pieces(self, start_ns: int, end_ns: int) -> Iterator[tuple[str | None, int, int]]:
        """A stretch of time, cut where the innermost range changes: (name or None, start, end) in their order."""
        index, at = bisect_right(self._times, start_ns) - 1, start_ns
        while at < end_ns:
            following = self._times[index + 1] if index + 1 < len(self._times) else end_ns
            ends = min(following, end_ns)
            yield (self._names[index] if index >= 0 else None), at, ends
            index, at = index + 1, ends
