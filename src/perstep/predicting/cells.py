"""The stored runs that predictions are fitted on: decode steps of `ledger` runs, with the ceilings of their own rounds.

A run counts if it is complete and valid, theory has a formula for its model, and its ceilings were not disturbed. The
others are counted by reason.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import median

import msgspec

from perstep.errors import InputError
from perstep.experiments.bounds import rates_from
from perstep.experiments.conditions import typed
from perstep.experiments.ledger.findings import LedgerFindings
from perstep.experiments.ledger.samples import Conditions, Workload
from perstep.machine import Machine, SweepFigures, identity
from perstep.measure import Progress
from perstep.predicting.subject import Subject, Way
from perstep.runs import Manifest, Status, list_runs, read_manifest, read_regular
from perstep.sweeps.folder import SWEEP, read_sweep
from perstep.sweeps.rows import read_rows
from perstep.theory import Rates, read_config

RESIDUAL = "unattributed"


@dataclass(frozen=True)
class Cell:
    """A measured decode step.

    Attributes:
        name: of its run.
        folder: of its run.
        subject: what was measured.
        machine: its identity.
        hardware: the machine in words.
        figures: the medians of the ceilings in its own rounds.
        step_ns: without marks.
        parts_ns: part -> time, scaled by one factor so that they and the rest make that step.
        noise: half of the step's interval, as a share of it; None where there are too few rounds.
        began_at: UTC, ISO 8601.
    """

    name: str
    folder: Path
    subject: Subject
    machine: str
    hardware: str
    figures: SweepFigures
    step_ns: float
    parts_ns: dict[str, float]
    noise: float | None
    began_at: str

    @property
    def rates(self) -> Rates:
        """The machine as it was in these rounds."""
        return rates_from(self.figures, self.subject.way.dtype)


@dataclass(frozen=True)
class Cells:
    """Cells, and how many runs were left out for which reason."""

    cells: list[Cell]
    left_out: Counter[str]

    def of_way(self, way: Way) -> list[Cell]:
        """Those that were carried out so."""
        return [cell for cell in self.cells if cell.subject.way == way]

    @property
    def words(self) -> str:
        """What was left out, in a sentence; empty if nothing was."""
        return "; ".join(f"{count:,} left out: {why}" for why, count in self.left_out.most_common())


def read_cells(root: Path, progress: Progress = lambda _share, _what: None) -> Cells:
    """The cells under a folder of runs, or of a sweep.

    Raises:
        InputError: there is no ledger run at all, or the sweep is damaged.
    """
    folders = list(_folders(root))
    found, left_out = [], Counter[str]()
    for number, folder in enumerate(folders, 1):
        cell = _read(folder)
        if isinstance(cell, str):
            left_out[cell] += 1
        else:
            found.append(cell)
        progress(number / len(folders), "reading runs")
    return Cells(sorted(found, key=lambda cell: cell.name), left_out)


def _folders(root: Path) -> Iterator[Path]:
    """The runs of a sweep's cells that are done, or of a folder of runs."""
    if (root / SWEEP).exists():
        yield from (root / row.run for row in read_rows(root, read_sweep(root)) if row.run)
        return
    runs = [run.folder for run in list_runs(root) if run.manifest.experiment == "ledger"]
    if not runs:
        raise InputError(f"no ledger run in {root}; give --from a folder of runs, or of a sweep")
    yield from runs


def _read(folder: Path) -> "Cell | str":
    """A cell, or why the run is none."""
    manifest = read_manifest(folder)
    if manifest.experiment != "ledger" or manifest.status is not Status.COMPLETE:
        return "no complete ledger run"
    conditions, workload = typed(manifest, Conditions), typed(manifest, Workload)
    if not conditions.bounds.config:
        return conditions.bounds.unknown or "theory has no formula for the model, or it ran on a device"
    try:
        findings = msgspec.json.decode(read_regular(folder / "results.json"), type=LedgerFindings)
    except (OSError, msgspec.DecodeError):
        return "its results.json cannot be read; `perstep report` makes it again"
    decode, ceilings = findings.decode, findings.ceilings
    if findings.invalid or decode is None or not decode.plain_step_ns:
        return "it is invalid, or has no decode step"
    if ceilings is None or ceilings.why_no_bounds():
        return "its ceilings were disturbed"
    scale = decode.plain_step_ns / decode.step_ns
    parts = {name: part.ns * scale for name, part in decode.parts.items()}
    machine = msgspec.convert(manifest.machine, Machine)
    low, high = decode.plain_step_ci_low, decode.plain_step_ci_high
    return Cell(
        name=_name(folder, manifest),
        folder=folder,
        subject=_subject(manifest, conditions, workload),
        machine=identity(machine),
        hardware=str(machine.cpu.model),
        figures=ceilings.typical,
        step_ns=decode.plain_step_ns,
        parts_ns={**parts, RESIDUAL: decode.residual_ns * scale},
        noise=None if low is None or high is None else (high - low) / 2 / decode.plain_step_ns,
        began_at=manifest.started_at,
    )


def _name(folder: Path, manifest: Manifest) -> str:
    place = manifest.config.get("sweep", {})
    return str(place.get("cell") or folder.name)


def _subject(manifest: Manifest, conditions: Conditions, workload: Workload) -> Subject:
    bounds = conditions.bounds
    way = Way(bounds.backend, bounds.dtype, workload.device, workload.threads, workload.temperature > 0)
    name = str(manifest.model.get("name", "")).partition(", ")[0]
    context = workload.prompt_tokens + (workload.new_tokens - 2) // 2  # the middle of the decode steps
    return Subject(name, read_config(bounds.config), workload.batch, context, way)


def machine_figures(cells: Sequence[Cell]) -> SweepFigures:
    """The ceilings of one machine: the median over its cells of each figure, by the size of the set.

    Args:
        cells: of one machine and one way, at least one.
    """

    def pooled(held: Sequence[dict[int, float]]) -> dict[int, float]:
        sizes = sorted({size for one in held for size in one})
        return {size: median(one[size] for one in held if size in one) for size in sizes}

    figures = [cell.figures for cell in cells]
    read, call = (pooled([getattr(one, kind) for one in figures]) for kind in ("read_gb_s", "call_ns"))
    after = {size: call[_nearest(call, size)] for size in read}
    return SweepFigures(
        read_gb_s=read,
        call_ns={0: call[0], **after},  # calls were timed after fewer sets: after others they take what the nearest has
        gemm_gflop_s=median(one.gemm_gflop_s for one in figures),
        vector_g_s=median(one.vector_g_s for one in figures),
        special_g_s=median(one.special_g_s for one in figures),
        rounds=sum(one.rounds for one in figures),
    )


def _nearest(sizes: Iterable[int], wanted: int) -> int:
    """The size that is nearest by ratio."""
    return min(sizes, key=lambda size: abs(log((size + 1) / wanted)))
