"""What a device did in each part of each step: kernels, by the range that launched them.

A kernel belongs to the part, and to the step, in whose range its launch lies on the host; so a difference between the
two clocks moves nothing. Busy time is that of the device's own timeline: an instant on which several kernels run
belongs to the one that started first, so parts add up to the time in which the device did anything. What cannot be
attributed is counted and named, never dropped (law "parts add up"). A pure function of a trace's rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from perstep._words import plural
from perstep.errors import InvalidMeasurement
from perstep.measure.active import RESIDUAL
from perstep.measure.device_rows import (
    RANGE_PREFIX,
    STEP_PREFIX,
    Innermost,
    Row,
    Sorted,
    is_graph_launch,
    sort_rows,
)
from perstep.measure.graph_replays import Seen

Launches = list[tuple[str, str | None]]
"""What a thread launched one by one, in the order of the host: the kernel's name, and its part; None for none."""
UNMATCHED = "no launch seen"
"""In place of a part: kernels whose launch is not in the trace. Their step is that of the kernel before them."""


@dataclass
class KernelSum:
    """The kernels of one name in a part: how many, and their own durations together."""

    count: int = 0
    total_ns: int = 0


@dataclass
class PartWork:
    """What the device did for one part of one step.

    Attributes:
        busy_ns: instants on which a kernel of the part ran and none that had started before it.
        sum_ns: the kernels' own durations, added up.
        launches: calls of the host that put work on the device; a replayed graph is one.
        replayed_ns: of `busy_ns`, what lies in graph replays that could not be split into parts.
        kernels: name -> count and total.
    """

    busy_ns: int = 0
    sum_ns: int = 0
    launches: int = 0
    replayed_ns: int = 0
    kernels: dict[str, KernelSum] = field(default_factory=dict)


@dataclass
class StepWork:
    """One step: its kind and its parts; `residual` is what lies unattributed."""

    kind: str
    parts: dict[str, PartWork] = field(default_factory=dict)

    def part(self, name: str) -> PartWork:
        """The work of a part, empty at first."""
        return self.parts.setdefault(name, PartWork())

    @property
    def busy_ns(self) -> int:
        """The time in which the device did anything for the step."""
        return sum(part.busy_ns for part in self.parts.values())


