"""The findings of `compare` as tables, CSV and README."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter

import msgspec

from perstep._json import Json
from perstep._words import short
from perstep.experiments.compare.findings import ArmResult, CompareFindings
from perstep.experiments.compare.samples import Conditions, Sample
from perstep.experiments.conditions import typed
from perstep.report import Column, Table, to_csv
from perstep.report.change import TimeChange, change_columns
from perstep.report.format import plural, time_unit
from perstep.report.page import Bar, Bars, Content, Drawn
from perstep.report.table import ABSENT, Unit, time_column
from perstep.report.words import render
from perstep.runs import Manifest

Clocked = Callable[[ArmResult], TimeChange]
"""An arm's time by one clock."""
_ARM: Column[ArmResult] = Column("arm", lambda arm: arm.name, name="arm", words=True)


def comparison_tables(findings: CompareFindings) -> list[Table]:
    """One row an arm; where the machine was busy, a second table with the processor times."""
    noise = findings.noise
    hit = f", {noise.rounds_hit} of them disturbed ({', '.join(noise.by_kind)}) and kept" if noise.rounds_hit else ""
    turns = {"processes": ", each with new processes that took turns"}.get(
        findings.replicates, " in one process, in which the arms took turns"
    )
    title = plural(findings.rounds, "round") + turns + hit
    tables = [_table(title, "", attrgetter("wall"), findings, notes=findings.notes)]
    if findings.busy:
        notes = ["Processor time leaves out all waiting: it is not the time that a caller waits."]
        of = attrgetter("processor")
        tables.append(_table("Processor time of the same rounds", "processor", of, findings, notes=notes))
    return tables


def _table(title: str, clock: str, of: Clocked, findings: CompareFindings, *, notes: list[str]) -> Table:
    shown = {arm.name: of(arm) for arm in findings.arms.values()}
    unit = time_unit(arm.ns for arm in shown.values())
    reasons = [f"{name}: {arm.reason}" for name, arm in shown.items() if arm.reason and arm.reason not in arm.verdict]
    columns = [_ARM, *_time_columns(clock, of, unit), *(_device_columns(findings, unit) if not clock else [])]
    return Table(title, columns, list(findings.arms.values()), notes=[*reasons, *notes])


def _time_columns(clock: str, of: Clocked, unit: Unit) -> list[Column[ArmResult]]:
    """An arm's time by one clock and its change."""
    prefix = f"{clock}_" if clock else ""
    change, *others = change_columns(of, 2, prefix=prefix)
    return [
        time_column(clock, lambda arm: of(arm).ns, unit, per="/call", name=f"{prefix}ns_per_call", digits=4),
        replace(change, absent="reference"),
        *others,
        Column("detectable", lambda arm: of(arm).mde or ABSENT, lambda mde: f"{short(100 * mde, 2)} %"),
    ]


def _device_columns(findings: CompareFindings, unit: Unit) -> list[Column[ArmResult]]:
    """How long a device's kernels run in a call, where one was in use."""
    if all(arm.device_busy_ns is msgspec.UNSET for arm in findings.arms.values()):
        return []

    def busy_ns(arm: ArmResult) -> float:
        return 0.0 if arm.device_busy_ns is msgspec.UNSET else float(arm.device_busy_ns)

    return [time_column("device busy", busy_ns, unit, per="/call", name="device_busy_ns_per_call", digits=4)]


def csv(findings: CompareFindings) -> str:
    """A row an arm: its wall time, then its processor time."""
    wall = [*_time_columns("", attrgetter("wall"), ("ns", 1.0)), *_device_columns(findings, ("ns", 1.0))]
    processor = _time_columns("processor", attrgetter("processor"), ("ns", 1.0))
    return to_csv([_ARM, *wall, *processor], list(findings.arms.values()))


def tables(manifest: Manifest, findings: CompareFindings) -> list[Table]:  # noqa: ARG001 - the experiments' signature
    """The table of the wall times and, where the machine was busy, that of the processor times."""
    return comparison_tables(findings)


def files(manifest: Manifest, findings: CompareFindings) -> Mapping[str, bytes]:
    """`compare.csv` and `README.md`."""
    return {
        "compare.csv": csv(findings).encode(),
        "README.md": render(__package__, manifest=manifest, findings=findings, tables=comparison_tables(findings)),
    }


def summary(findings: CompareFindings) -> dict[str, Json]:
    """The headline for `perstep list`."""
    others = [arm for arm in findings.arms.values() if arm.name != findings.reference]
    return {"headline": "; ".join(f"{arm.name}: {arm.wall.verdict} {arm.wall.percent(2)}" for arm in others)}


def content(manifest: Manifest, findings: CompareFindings, _samples: Sequence[Sample]) -> Content:
    """The page's: the change of each arm against the reference, and the times."""
    return Content(_sentence(findings), comparison_figures(findings, typed(manifest, Conditions).threshold))


def _sentence(findings: CompareFindings) -> str:
    others = [arm for arm in findings.arms.values() if arm.name != findings.reference]
    return "; ".join(
        f"{arm.name}: {arm.wall.verdict}, {arm.wall.percent(2)} {arm.wall.interval(2, missing='(no interval)')}"
        for arm in others
    )


def comparison_figures(findings: CompareFindings, threshold: float) -> list[Drawn]:
    """The changes with their intervals, and the times of the arms.

    Args:
        findings: what was compared.
        threshold: T of `same (within ±T)`.
    """
    changes = [
        Bar.of_change(arm.name, arm.wall, f"{arm.wall.percent(2)} {arm.wall.interval(2)}: {arm.wall.verdict}")
        for arm in findings.arms.values()
        if arm.name != findings.reference
    ]
    unit, size = time_unit(arm.wall.ns for arm in findings.arms.values())
    times = [Bar(arm.name, arm.wall.ns / size) for arm in findings.arms.values()]
    within = 100 * threshold
    note = f"Within the band of ±{short(within)} % a change counts as the same."
    return [
        Bars(f"Change against {findings.reference}", "%", changes, within=within, note=note),
        Bars("Time of a call", unit, times),
    ]
