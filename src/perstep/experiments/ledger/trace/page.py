"""The page of a trace: the host's step and what each device did in it, from the numbers of the tables."""

from collections.abc import Mapping

from perstep._version import __version__
from perstep.experiments.ledger.device.findings import DeviceWork
from perstep.experiments.ledger.device.show import bounding_sentence, device_lane
from perstep.experiments.ledger.trace.findings import HostPart, ReadTrace, TraceFindings, TraceLedger
from perstep.experiments.ledger.trace.show import tables
from perstep.measure import RESIDUAL, LedgerSamples
from perstep.report.format import duration, duration_interval, percent, plural
from perstep.report.page import Content, LedgerView, Page, StepParts

_SLOWED = (
    "The profiler was on in these steps: it slows the host, small operators the most, so a step without it is shorter."
)
_MOST = 8
"""Operators of a part that are named; the tables have all."""


def trace_page(trace: ReadTrace, command: str) -> Page:
    """The page of a trace.

    Args:
        trace: what was read.
        command: that reads the same again, without folders.
    """
    findings = trace.findings
    views = [view for ledger in findings.ledgers for view in _views(findings, ledger, trace.steps[ledger.kind])]
    return Page(
        kind="ledger of a trace",
        title=f"perstep ledger: {findings.trace}",
        subject=f"{findings.trace} · a stored trace, not measured by perstep",
        content=Content(_finding(findings.ledgers[0]), views),
        tables=tables(findings, kernels=True),
        warnings=[_SLOWED],
        facts=_facts(findings, command),
        holds=[
            "the tables of the trace, the names of its kernels or operators, and of each part the time of every step",
            "the name of the trace's file, without its folder",
        ],
        version=__version__,
    )


def _finding(ledger: TraceLedger) -> str:
    ends = duration_interval(ledger.step_ci_low, ledger.step_ci_high, "(no interval)")
    said = f"One {_named(ledger)} takes {duration(ledger.step_ns)} {ends} with the profiler on"
    if ledger.devices:
        work = next(iter(ledger.devices.values()))
        bounding = _bounding(work).rstrip(".")
        return f"{said}; {bounding[0].lower()}{bounding[1:]}"
    operators = sum(part.operators_ns for part in ledger.host.values()) / ledger.step_ns
    return f"{said}; {percent(operators, 0)} of it in operators"


def _bounding(work: DeviceWork) -> str:
    return bounding_sentence(work, round_noun="step", advice="profile more steps")


def _named(ledger: TraceLedger) -> str:
    return "step" if ledger.kind == "step" else f"{ledger.kind} step"


def _views(findings: TraceFindings, ledger: TraceLedger, steps: LedgerSamples) -> list[LedgerView]:
    """One for each device, or the host's alone."""
    residual = ledger.host.get(RESIDUAL)
    ends = duration_interval(ledger.step_ci_low, ledger.step_ci_high, "(no interval)")
    parts = StepParts(
        kind=ledger.kind,
        step_ns=ledger.step_ns,
        parts={name: part for name, part in ledger.host.items() if name != RESIDUAL},
        residual_ns=residual.ns if residual else 0.0,
        residual_share=residual.share if residual else 0.0,
        rounds=ledger.steps,
        words=f"The median step takes {duration(ledger.step_ns)} {ends} on the host, with the profiler on · "
        f"{plural(ledger.steps, 'step')}",
    )
    operators = {name: _operators(part) for name, part in ledger.host.items() if part.calls}
    title = f"What a {_named(ledger)} is made of"
    if not ledger.devices:
        return [LedgerView(title, parts, samples=steps, about=operators)]
    views = []
    for number, work in ledger.devices.items():
        name = findings.device_names.get(number, f"device {number}")
        of = f", device {number} ({name})" if len(ledger.devices) > 1 else ""
        lane = device_lane(work, None, f"The device's lane has the kernels of these steps. {_bounding(work)}")
        views.append(LedgerView(f"{title}{of}", parts, samples=steps, device=lane, about=operators))
    return views


def _operators(part: HostPart) -> str:
    """Those that take the most, with their time in a step."""
    most = [f"{call.short} {duration(call.ns_per_step)}" for call in part.calls[:_MOST]]
    more = [f"{len(part.calls) - _MOST:,} more"] if len(part.calls) > _MOST else []
    took = f"{plural(part.operators, 'operator')} a step, which take {duration(part.operators_ns)}"
    return f"{took}: {', '.join(most + more)}"


def _facts(findings: TraceFindings, command: str) -> Mapping[str, Mapping[str, str]]:
    devices = {f"device {number}": name for number, name in findings.device_names.items()}
    return {
        "Command": {"": command},
        "Trace": {"file": findings.trace, "steps": findings.steps_by, "parts": findings.parts_by, **devices},
    }
