"""What a trace says as tables and CSV: the columns of the device ledger, marked as what they are.

Whose trace it is stands in the title, and that the profiler was on beside every figure that it makes larger.
"""

from collections.abc import Sequence

from perstep.experiments.ledger.device.findings import DeviceWork, PartWork
from perstep.experiments.ledger.device.show import (
    SHORT_KERNELS_SHARE,
    bounding_sentence,
    kernel_rows,
    part_row,
    trace_notes,
)
from perstep.experiments.ledger.trace.findings import HostPart, TraceFindings, TraceLedger
from perstep.measure import RESIDUAL
from perstep.report import Table, to_csv
from perstep.report.format import bar, duration, interval, percent, plural, significant, time_unit

MEAN_SAID = 1.05
"""A mean step that is so many times as long as the median is said."""
NOTHING = PartWork(busy_ns=0.0, share=0.0, ci_low=None, ci_high=None, sum_ns=0.0, launches=0.0)
"""What the device does for a part that launches nothing."""
NO_DEVICE = (
    "No device worked in these steps: this is the host's time. The profiler was on, which slows the host, small "
    "operators the most: a step without it is shorter."
)
OPERATOR_SAID = 0.01
"""Operators that make up less of a step are shown together."""
PARTS = {
    "ranges": "Parts are ranges (record_function), the innermost at each instant; residual is what lies in none.",
    "modules": "Parts are calls of modules, by class, the innermost at each instant; residual is what lies in none.",
    "none": "No range and no call of a module lies in the steps, so all of a step is residual: mark parts with "
    "record_function, or profile with with_stack=True.",
}


def tables(findings: TraceFindings, *, kernels: bool = False) -> list[Table]:
    """A table for each kind of step and device; the host's time where no device worked.

    Args:
        findings: of a trace.
        kernels: show the kernels of each part.
    """
    made = []
    for ledger in findings.ledgers:
        for device, work in ledger.devices.items():
            made.append(_device_table(findings, ledger, device, work, kernels=kernels))
        if not ledger.devices:
            made.append(_host_table(findings, ledger, kernels=kernels))
    made[0].notes.extend(findings.notes)
    return made


def _title(findings: TraceFindings, ledger: TraceLedger, what: str, where: str = "") -> str:
    return (
        f"{ledger.kind}, {what} with the profiler on: {findings.trace}{where}, {plural(ledger.steps, 'step')}; "
        "a stored trace, not measured by perstep"
    )


def _device_table(
    findings: TraceFindings, ledger: TraceLedger, device: str, work: DeviceWork, *, kernels: bool
) -> Table:
    unit, size = time_unit([work.step_ns])
    names = [*(name for name in ledger.host if name != RESIDUAL), *work.parts]
    rows: list[list[str]] = []
    for name in sorted(dict.fromkeys(names), key=lambda name: name == RESIDUAL):
        part = work.parts.get(name, NOTHING)
        host = significant(ledger.host[name].ns / size) if name in ledger.host else ""
        rows.append(part_row(name, part, host, size))
        if kernels:
            rows += kernel_rows(part.kernels, size)
    called = f" ({findings.device_names[device]})" if device in findings.device_names else ""
    return Table(
        title=_title(findings, ledger, "what the device does", f", device {device}{called}"),
        header=["part", f"host, profiler on ({unit}/step)", f"device busy ({unit}/step)", "share of busy", "",
                f"95 % interval ({unit})", f"kernel sum ({unit})", "launches/step"],
        rows=[*rows, *_sums(ledger, work, size)],
        text_columns=frozenset({0, 4}),
        notes=[_bounds(work), *_notes(findings, ledger), *trace_notes(work)],
        rule_before=frozenset({len(rows)}),
    )  # fmt: skip


def _sums(ledger: TraceLedger, work: DeviceWork, size: float) -> list[list[str]]:
    """Busy, the step of the trace, and idle, which is derived from both."""
    sums_ns = sum(part.sum_ns for part in work.parts.values())
    share = interval(work.share_ci_low, work.share_ci_high, 0.01)
    return [
        [f"kernels of a {work.kind} step" if work.kind != "step" else "kernels of a step", "",
         significant(work.busy_ns / size), "100.0 %", "", "", significant(sums_ns / size), significant(work.launches)],
        [_step(ledger), significant(work.step_ns / size), "", "", "",
         interval(ledger.step_ci_low, ledger.step_ci_high, size), "", ""],
        ["idle, derived: step - kernels", "", significant(work.idle_ns / size), "", "",
         interval(work.idle_ci_low, work.idle_ci_high, size), "", ""],
        ["busy, per cent of the step", "", significant(100 * work.busy_share), "", "", share, "", ""],
    ]  # fmt: skip


