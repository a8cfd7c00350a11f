"""The stored runs that predictions are fitted on: decode steps of `ledger` runs, with the ceilings of their own rounds.

A run counts if it is complete and valid, theory has a formula for its model, and its ceilings were not disturbed. The
others are counted by reason.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import median

from perstep._json import DamagedError, decode
from perstep.errors import InputError
from perstep.experiments.bounds import rates_from
from perstep.experiments.conditions import machine_of, typed
from perstep.experiments.ledger.device.findings import DeviceWork
from perstep.experiments.ledger.findings import LedgerFindings
from perstep.experiments.ledger.samples import Bounded, Conditions, Workload
from perstep.machine import Machine, SweepFigures, identity
from perstep.measure import Ledger, Progress
from perstep.predicting.subject import Subject, Way, choosing, is_mixture
from perstep.runs import Manifest, Status, read_manifest, read_regular, read_runs
from perstep.sweeps.folder import SWEEP, read_sweep
from perstep.sweeps.rows import DAMAGED, read_rows
from perstep.theory import Level, Rates, read_config

RESIDUAL = "unattributed"
DEVICE = "device/"
"""Before the name of a part of what a device does; the others are the host's time."""
WAIT = "sync"
"""The host's part that waits for the device, which is no work of its own."""
PROCESSOR = "logits/"
"""Before the name of a logits processor's part."""
OF_CHOOSING = frozenset({"TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper"})
"""Those that a sampler's settings bring, so no further ones."""
DETAIL = "modules"
"""Parts of transformers models are predicted as seen so; inside `phases` or `layers` they have other names."""
_NO_LIMIT = 1e30
_MOST = 1e18
"""Above every time and rate of a run: 30 years in nanoseconds."""
_UNREADABLE = "it is damaged; `perstep show` says how"


@dataclass(frozen=True)
class Speed:
    """How fast a machine is: the rates of the host, and of the device where steps run on one.

    Where a device does the arithmetic, the host only calls: its bytes and products take no time, and a call what a
    launch takes. A call on a device takes what its shortest kernel takes.
    """

    host: Rates
    device: Rates | None = None


@dataclass(frozen=True)
class DeviceSpeed:
    """The four ceilings of a device that a step is made of."""

    bytes_per_s: float
    peak_flops: float
    kernel_ns: float
    launch_ns: float


def speed_of(figures: "SweepFigures | DeviceSpeed", dtype: str) -> Speed:
    """Ceilings as rates."""
    if isinstance(figures, SweepFigures):
        return Speed(rates_from(figures, dtype))
    return Speed(
        Rates((Level("any", _NO_LIMIT),), {dtype: _NO_LIMIT}, figures.launch_ns),
        Rates((Level("memory", figures.bytes_per_s),), {dtype: figures.peak_flops}, figures.kernel_ns),
    )


@dataclass(frozen=True)
class Cell:
    """A measured decode step.

    Attributes:
        name: of its run.
        subject: what was measured.
        machine: its identity.
        hardware: the machine in words.
        figures: the medians of the ceilings in its own rounds; those of a device were measured before them.
        step_ns: without marks.
        parts_ns: part -> time. The host's are scaled by one factor so that, without a device, they add up to that step;
            those of a device have `DEVICE` before their names, and the host does not wait in them.
        noise: half of the step's interval, as a share of it; None where there are too few rounds.
        began_at: UTC, ISO 8601.
        memory_bytes: of the machine, or of its device where steps run on one; None if it is not known.
    """

    name: str
    subject: Subject
    machine: str
    hardware: str
    figures: "SweepFigures | DeviceSpeed"
    step_ns: float
    parts_ns: dict[str, float]
    noise: float | None
    began_at: str
    memory_bytes: float | None = None

    @property
    def speed(self) -> Speed:
        """The machine as it was in these rounds."""
        return speed_of(self.figures, self.subject.way.dtype)


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
    folders, damaged = _folders(root)
    cells, left_out = [], +Counter({_UNREADABLE: damaged})
    for number, folder in enumerate(folders, 1):
        try:
            cell = _read(folder)
        except InputError:  # one damaged run never hides the others
            cell = _UNREADABLE
        if isinstance(cell, str):
            left_out[cell] += 1
        else:
            cells.append(cell)
        progress(number / len(folders), "reading runs")
    return Cells(sorted(cells, key=lambda cell: cell.name), left_out)


