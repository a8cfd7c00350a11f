"""The device's work as tables and sentences.

Every sentence that judges passes a gate: its interval, or nothing is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from perstep.errors import InputError
from perstep.experiments.device.stream import DeviceLedger, idle_sentence
from perstep.experiments.ledger.device.bounds import DeviceBounds
from perstep.experiments.ledger.device.findings import BUSY_CLASSES, DeviceWork, KernelTime, PartWork
from perstep.measure import RESIDUAL, Ledger
from perstep.measure.device_work import UNMATCHED
from perstep.report import Column, Table, to_csv
from perstep.report.format import (
    duration,
    duration_interval,
    interval,
    percent,
    plural,
    signed_percent,
    significant,
    time_unit,
)
from perstep.report.ledger import bound_columns
from perstep.report.page import DeviceLane
from perstep.report.table import ABSENT, Ends, Unit, bar_column, in_files, interval_columns, time_column

DeviceDetail = Literal["parts", "kernels", "stream"]
GAPS_SAID = 3
"""Number of parts named in which the device waits for the host."""
EARLY_SAID_NS = 10_000
"""Clocks that differ by less are as good as one."""
SHORT_KERNELS_SHARE = 0.005
"""Kernels that make up less of a part are shown together."""


def work_table(
    work: DeviceWork,
    *,
    title: str,
    host: Ledger | None = None,
    bounds: DeviceBounds | None = None,
    detail: DeviceDetail = "parts",
) -> Table:
    """One row a part: host, device busy, launches, bound; under it its kernels, if asked; below what bounds the step.

    Args:
        work: what was found.
        title: what was measured, in words.
        host: the ledger of the host's time, for a column.
        bounds: columns of bounds, if there are any.
        detail: `kernels` shows each part's kernels.
    """
    unit = time_unit([work.step_ns])
    rows: list[WorkRow] = []
    for row in _part_rows(work, host, bounds):
        rows += [row, *(kernel_rows(work.parts[row.part].kernels) if detail == "kernels" else [])]
    step = WorkRow(f"step ({work.kind}), without instruments", work.step_ns)
    return Table(
        title=title,
        columns=_columns(unit),
        records=[*rows, *sum_rows(work, step, bound_ns=bounds.step_ns if bounds else None)],
        notes=[
            bounding_sentence(work),
            *gap_sentences(work, host),
            *(bounds.notes if bounds is not None else []),
            *expectation_sentences(work, bounds),
            *notes(work),
        ],
        rule_before=frozenset({len(rows)}),
    )


def device_lane(work: DeviceWork | None, beside: DeviceLedger | None, said: str = "") -> DeviceLane | None:
    """The device's lane of a page: its profiled kernels, else its time on the stream; None without a device.

    Args:
        work: the kernels.
        beside: the time on the stream.
        said: what the kernels are of, in place of what is said of profiled steps.
    """
    if work is not None:
        kernels = {name: [(k.short, k.ns_per_step) for k in part.kernels] for name, part in work.parts.items()}
        words = said or f"The device's lane has the kernels of profiled steps. {bounding_sentence(work)}"
        busy = {name: part.busy_ns for name, part in work.parts.items() if part.busy_ns}
        return DeviceLane(busy, max(work.idle_ns, 0.0), work.step_ns, words, kernels)
    if beside is None:
        return None
    parts = {name: part.ns for name, part in beside.ledger.parts.items() if part.ns}
    words = "The device's lane has the time between two events on its stream, waiting included."
    return DeviceLane(parts, beside.ledger.residual_ns, beside.ledger.step_ns, f"{words} {idle_sentence(beside)}")


@dataclass(frozen=True)
class WorkRow:
    """A part, a kernel, or a sum, per step; a text where a cell says something else than its column.

    `where` is what the row is about in a file of host and devices: `host`, `device 0`.
    """

    part: str
    busy_ns: float | str | None
    sum_ns: float | str = ABSENT
    launches: float | str = ABSENT
    share: float | str = ABSENT
    ends: Ends | str = ABSENT
    host_ns: float | str = ABSENT
    bound_ns: float | None = None
    binds: str = ABSENT
    expected_ns: float | str = ABSENT
    kernel: str = ABSENT
    kind: str = ABSENT
    where: str = ABSENT


def _columns(unit: Unit) -> list[Column[WorkRow]]:
    bound: list[Column[WorkRow]] = bound_columns(
        lambda row: row.busy_ns if isinstance(row.busy_ns, float) else 0.0,
        lambda row: row.bound_ns,
        lambda row: row.binds,
        unit,
    )
    return [
        *in_files("kind"),
        Column("part", lambda row: row.part, name="part", words=True),
        *in_files("kernel"),
        time_column("host", lambda row: row.host_ns, unit, per="/step"),
        time_column("device busy", lambda row: row.busy_ns, unit, per="/step", name="busy_ns_per_step"),
        Column("share of busy", lambda row: row.share, percent),
        bar_column(lambda row: row.share),
        *interval_columns(lambda row: row.ends, unit),
        time_column("kernel sum", lambda row: row.sum_ns, unit, name="sum_ns_per_step"),
        Column("", lambda row: row.launches, significant, "per_step", "launches/step"),
        *(replace(column, name="", optional=True) for column in bound),
        time_column("expected", lambda row: row.expected_ns, unit, optional=True),
    ]


def part_row(name: str, part: PartWork, *, kind: str, host_ns: float | str = ABSENT) -> WorkRow:
    """What the device did for a part.

    Args:
        name: of the part.
        part: what was found.
        kind: of the step.
        host_ns: the host's time in the part.
    """
    ends = (part.ci_low, part.ci_high)
    return WorkRow(name, part.busy_ns, part.sum_ns, part.launches, part.share, ends, host_ns, kind=kind)


def _part_rows(work: DeviceWork, host: Ledger | None = None, bounds: DeviceBounds | None = None) -> list[WorkRow]:
    judged = {} if bounds is None or not any(part.bound_ns for part in bounds.parts.values()) else bounds.parts
    rows = []
    for name, part in work.parts.items():
        bound = judged.get(name)
        rows.append(
            replace(
                part_row(name, part, kind=work.kind, host_ns=_host_ns(name, host)),
                bound_ns=bound.bound_ns if bound else None,
                binds=ABSENT if bound is None else bound.withdrawn or bound.binds,
                expected_ns=ABSENT if bounds is None else bounds.expected_ns.get(name, ABSENT),
            )
        )
    return rows


def _host_ns(name: str, host: Ledger | None) -> float | str:
    if host is None:
        return ABSENT
    return host.residual_ns if name == RESIDUAL else host.parts[name].ns if name in host.parts else ABSENT


def sum_rows(work: DeviceWork, step: WorkRow, *, bound_ns: float | None = None) -> list[WorkRow]:
    """Busy, the step, and idle, which is derived from both.

    Args:
        work: what was found.
        step: the row of the step.
        bound_ns: of busy.
    """
    sums_ns = sum(part.sum_ns for part in work.parts.values())
    share = interval(work.share_ci_low, work.share_ci_high, 0.01)
    kind = "" if work.kind == "step" else f"{work.kind} "
    return [
        WorkRow(f"kernels of a {kind}step", work.busy_ns, sums_ns, work.launches, "100.0 %", bound_ns=bound_ns),
        step,
        WorkRow("idle, derived: step - kernels", work.idle_ns, ends=(work.idle_ci_low, work.idle_ci_high)),
        WorkRow("busy, per cent of the step", significant(100 * work.busy_share), ends=share),
    ]


def kernel_rows(
    kernels: Sequence[KernelTime],
    *,
    noun: str = "kernel",
    counted: str = "kernels",
    least_share: float = SHORT_KERNELS_SHARE,
) -> list[WorkRow]:
    """The kernels of a part by total time, those of one short name together.

    Args:
        kernels: of the part.
        noun: what has a name.
        counted: what there are several of under one name.
        least_share: of the part; what takes less shares one row.
    """
    merged: dict[str, list[KernelTime]] = {}
    for kernel in kernels:
        merged.setdefault(kernel.short, []).append(kernel)
    rows, small = [], []
    for short, alike in sorted(merged.items(), key=lambda one: -sum(k.ns_per_step for k in one[1])):
        ns, count = sum(k.ns_per_step for k in alike), sum(k.per_step for k in alike)
        share = sum(k.share for k in alike)
        if share < least_share:
            small.append((ns, count, share))
            continue
        rows.append(_kernel_row(short, ns, count, share, counted))
    if small:
        ns, count, share = (sum(values) for values in zip(*small, strict=True))
        rows.append(_kernel_row(plural(len(small), f"other {noun}" if rows else noun), ns, count, share, counted))
    return rows


def _kernel_row(name: str, ns: float, count: float, share: float, counted: str) -> WorkRow:
    each = f"{duration(ns / count)} each" if count else ABSENT
    return WorkRow(f"  {name}", ns, ABSENT, f"{significant(count)} {counted}", f"{percent(share)} of it", each)


def bounding_sentence(
    work: DeviceWork, *, round_noun: str = "round", advice: str = "give a longer --budget, or more --rounds"
) -> str:
    """What bounds the step, with its numbers: `host-bound: kernels run 2.3 of 24.6 ms (9 %); ...`.

    Args:
        work: what was found.
        round_noun: what intervals are over.
        advice: what helps where there are too few of them.
    """
    run = f"kernels run {_of(work.busy_ns, work.step_ns)} ({percent(work.busy_share, 0)})"
    low, high = work.share_ci_low, work.share_ci_high
    if low is None or high is None:
        return (
            f"What bounds the step is not resolved: {run}, but {plural(work.rounds, round_noun)} give no interval; "
            f"{advice}."
        )
    if not work.bound:
        classes = " or ".join(_classes(low, high))
        return (
            f"What bounds the step is not resolved: {run}, by the interval [{percent(low)}, {percent(high)}] {classes}."
        )
    if work.idle_ns <= 0:
        return f"{work.bound}: {run}; no time is left between them."
    ends = duration_interval(work.idle_ci_low, work.idle_ci_high, "")
    saved = f"{duration(work.idle_ns)} {ends}".strip()
    return f"{work.bound}: {run}; launching them faster can save at most {saved}."


def _classes(low: float, high: float) -> Sequence[str]:
    return [name for name, (begin, end) in BUSY_CLASSES.items() if low <= end and high >= begin]


def _of(part_ns: float, whole_ns: float) -> str:
    """`2.30 of 24.6 ms`, both in the unit of the whole."""
    unit, size = time_unit([whole_ns])
    return f"{significant(part_ns / size)} of {significant(whole_ns / size)} {unit}"


def gap_sentences(work: DeviceWork, host: Ledger | None) -> list[str]:
    """In which parts the device waits for the host: where the host's time lies above that of their kernels.

    Only parts that launch something and whose interval on the host lies wholly above; nothing of a device-bound step,
    where the host waits for the device.
    """
    if host is None or work.bound not in ("host-bound", "balanced"):
        return []
    gaps: dict[str, float] = {}
    for name, part in work.parts.items():
        beside = host.parts.get(name)
        if beside is None or not part.launches or beside.syncs_per_step:
            continue
        if beside.ci_low is not None and beside.ci_low > (part.ci_high or part.busy_ns):
            gaps[name] = beside.ns - part.busy_ns
    said = sorted(gaps, key=lambda name: -gaps[name])[:GAPS_SAID]
    if not said:
        return []
    named = "; ".join(
        f"{name}: {duration(host.parts[name].ns)} of host for {duration(work.parts[name].busy_ns)} of kernels"
        for name in said
    )
    return [f"The device waits for launches most in {named} (host times with instruments)."]


def expectation_sentences(work: DeviceWork, bounds: DeviceBounds | None) -> list[str]:
    """What the parts whose kernels are known were expected to take together, and what they took."""
    if bounds is None or not bounds.expected_ns:
        return []
    expected_ns = sum(bounds.expected_ns.values())
    took_ns = sum(work.parts[name].busy_ns for name in bounds.expected_ns)
    others = [name for name in work.parts if name not in bounds.expected_ns]
    said = (
        f"Expected, from the median times of small kernels of each kind and of products with as many weights: "
        f"{_of(expected_ns, took_ns)} ({signed_percent(expected_ns / took_ns - 1, 0)})"
    )
    return [f"{said}; not predicted: {', '.join(map(_called, others))}." if others else f"{said}."]


def notes(work: DeviceWork) -> list[str]:
    """What a reader of these numbers must know."""
    where = "" if work.kind == "prefill" else f" at the first {plural(work.positions, 'position')} of the trace"
    what = (
        f"Device busy is the kernels' own time in {plural(work.steps, 'profiled step')}{where}, which are steps of "
        "their own; the step is that of steps without instruments at the same positions, and idle is the difference."
    )
    return [what, *trace_notes(work)]


def trace_notes(work: DeviceWork) -> list[str]:
    """What could not be attributed, and what is odd in the trace."""
    said = []
    for name, part in work.parts.items():
        if part.replayed_ns:
            share = percent(part.replayed_ns / work.busy_ns)
            said.append(f"{share} of device time is in graph replays of {_called(name)} and is not split.")
    if work.split_replays:
        said.append(
            f"{plural(work.split_replays, 'graph replay')} could be split into parts: the same kernels in the same "
            "order were launched one by one under ranges."
        )
    if work.unmatched:
        share = percent(work.unmatched_ns / work.total_ns, 2)
        said.append(f"{share} of device time ({work.unmatched:,} kernels) has no launch in the trace: `{UNMATCHED}`.")
    if work.early_ns > EARLY_SAID_NS:
        said.append(
            f"The clocks of host and device differ by up to {duration(work.early_ns)} in the trace: kernels seem to "
            "begin before their launch. No part depends on it."
        )
    if work.idle_ci_high is not None and work.idle_ci_high < 0:
        said.append("Kernels took longer in profiled steps than whole plain steps did: the device was slower in them.")
    return said


def _called(name: str) -> str:
    return "no part" if name == RESIDUAL else name


def work_csv(works: Mapping[str, DeviceWork]) -> str:
    """A row a part of each kind of step, and a row a kernel with its full name; times in nanoseconds."""
    rows: list[WorkRow] = []
    for work in works.values():
        for row in _part_rows(work):
            rows += with_kernels(row, work.parts[row.part].kernels)
    return to_csv(_columns(("ns", 1.0)), rows)


def with_kernels(row: WorkRow, kernels: Sequence[KernelTime]) -> list[WorkRow]:
    """The rows of a part in a file: the part, and each of its kernels by full name."""
    part = WorkRow(row.part, None, kind=row.kind, where=row.where)
    return [row, *(replace(part, sum_ns=k.ns_per_step, launches=k.per_step, kernel=k.name) for k in kernels)]


def check_detail(device: str, device_detail: str | None) -> None:
    """Check that `--device-detail` goes with a device.

    Raises:
        InputError: it does not.
    """
    if device_detail is not None and device.partition(":")[0] != "cuda":
        raise InputError("--device-detail goes with --device cuda: without a device there is nothing to look into")