def _step(ledger: TraceLedger) -> str:
    return "step, profiler on" if ledger.kind == "step" else f"step ({ledger.kind}), profiler on"


def _bounds(work: DeviceWork) -> str:
    """What bounds the step, and what of that the profiler makes."""
    said = bounding_sentence(work, round_noun="step", advice="profile more steps")
    after = (
        "the kernels' share is larger still"
        if work.bound == "device-bound"
        else "a step is shorter, the kernels' share larger, and less can be saved"
    )
    return f"{said} The profiler was on, which slows the host and not the kernels: without it {after}."


def _host_table(findings: TraceFindings, ledger: TraceLedger, *, kernels: bool) -> Table:
    """The host's time by part, and in each its operators: those that take 1 % of the step, or all."""
    unit, size = time_unit([ledger.step_ns])
    rows: list[list[str]] = []
    for name, part in ledger.host.items():
        rows.append(_host_row(name, part, size))
        least = SHORT_KERNELS_SHARE if kernels else OPERATOR_SAID * ledger.step_ns / (part.ns or 1)
        rows += [[first, *others] for first, _, *others in kernel_rows(part.calls, size, "operator", least)]
    sums = [
        _step(ledger),
        significant(ledger.step_ns / size),
        "100.0 %",
        "",
        interval(ledger.step_ci_low, ledger.step_ci_high, size),
        significant(sum(part.operators_ns for part in ledger.host.values()) / size),
        significant(sum(part.operators for part in ledger.host.values())),
    ]
    return Table(
        title=_title(findings, ledger, "host time"),
        header=["part", f"host ({unit}/step)", "share", "", f"95 % interval ({unit})", f"in operators ({unit})",
                "operators/step"],
        rows=[*rows, sums],
        text_columns=frozenset({0, 3}),
        notes=[NO_DEVICE, *_notes(findings, ledger)],
        rule_before=frozenset({len(rows)}),
    )  # fmt: skip


def _host_row(name: str, part: HostPart, size: float) -> list[str]:
    return [
        name,
        significant(part.ns / size),
        percent(part.share),
        bar(part.share),
        interval(part.ci_low, part.ci_high, size),
        significant(part.operators_ns / size),
        significant(part.operators),
    ]


def _notes(findings: TraceFindings, ledger: TraceLedger) -> Sequence[str]:
    """Which steps these are, and what the numbers are."""
    what = (
        "Rows are of the median step; intervals are over the steps of this trace, merged until they are independent, "
        "and say nothing of another run."
    )
    said = [PARTS[findings.parts_by], what]
    if ledger.ramp_up:
        said.append(
            f"Left out as ramp-up: {plural(ledger.ramp_up, 'step')} at the beginning, with less than 90 % of the "
            "others' kernels or operators, or 1.5 times as long or as short as the median."
        )
    if ledger.names_in_all > 1 and ledger.kind != "step":
        said.append(
            f"The steps have {ledger.names_in_all:,} names, most often {', '.join(ledger.names)}: they did not all do "
            "the same work; --step NAME takes those of one name."
        )
    if ledger.mean_ns > MEAN_SAID * ledger.step_ns:
        said.append(
            f"The mean step takes {duration(ledger.mean_ns)}, the median {duration(ledger.step_ns)}: "
            f"{plural(ledger.slow, 'step')} took more than 1.5 times the median."
        )
    return said


def csv(findings: TraceFindings) -> str:
    """A row a part of each kind of step, and a row a kernel or operator with its full name; times in nanoseconds."""
    rows: list[list[object]] = []
    for ledger in findings.ledgers:
        for name, on_host in ledger.host.items():
            first = [ledger.kind, "host", name]
            rows.append([*first, "", on_host.ns, on_host.ci_low, on_host.ci_high, on_host.operators_ns,
                         on_host.operators])  # fmt: skip
            rows += [[*first, c.name, None, None, None, c.ns_per_step, c.per_step] for c in on_host.calls]
        for device, work in ledger.devices.items():
            for name, part in work.parts.items():
                first = [ledger.kind, f"device {device}", name]
                rows.append([*first, "", part.busy_ns, part.ci_low, part.ci_high, part.sum_ns, part.launches])
                rows += [[*first, k.name, None, None, None, k.ns_per_step, k.per_step] for k in part.kernels]
    header = ["kind", "where", "part", "name", "ns_per_step", "ci_low_ns", "ci_high_ns", "sum_ns_per_step", "per_step"]
    return to_csv(header, rows)
