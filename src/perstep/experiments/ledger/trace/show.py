"""The findings of a trace as tables and CSV, in the columns of the device ledger.

The title names the trace, and every figure that the profiler makes larger says that the profiler was on.
"""

from collections.abc import Sequence
from dataclasses import replace

from perstep.experiments.ledger.device.findings import DeviceWork, PartWork
from perstep.experiments.ledger.device.show import (
    SHORT_KERNELS_SHARE,
    WorkRow,
    bounding_sentence,
    kernel_rows,
    part_row,
    sum_rows,
    trace_notes,
    with_kernels,
)
from perstep.experiments.ledger.trace.findings import HostPart, TraceFindings, TraceLedger
from perstep.measure import RESIDUAL
from perstep.report import Column, Table, to_csv
from perstep.report.format import duration, percent, plural, significant, time_unit
from perstep.report.table import ABSENT, Unit, bar_column, in_files, interval_columns, time_column

MEAN_SAID = 1.05
"""A mean step that exceeds the median by more than this factor is mentioned."""
NOTHING = PartWork(busy_ns=0.0, share=0.0, ci_low=None, ci_high=None, sum_ns=0.0, launches=0.0)
"""What the device does for a part that launches nothing."""
NO_DEVICE = (
    "No device worked in these steps: the table shows the host's time. The profiler was on: it slows the host, small "
    "operators the most, so a step without it is shorter."
)
OPERATOR_SAID = 0.01
"""Operators that make up less of a step are shown together."""
PARTS = {
    "ranges": "Parts are record_function ranges. Time in nested ranges counts for the innermost; time outside all "
    "ranges is residual.",
    "modules": "Parts are module calls, by class. Time in nested calls counts for the innermost; time outside all "
    "calls is residual.",
    "none": "The steps contain no ranges and no module calls, so all of their time is residual: mark parts with "
    "record_function, or profile with with_stack=True.",
}


def tables(findings: TraceFindings, *, kernels: bool = False) -> list[Table]:
    """A table for each kind of step and device; the host's time where no device worked.

    Args:
        findings: of a trace.
        kernels: show the kernels of each part.
    """
    result = []
    for ledger in findings.ledgers:
        for device, work in ledger.devices.items():
            result.append(_device_table(findings, ledger, device, work, kernels=kernels))
        if not ledger.devices:
            result.append(_host_table(findings, ledger, kernels=kernels))
    result[0].notes.extend(findings.notes)
    return result


def _title(findings: TraceFindings, ledger: TraceLedger, what: str, where: str = "") -> str:
    return (
        f"{ledger.kind}, {what} with the profiler on: {findings.trace}{where}, {plural(ledger.steps, 'step')}; "
        "a stored trace, not measured by perstep"
    )


def _columns(unit: Unit, *, device: bool) -> list[Column[WorkRow]]:
    """Of a device's work with the host's time beside it, or of the host's time alone; in files both have the same."""
    busy, share, inside, number = (
        ("device busy", "share of busy", "kernel sum", "launches")
        if device
        else ("host, profiler on", "share", "in operators", "operators")
    )
    host: Column[WorkRow] = time_column("host, profiler on", lambda row: row.host_ns, unit, per="/step")
    return [
        *in_files("kind", "where"),
        Column("part", lambda row: row.part, name="part", words=True),
        Column(None, lambda row: row.kernel, name="name"),
        *([host] if device else []),
        time_column(busy, lambda row: row.busy_ns, unit, per="/step", name="ns_per_step"),
        Column(share, lambda row: row.share, percent),
        bar_column(lambda row: row.share),
        *interval_columns(lambda row: row.ends, unit),
        time_column(inside, lambda row: row.sum_ns, unit, name="sum_ns_per_step"),
        Column("", lambda row: row.launches, significant, "per_step", f"{number}/step"),
    ]