class TraceCounts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What of a trace's kernels is known; in a run's samples it stands in each profiled round.

    Attributes:
        total_ns: all kernels' own durations, whatever is known of them.
        kernels: how many.
        unmatched: kernels without a launch in the trace.
        unmatched_ns: their own durations.
        by_operator: kernels whose launch is missing, but not the operator around it.
        idle_launches: launches of which the trace holds no kernel.
        began_early: kernels that began before their launch: so far apart the two clocks are, at least at times.
        early_ns: by how much at most.
        split_replays: graph replays whose kernels were told apart.
        whole_replays: those that were not.
    """

    total_ns: int
    kernels: int
    unmatched: int = 0
    unmatched_ns: int = 0
    by_operator: int = 0
    idle_launches: int = 0
    began_early: int = 0
    early_ns: int = 0
    split_replays: int = 0
    whole_replays: int = 0


@dataclass
class TraceWork:
    """What a trace says of a device.

    Attributes:
        steps: in their order.
        counts: of its kernels.
        outside_ns: work that was launched in no step.
        launched: what each thread launched one by one.
    """

    steps: list[StepWork] = field(default_factory=list)
    counts: TraceCounts = field(default_factory=lambda: TraceCounts(total_ns=0, kernels=0))
    outside_ns: int = 0
    launched: list[Launches] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """Where a kernel belongs: step by its index (None: in none), part, and whether it is in a replay left whole."""

    step: int | None
    part: str
    whole_replay: bool = False


def attribute(
    rows: Iterable[Row],
    *,
    prefix: str = RANGE_PREFIX,
    step_prefix: str = STEP_PREFIX,
    steps: Sequence[tuple[str, int, int]] | None = None,
    seen: Sequence[Launches] = (),
) -> TraceWork:
    """The device's work by step and part.

    Args:
        rows: of a trace of one device.
        prefix: of the host ranges that are parts.
        step_prefix: of the host ranges that are steps.
        steps: (kind, start, end) on the host's clock, in place of ranges.
        seen: `launched` of earlier traces of the same work: kernels of a graph that is replayed here may have been
            launched one by one there.

    Raises:
        InvalidMeasurement: several devices worked: their times are not one device's.
    """
    sorted_rows = sort_rows(rows, prefix=prefix, step_prefix=step_prefix)
    devices = {row.device for row in sorted_rows.work}
    if len(devices) > 1:
        raise InvalidMeasurement(f"{plural(len(devices), 'device')} worked in this trace; attribute one at a time")
    if steps is None:
        steps = [(row.name.removeprefix(step_prefix), row.start_ns, row.end_ns) for row in sorted_rows.steps]
    where = _Where(sorted_rows, steps, prefix)
    work = TraceWork([StepWork(kind) for kind, _, _ in steps])
    work.launched = _sequences(sorted_rows, where)
    places = _places(sorted_rows, where, work, Seen([*seen, *work.launched]))
    _add_up(sorted_rows.work, places, work)
    _count_launches(sorted_rows, where, work)
    return work


class _Where:
    """Which step and part a moment of a host thread lies in."""

    def __init__(self, sorted_rows: Sorted, steps: Sequence[tuple[str, int, int]], prefix: str) -> None:
        by_thread: dict[int, list[tuple[str, int, int]]] = {}
        for row in sorted_rows.parts:
            by_thread.setdefault(row.stream, []).append((row.name.removeprefix(prefix), row.start_ns, row.end_ns))
        # Some profilers number the threads of calls and of ranges differently: then time alone decides.
        if not any(row.stream in by_thread for row in sorted_rows.launches.values()):
            by_thread = {-1: [each for ranges in by_thread.values() for each in ranges]}
        self._alone = -1 in by_thread
        self._parts = {thread: Innermost(ranges) for thread, ranges in by_thread.items()}
        self._steps = Innermost([(str(index), start, end) for index, (_, start, end) in enumerate(steps)])

    def part(self, row: Row) -> str | None:
        """The innermost part around a host row, None for none."""
        ranges = self._parts.get(-1 if self._alone else row.stream)
        return None if ranges is None else ranges.at(row.start_ns)

    def step(self, row: Row) -> int | None:
        """The index of the step around a host row, None for none."""
        index = self._steps.at(row.start_ns)
        return None if index is None else int(index)


def _places(sorted_rows: Sorted, where: _Where, work: TraceWork, sequences: Seen) -> list[_Place]:
    """Where each row of `found.work` belongs, in their order; counts what is odd."""
    in_replays = _replay_parts(sorted_rows, sequences, work)
    places, before = [], _Place(None, UNMATCHED)
    for index, kernel in enumerate(sorted_rows.work):
        launch = sorted_rows.launches.get(kernel.correlation)
        if launch is None and kernel.linked and kernel.linked in sorted_rows.operators:
            launch = sorted_rows.operators[kernel.linked]
            work.counts.by_operator += 1
        if launch is None:
            work.counts.unmatched += 1
            work.counts.unmatched_ns += kernel.duration_ns
            places.append(_Place(before.step, UNMATCHED))
            continue
        early = launch.start_ns - kernel.start_ns
        if early > 0:
            work.counts.began_early += 1
            work.counts.early_ns = max(work.counts.early_ns, early)
        part, whole = where.part(launch), False
        if is_graph_launch(launch.name):
            whole = index not in in_replays
            part = part if whole else in_replays[index]
        before = _Place(where.step(launch), part or RESIDUAL, whole)
        places.append(before)
    return places


def _sequences(sorted_rows: Sorted, where: _Where) -> list[Launches]:
    """What each thread launched one by one, in the order of the host; replays left out."""
    by_thread: dict[int, list[tuple[int, str, str | None]]] = {}
    for kernel in sorted_rows.work:
        launch = sorted_rows.launches.get(kernel.correlation)
        if launch is not None and not is_graph_launch(launch.name):
            by_thread.setdefault(launch.stream, []).append((launch.start_ns, kernel.name, where.part(launch)))
    ordered = (sorted(launched, key=lambda one: one[0]) for launched in by_thread.values())
    return [[(name, part) for _, name, part in sequence] for sequence in ordered]


def _replay_parts(sorted_rows: Sorted, sequences: Seen, work: TraceWork) -> dict[int, str | None]:
    """Index in `found.work` -> part, of the kernels of those graph replays that can be split."""
    replays: dict[int, list[int]] = {}
    for index, kernel in enumerate(sorted_rows.work):
        launch = sorted_rows.launches.get(kernel.correlation)
        if launch is not None and is_graph_launch(launch.name):
            replays.setdefault(kernel.correlation, []).append(index)
    split: dict[int, str | None] = {}
    for indices in replays.values():
        parts = sequences.parts_of([sorted_rows.work[index].name for index in indices])
        if parts is None or not any(parts):
            work.counts.whole_replays += 1
        else:
            work.counts.split_replays += 1
            split.update(zip(indices, parts, strict=True))
    return split


def _add_up(kernels: Sequence[Row], places: Sequence[_Place], work: TraceWork) -> None:
    """Give each kernel's time to its place; the busy time is what no kernel that started before it covers."""
    covered_ns = kernels[0].start_ns if kernels else 0
    for kernel, place in zip(kernels, places, strict=True):
        busy_ns = max(0, kernel.end_ns - max(kernel.start_ns, covered_ns))
        covered_ns = max(covered_ns, kernel.end_ns)
        work.counts.total_ns += kernel.duration_ns
        work.counts.kernels += 1
        if place.step is None:
            work.outside_ns += kernel.duration_ns
            continue
        part = work.steps[place.step].part(place.part)
        part.busy_ns += busy_ns
        part.sum_ns += kernel.duration_ns
        part.replayed_ns += busy_ns if place.whole_replay else 0
        kernel_sum = part.kernels.setdefault(kernel.name, KernelSum())
        kernel_sum.count += 1
        kernel_sum.total_ns += kernel.duration_ns


def _count_launches(sorted_rows: Sorted, where: _Where, work: TraceWork) -> None:
    """Calls of the host by step and part, and those of which no kernel is in the trace."""
    launched = {kernel.correlation for kernel in sorted_rows.work}
    for correlation, launch in sorted_rows.launches.items():
        if correlation not in launched:
            work.counts.idle_launches += 1
            continue
        step = where.step(launch)
        if step is not None:
            work.steps[step].part(where.part(launch) or RESIDUAL).launches += 1