def _folders(root: Path) -> tuple[list[Path], int]:
    """The runs of a sweep's cells that are done, or of a folder of runs; and how many more are damaged."""
    if (root / SWEEP).exists():
        rows = read_rows(root, read_sweep(root))
        return [root / row.run for row in rows if row.run], sum(row.outcome == DAMAGED for row in rows)
    readable, wrong = read_runs(root)
    runs = [run.folder for run in readable if run.manifest.experiment == "ledger"]
    if not runs:
        raise InputError(f"no ledger run in {root}; give --from a folder of runs, or of a sweep")
    return runs, len(wrong)


def _read(folder: Path) -> "Cell | str":
    """A cell, or why the run is none."""
    manifest = read_manifest(folder)
    if manifest.experiment != "ledger" or manifest.status is not Status.COMPLETE:
        return "no complete ledger run"
    conditions = typed(manifest, Conditions)
    bounded = conditions.bounds if conditions.bounds.config else conditions.device_bounds
    if not bounded.config:
        return conditions.bounds.unknown or conditions.device_bounds.unknown or "theory has no formula for the model"
    if conditions.detail not in (None, DETAIL):
        return f"it was measured with --detail {conditions.detail}, and parts are predicted as with --detail {DETAIL}"
    try:
        findings = decode(read_regular(folder / "results.json"), LedgerFindings)
        return _cell(folder, manifest, bounded, findings)
    except (OSError, DamagedError):
        return "its results.json cannot be read; `perstep report` makes it again"
    except InputError as error:
        return str(error)


def _cell(folder: Path, manifest: Manifest, bounded: Bounded, findings: LedgerFindings) -> "Cell | str":
    """The cell of a run that theory has a formula for, or why it is none."""
    steps = findings.decode
    if findings.invalid or steps is None or not steps.plain_step_ns or not steps.step_ns:
        return "it is invalid, or has no decode step"
    figures = _figures(findings, bounded.dtype)
    if isinstance(figures, str):
        return figures
    machine = machine_of(manifest)
    low, high = steps.plain_step_ci_low, steps.plain_step_ci_high
    cell = Cell(
        name=_name(folder, manifest),
        subject=_subject(manifest, bounded, steps),
        machine=identity(machine),
        hardware=_hardware(machine, findings),
        figures=figures,
        step_ns=steps.plain_step_ns,
        parts_ns=_parts(steps, steps.plain_step_ns, findings.device_work.get("decode")),
        noise=None if low is None or high is None else (high - low) / 2 / steps.plain_step_ns,
        began_at=manifest.started_at,
        memory_bytes=_memory_bytes(machine, findings),
    )
    return cell if _is_possible(cell) else _UNREADABLE


def _is_possible(cell: Cell) -> bool:
    """Whether times and rates are such as can be measured: a file may say anything."""
    figures, whole = cell.figures, cell.subject.batch > 0 and cell.subject.context > 0
    rates = [cell.step_ns, *(value for value in vars(figures).values() if isinstance(value, float))]
    if isinstance(figures, SweepFigures):
        rates += [*figures.read_gb_s.values(), *figures.call_ns.values()]
        whole = whole and min(figures.read_gb_s, default=0) > 0 and 0 in figures.call_ns
    return whole and all(0 < rate < _MOST for rate in rates) and all(abs(ns) < _MOST for ns in cell.parts_ns.values())


