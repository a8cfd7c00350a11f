"""The device's work as tables and sentences.

Every sentence that judges passes a gate: its interval, or nothing is said.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from perstep.errors import InputError
from perstep.experiments.ledger.device.bounds import DeviceBounds
from perstep.experiments.ledger.device.findings import BUSY_CLASSES, DeviceWork, KernelTime, PartWork
from perstep.measure import RESIDUAL, Ledger
from perstep.measure.device_work import UNMATCHED
from perstep.report import Table, to_csv
from perstep.report.format import bar, duration, interval, percent, plural, signed_percent, significant, time_unit

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
    unit, size = time_unit([work.step_ns])
    header = ["part", f"host ({unit}/step)", f"device busy ({unit}/step)", "share of busy", "",
              f"95 % interval ({unit})", f"kernel sum ({unit})", "launches/step"]  # fmt: skip
    theory = _Theory(bounds, size)
    rows: list[list[str]] = []
    for name, part in work.parts.items():
        rows.append([*part_row(name, part, _host(name, host, size), size), *theory.cells(name, part.busy_ns)])
        if detail == "kernels":
            rows += [[*kernel, *theory.empty] for kernel in kernel_rows(part.kernels, size)]
    first, *others = _sums(work, size)
    sums = [[*first, *theory.sums(work.busy_ns)], *([*row, *theory.empty] for row in others)]
    return Table(
        title=title,
        header=[*header, *theory.header(unit)],
        rows=[*rows, *sums],
        text_columns=frozenset({0, 4, *(len(header) + column for column in theory.text_columns)}),
        notes=[
            bounding_sentence(work),
            *gap_sentences(work, host),
            *(bounds.notes if bounds is not None else []),
            *expectation_sentences(work, bounds),
            *notes(work),
        ],
        rule_before=frozenset({len(rows)}),
    )


class _Theory:
    """The columns of theory beside busy time: bound, what binds, and what is expected; those that there are."""

    def __init__(self, bounds: DeviceBounds | None, size: float) -> None:
        self._size = size
        self._step_ns = None if bounds is None else bounds.step_ns
        self._parts = {} if bounds is None else bounds.parts
        self._judged = any(part.bound_ns for part in self._parts.values())
        self._expected = {} if bounds is None else bounds.expected_ns
        self.text_columns = [2] if self._judged else []
        self.empty = [""] * (3 * self._judged + bool(self._expected))

    def header(self, unit: str) -> list[str]:
        """Of the columns."""
        judged = [f"bound ({unit})", "measured/bound", "bound by"] if self._judged else []
        return [*judged, *([f"expected ({unit})"] if self._expected else [])]

    def cells(self, name: str, ns: float) -> list[str]:
        """Of a part that took so long."""
        part, cells = self._parts.get(name), []
        if self._judged:
            cells += ["", "", ""] if part is None else [*self._over(ns, part.bound_ns), part.withdrawn or part.binds]
        if self._expected:
            cells.append(significant(self._expected[name] / self._size) if name in self._expected else "")
        return cells

    def sums(self, ns: float) -> list[str]:
        """Of all kernels of the step."""
        return [*([*self._over(ns, self._step_ns), ""] if self._judged else []), *([""] if self._expected else [])]

    def _over(self, ns: float, bound_ns: float | None) -> list[str]:
        return [significant(bound_ns / self._size), significant(ns / bound_ns)] if bound_ns else ["", ""]


def part_row(name: str, part: PartWork, host: str, size: float) -> list[str]:
    """What the device did for a part: the cells of a row.

    Args:
        name: of the part.
        part: what was found.
        host: the cell of the host's time.
        size: nanoseconds of the table's unit.
    """
    return [
        name,
        host,
        significant(part.busy_ns / size),
        percent(part.share),
        bar(part.share),
        interval(part.ci_low, part.ci_high, size),
        significant(part.sum_ns / size),
        significant(part.launches),
    ]


def _host(name: str, host: Ledger | None, size: float) -> str:
    if host is None:
        return ""
    if name == RESIDUAL:
        return significant(host.residual_ns / size)
    return significant(host.parts[name].ns / size) if name in host.parts else ""


def _sums(work: DeviceWork, size: float) -> list[list[str]]:
    """Busy, the plain step, and idle, which is derived from both."""
    sums_ns = sum(part.sum_ns for part in work.parts.values())
    share = interval(work.share_ci_low, work.share_ci_high, 0.01)
    return [
        [f"kernels of a {work.kind} step", "", significant(work.busy_ns / size), "100.0 %", "", "",
         significant(sums_ns / size), significant(work.launches)],
        [f"step ({work.kind}), without instruments", significant(work.step_ns / size), "", "", "", "", "", ""],
        ["idle, derived: step - kernels", "", significant(work.idle_ns / size), "", "",
         interval(work.idle_ci_low, work.idle_ci_high, size), "", ""],
        ["busy, per cent of the step", "", significant(100 * work.busy_share), "", "", share, "", ""],
    ]  # fmt: skip


def kernel_rows(
    kernels: Sequence[KernelTime], size: float, noun: str = "kernel", least_share: float = SHORT_KERNELS_SHARE
) -> list[list[str]]:
    """The kernels of a part by total time, those of one short name together; as many cells as `part_row` has.

    Args:
        kernels: of the part.
        size: nanoseconds of the table's unit.
        noun: what they are called.
        least_share: of the part; those that take less are shown together.
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
        rows.append(_kernel_row(short, ns, count, share, size, noun))
    if small:
        ns, count, share = (sum(values) for values in zip(*small, strict=True))
        rows.append(_kernel_row(plural(len(small), f"other {noun}" if rows else noun), ns, count, share, size, noun))
    return rows


def _kernel_row(name: str, ns: float, count: float, share: float, size: float, noun: str) -> list[str]:
    each = duration(ns / count) if count else ""
    return [f"  {name}", "", significant(ns / size), f"{percent(share)} of it", "", f"{each} each", "",
            f"{significant(count)} {noun}s"]  # fmt: skip


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
    ends = "" if work.idle_ci_low is None else f" {_interval(work.idle_ci_low, work.idle_ci_high)}"
    return f"{work.bound}: {run}; launching them faster can save at most {duration(work.idle_ns)}{ends}."


def _classes(low: float, high: float) -> Sequence[str]:
    return [name for name, (begin, end) in BUSY_CLASSES.items() if low <= end and high >= begin]


def _of(part_ns: float, whole_ns: float) -> str:
    """`2.30 of 24.6 ms`, both in the unit of the whole."""
    unit, size = time_unit([whole_ns])
    return f"{significant(part_ns / size)} of {significant(whole_ns / size)} {unit}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{duration(low)}, {duration(high)}]"


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
    """What could not be attributed, or looks odd in the trace."""
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
    rows: list[list[object]] = []
    for kind, work in works.items():
        for name, part in work.parts.items():
            rows.append([kind, name, "", part.busy_ns, part.ci_low, part.ci_high, part.sum_ns, part.launches])
            rows += [[kind, name, k.name, None, None, None, k.ns_per_step, k.per_step] for k in part.kernels]
    header = ["kind", "part", "kernel", "busy_ns_per_step", "ci_low_ns", "ci_high_ns", "sum_ns_per_step", "per_step"]
    return to_csv(header, rows)


def check_detail(device: str, device_detail: str | None) -> None:
    """Check that `--device-detail` goes with a device.

    Raises:
        InputError: it does not.
    """
    if device_detail is not None and device.partition(":")[0] != "cuda":
        raise InputError("--device-detail goes with --device cuda: without a device there is nothing to look into")
