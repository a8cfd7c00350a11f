"""The findings of `compare` as tables, CSV and README."""

from collections.abc import Mapping
from typing import Any

from perstep.experiments.compare.findings import CompareFindings
from perstep.report import Table, to_csv
from perstep.report.change import CHANGE_HEADER, TimeChange
from perstep.report.format import plural, significant, time_unit
from perstep.report.words import render
from perstep.runs import Manifest


def comparison_tables(found: CompareFindings) -> list[Table]:
    """One row an arm; where the machine was busy, a second table with the processor times."""
    noise = found.noise
    hit = f", {noise.rounds_hit} of them disturbed ({', '.join(noise.by_kind)}) and kept" if noise.rounds_hit else ""
    turns = {"processes": ", each with new processes that took turns"}.get(
        found.replicates, " in one process, in which the arms took turns"
    )
    wall = {arm.name: arm.wall for arm in found.arms.values()}
    title = plural(found.rounds, "round") + turns + hit
    tables = [_table(title, "", wall, found, notes=found.notes)]
    if found.busy:
        processor = {arm.name: arm.processor for arm in found.arms.values()}
        notes = ["Processor time leaves out all waiting: it is not the time that a caller waits."]
        tables.append(_table("Processor time of the same rounds", "processor ", processor, found, notes=notes))
    return tables


def _table(
    title: str, time: str, shown: Mapping[str, TimeChange], found: CompareFindings, *, notes: list[str]
) -> Table:
    unit, size = time_unit(arm.ns for arm in shown.values())
    rows = [
        [
            name,
            significant(arm.ns / size, 4),
            *(["reference", "", ""] if name == found.reference else arm.cells(2)),
            "" if arm.mde is None else f"{100 * arm.mde:.2g} %",
        ]
        for name, arm in shown.items()
    ]
    reasons = [f"{name}: {arm.reason}" for name, arm in shown.items() if arm.reason and arm.reason not in arm.verdict]
    return Table(
        title=title,
        header=["arm", f"{time}{unit}/call", *CHANGE_HEADER, "detectable"],
        rows=rows,
        text_columns=frozenset({0, 4}),
        notes=[*reasons, *notes],
    )


def csv(findings: CompareFindings) -> str:
    """A row an arm: its wall time, then its processor time."""
    numbers = ["change", "ci_low", "ci_high", "mde", "verdict"]
    columns = ["ns_per_call", *numbers]
    rows: list[list[object]] = [
        [arm.name, *(getattr(time, name) for time in (arm.wall, arm.processor) for name in ("ns", *numbers))]
        for arm in findings.arms.values()
    ]
    return to_csv(["arm", *columns, *(f"processor_{column}" for column in columns)], rows)


def tables(manifest: Manifest, findings: CompareFindings) -> list[Table]:  # noqa: ARG001 - the experiments' signature
    """The table of the wall times and, where the machine was busy, that of the processor times."""
    return comparison_tables(findings)


def files(manifest: Manifest, findings: CompareFindings) -> Mapping[str, bytes]:
    """`compare.csv` and `README.md`."""
    return {
        "compare.csv": csv(findings).encode(),
        "README.md": render(__package__, manifest=manifest, findings=findings, tables=comparison_tables(findings)),
    }


def summary(findings: CompareFindings) -> dict[str, Any]:
    """The headline for `perstep list`."""
    others = [arm for arm in findings.arms.values() if arm.name != findings.reference]
    return {"headline": "; ".join(f"{arm.name}: {arm.wall.verdict} {arm.wall.percent(2)}" for arm in others)}