def _figures(findings: LedgerFindings, dtype: str) -> "SweepFigures | DeviceSpeed | str":
    """The ceilings, or why there are none."""
    ceilings, on_device = findings.ceilings, findings.device_ceilings
    if ceilings is not None:
        return "its ceilings were disturbed" if ceilings.why_no_bounds() else ceilings.typical
    if on_device is None or "decode" not in findings.device_work:
        return "it has no ceilings, or nothing was profiled on the device"
    rates = on_device.memory_gb_s, on_device.peak_tflop_s, on_device.shortest_ns()
    launch = on_device.figures.get("launch")
    if on_device.dtype != dtype or launch is None or None in rates:
        return "the ceilings of its device lack a figure"
    memory, peak, kernel_ns = (rate or 0.0 for rate in rates)
    return DeviceSpeed(memory * 1e9, peak * 1e12, kernel_ns, launch.value)


def _parts(steps: Ledger, plain_ns: float, work: DeviceWork | None) -> dict[str, float]:
    """The host's parts, and a device's."""
    scale = plain_ns / steps.step_ns
    host = {name: part.ns * scale for name, part in steps.parts.items()} | {RESIDUAL: steps.residual_ns * scale}
    if work is None:
        return host
    host.pop(WAIT, None)
    return host | {f"{DEVICE}{name}": part.busy_ns for name, part in work.parts.items()}


def _hardware(machine: Machine, findings: LedgerFindings) -> str:
    device = findings.device_ceilings
    return str(machine.cpu.model) if device is None else f"{machine.cpu.model}, {device.device}"


def _memory_bytes(machine: Machine, findings: LedgerFindings) -> float | None:
    device = findings.device_ceilings
    gpus = () if isinstance(machine.gpus, str) else machine.gpus
    sizes = [gpu.memory_bytes for gpu in gpus] if device is not None else [machine.memory.ram_bytes]
    return min((size for size in sizes if isinstance(size, int)), default=None)


def _name(folder: Path, manifest: Manifest) -> str:
    place = manifest.config.get("sweep")
    return str(place.get("cell") or folder.name) if isinstance(place, dict) else folder.name


def _subject(manifest: Manifest, bounded: Bounded, steps: Ledger) -> Subject:
    workload = typed(manifest, Workload)
    chosen = choosing(workload.temperature, workload.top_k, workload.top_p)
    named = [part.removeprefix(PROCESSOR) for part in steps.parts if part.startswith(PROCESSOR)]
    further = tuple(name for name in named if name not in OF_CHOOSING)
    shape = read_config(bounded.config)
    way = Way(bounded.backend, bounded.dtype, workload.device, workload.threads, chosen, further, is_mixture(shape))
    name = str(manifest.model.get("name", "")).partition(", ")[0]
    context = workload.prompt_tokens + (workload.new_tokens - 2) // 2  # the middle of the decode steps
    return Subject(name, shape, workload.batch, context, way)


def machine_speed(cells: Sequence[Cell]) -> Speed:
    """The ceilings of one machine: the median over its cells of each figure, by the size of the set.

    Args:
        cells: of one machine and one way, at least one.
    """
    dtype = cells[0].subject.way.dtype
    devices = [cell.figures for cell in cells if isinstance(cell.figures, DeviceSpeed)]
    hosts = [cell.figures for cell in cells if isinstance(cell.figures, SweepFigures)]
    return speed_of(_pooled_device(devices) if devices else _pooled_host(hosts), dtype)


def _pooled_device(speeds: Sequence[DeviceSpeed]) -> DeviceSpeed:
    return DeviceSpeed(
        median(one.bytes_per_s for one in speeds),
        median(one.peak_flops for one in speeds),
        median(one.kernel_ns for one in speeds),
        median(one.launch_ns for one in speeds),
    )


def _pooled_host(figures: Sequence[SweepFigures]) -> SweepFigures:
    def pooled(curves: Sequence[dict[int, float]]) -> dict[int, float]:
        sizes = sorted({size for one in curves for size in one})
        return {size: median(one[size] for one in curves if size in one) for size in sizes}

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