def _device_table(
    findings: TraceFindings, ledger: TraceLedger, device: str, work: DeviceWork, *, kernels: bool
) -> Table:
    names = [*(name for name in ledger.host if name != RESIDUAL), *work.parts]
    rows: list[WorkRow] = []
    for name in sorted(dict.fromkeys(names), key=lambda name: name == RESIDUAL):
        part = work.parts.get(name, NOTHING)
        host_ns = ledger.host[name].ns if name in ledger.host else ABSENT
        rows.append(part_row(name, part, kind=ledger.kind, host_ns=host_ns))
        if kernels:
            rows += kernel_rows(part.kernels)
    step = WorkRow(_step(ledger), ABSENT, ends=(ledger.step_ci_low, ledger.step_ci_high), host_ns=work.step_ns)
    called = f" ({findings.device_names[device]})" if device in findings.device_names else ""
    return Table(
        title=_title(findings, ledger, "what the device does", f", device {device}{called}"),
        columns=_columns(time_unit([work.step_ns]), device=True),
        records=[*rows, *sum_rows(work, step)],
        notes=[_bounds(work), *_notes(findings, ledger), *trace_notes(work)],
        rule_before=frozenset({len(rows)}),
    )


def _step(ledger: TraceLedger) -> str:
    return "step, profiler on" if ledger.kind == "step" else f"step ({ledger.kind}), profiler on"


def _bounds(work: DeviceWork) -> str:
    """What bounds the step, and how the profiler distorts that."""
    said = bounding_sentence(work, round_noun="step", advice="profile more steps")
    after = (
        "the kernels' share is even larger"
        if work.bound == "device-bound"
        else "the step is shorter, the kernels' share is larger, and less can be saved"
    )
    return f"{said} The profiler was on: it slows the host, not the kernels, so without it {after}."


def _host_table(findings: TraceFindings, ledger: TraceLedger, *, kernels: bool) -> Table:
    """The host's time by part, and in each its operators: those that take 1 % of the step, or all."""
    rows: list[WorkRow] = []
    for name, part in ledger.host.items():
        rows.append(_host_row(name, part, ledger.kind))
        least = SHORT_KERNELS_SHARE if kernels else OPERATOR_SAID * ledger.step_ns / (part.ns or 1)
        rows += kernel_rows(part.calls, noun="operator", counted="calls", least_share=least)
    step = WorkRow(
        _step(ledger),
        ledger.step_ns,
        sum(part.operators_ns for part in ledger.host.values()),
        sum(part.operators for part in ledger.host.values()),
        "100.0 %",
        (ledger.step_ci_low, ledger.step_ci_high),
    )
    return Table(
        title=_title(findings, ledger, "host time"),
        columns=_columns(time_unit([ledger.step_ns]), device=False),
        records=[*rows, step],
        notes=[NO_DEVICE, *_notes(findings, ledger)],
        rule_before=frozenset({len(rows)}),
    )


def _host_row(name: str, part: HostPart, kind: str) -> WorkRow:
    ends = (part.ci_low, part.ci_high)
    return WorkRow(name, part.ns, part.operators_ns, part.operators, part.share, ends, kind=kind, where="host")


def _notes(findings: TraceFindings, ledger: TraceLedger) -> Sequence[str]:
    """Which steps these are, and what the numbers are."""
    what = (
        "Rows show the median step. Intervals are over the steps of this trace, merged until they are independent; "
        "they say nothing about another run."
    )
    said = [PARTS[findings.parts_by], what]
    if ledger.ramp_up:
        said.append(
            f"Left out as ramp-up: {plural(ledger.ramp_up, 'step')} at the beginning. Such a step shares less than "
            "90 % of its kernels or operators with the usual step, or is 1.5 times as long or as short as the median."
        )
    if ledger.names_in_all > 1 and ledger.kind != "step":
        said.append(
            f"The steps have {ledger.names_in_all:,} names, most often {', '.join(ledger.names)}: they did not all do "
            "the same work. --step NAME selects those of one name."
        )
    if ledger.mean_step_ns > MEAN_SAID * ledger.step_ns:
        said.append(
            f"The mean step takes {duration(ledger.mean_step_ns)}, the median {duration(ledger.step_ns)}: "
            f"{plural(ledger.slow, 'step')} took more than 1.5 times the median."
        )
    return said


def csv(findings: TraceFindings) -> str:
    """A row a part of each kind of step, and a row a kernel or operator with its full name; times in nanoseconds."""
    rows: list[WorkRow] = []
    for ledger in findings.ledgers:
        for name, on_host in ledger.host.items():
            rows += with_kernels(_host_row(name, on_host, ledger.kind), on_host.calls)
        for device, work in ledger.devices.items():
            for name, part in work.parts.items():
                row = replace(part_row(name, part, kind=ledger.kind), where=f"device {device}")
                rows += with_kernels(row, part.kernels)
    return to_csv(_columns(("ns", 1.0), device=True), rows)
