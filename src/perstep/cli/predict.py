"""`perstep predict`: a step that was not measured; how far such predictions are off; and locked ones, checked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from perstep._words import plural
from perstep.cli.output import print_tables, progress_shown
from perstep.cli.streams import remark, write
from perstep.errors import InputError
from perstep.machine import Machine, identity
from perstep.predicting.cells import Cells, read_cells
from perstep.predicting.fleet import check_fleet, fleet_of
from perstep.predicting.lock import check, lock, read_lock
from perstep.predicting.predict import predictor
from perstep.predicting.show import check_table, prediction_table, validation_tables
from perstep.predicting.subject import Subject, Way, choosing, is_mixture, shape_named
from perstep.predicting.validate import Sheet, validate
from perstep.report import Output, Table
from perstep.runs import RUNS, encode_json, read_regular
from perstep.sweeps.grid import read_grid
from perstep.targets import BUILT_IN, Sampler
from perstep.theory import REFERENCE, TRANSFORMERS


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The step to predict."""

    arch: str | None = None
    """An architecture by name, such as llama-3.1-70b, a config.json, or `mini`."""

    layers: int | None = None
    """Number of its leading decoder layers."""

    batch: Annotated[int, Parameter(name=["-b", "--batch"])] = 1
    """Sequences decoded side by side."""

    context: Annotated[int, Parameter(name=["-c", "--context"])] = 64
    """Positions in the cache."""

    dtype: str = "float32"
    """Data type of the weights."""

    device: str = "cpu"
    """Where the step runs."""

    threads: Annotated[int, Parameter(name=["-t", "--threads"])] = 1
    """Threads of the matrix library."""

    temperature: float = 0.0
    """0 chooses the most probable token; above 0 tokens are sampled."""

    top_k: int = 0
    """Sample from the k most probable tokens; 0 for all."""

    top_p: float = 1.0
    """Sample from the most probable tokens whose probabilities reach this sum."""

    processor: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = ()
    """A further logits processor of each step, as the ledger calls it without `logits/`; may be repeated."""

    def subject(self) -> Subject:
        """The step.

        Raises:
            InputError: there is no such architecture, or a number is out of its range.
        """
        if self.arch is None:
            raise InputError("give --arch, the architecture to predict; or --validate, --lock or --check")
        if self.batch < 1 or self.context < 1:
            raise InputError(f"--batch {self.batch} and --context {self.context}: each must be at least 1")
        Sampler(self.temperature, self.top_k, self.top_p)  # refuses what is out of range
        name, shape = shape_named(self.arch, self.layers)
        backend = REFERENCE if self.arch == BUILT_IN else TRANSFORMERS
        chosen = choosing(self.temperature, self.top_k, self.top_p)
        mixture = is_mixture(shape)
        way = Way(backend.name, self.dtype, self.device, self.threads, chosen, self.processor, mixture)
        return Subject(name, shape, self.batch, self.context, way)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What to do besides predicting one step."""

    validate: Path | None = None
    """How far predictions are off on the runs in this folder: whole architectures, octaves of context and machines are
    left out in turn."""

    lock: Path | None = None
    """Write predictions for each cell of --grid into this file, before anything is measured."""

    grid: Path | None = None
    """The grid of --lock."""

    check: Path | None = None
    """Compare the predictions in this lock with the sweep in --from, which must have been measured after it."""

    fleet: int | None = None
    """Memory and tokens/s of this number of machines that each hold the whole model."""

    sheet_gb_s: float | None = None
    """With --validate: memory bandwidth by the data sheet, for a baseline."""

    sheet_gflop_s: float | None = None
    """With --validate: peak by the data sheet."""


_SHAPE, _CHOICE = Shape(), Choice()


def predict(
    shape: Annotated[Shape, Parameter(name="*")] = _SHAPE,
    choice: Annotated[Choice, Parameter(name="*")] = _CHOICE,
    *,
    from_: Annotated[Path, Parameter(name="--from")] = RUNS,
    machine: Path | None = None,
    output: Annotated[Output, Parameter(name=["-o", "--output"])] = "table",
    quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="")] = False,
) -> int:
    """Predict a decode step that was not measured, from stored ledger runs; with an interval, or refused.

    The interval is as wide as left-out architectures were off. A step outside of what was measured is marked as derived
    and has no interval; far outside it is refused.

    Args:
        shape: The step.
        choice: What else to do.
        from_: Folder of runs, or of a sweep, to fit on.
        machine: File that `perstep machine -o json` wrote on the machine to predict for. [default: that of the runs]
        output: Format of the result on stdout.
        quiet: Print no progress and no remarks.
    """
    named = [name for name in ("validate", "lock", "check") if getattr(choice, name) is not None]
    if len(named) > 1:
        raise InputError(f"--{' and --'.join(named)} exclude each other; give one of them")
    if choice.validate is not None:
        return _validate(_read(choice.validate, quiet=quiet), choice, output)
    if choice.check is not None:
        locked = read_lock(choice.check)
        checked = check(locked, _read(from_, quiet=quiet))
        _print_one(check_table(locked, checked), checked, output)
        return 0
    target = None if machine is None else _machine(machine)
    if choice.lock is not None:
        return _lock(choice, from_, target, quiet=quiet)
    subject = shape.subject()
    cells = _read(from_, quiet=quiet)
    fitted = predictor(cells, subject, None if target is None else identity(target))
    if choice.fleet is not None:
        check_fleet(subject, choice.fleet, fitted.memory_bytes)
    prediction = fitted.predict(subject)
    fleet = None if choice.fleet is None else fleet_of(prediction, choice.fleet, subject.batch)
    table = prediction_table(prediction, fitted.fit, fleet)
    _print_one(table, {"prediction": prediction, "fit": fitted.fit.parts, "fleet": fleet}, output)
    return 0


def _read(folder: Path, *, quiet: bool) -> Cells:
    with progress_shown(quiet=quiet) as progress:
        cells = read_cells(folder, progress)
    if cells.left_out and not quiet:
        remark(f"note: {cells.words}")
    return cells


def _machine(path: Path) -> Machine:
    try:
        return msgspec.convert(json.loads(read_regular(path))["machine"], Machine)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; `perstep machine -o json` writes one") from error
    except (ValueError, KeyError, TypeError, RecursionError, msgspec.ValidationError) as error:
        raise InputError(f"{path} is no machine: {error}; `perstep machine -o json` writes one") from error


def _validate(cells: Cells, choice: Choice, output: Output) -> int:
    both = (choice.sheet_gb_s, choice.sheet_gflop_s)
    if (None in both) != (both == (None, None)):
        raise InputError("--sheet-gb-s and --sheet-gflop-s go together: bandwidth and peak of one data sheet")
    if any(value is not None and value <= 0 for value in both):
        raise InputError("--sheet-gb-s and --sheet-gflop-s must be above 0")
    sheet = None if both[0] is None or both[1] is None else Sheet(both[0], both[1])
    validations = validate(cells, sheet)
    if output == "json":
        write(encode_json(msgspec.to_builtins(validations)).decode())
    else:
        print_tables(validation_tables(validations), output)
    return 0


def _lock(choice: Choice, folder: Path, target: Machine | None, *, quiet: bool) -> int:
    if choice.lock is None or choice.grid is None:
        raise InputError("--lock FILE needs --grid GRID.toml, whose cells are predicted")
    grid, _ = read_grid(choice.grid)
    cells, machine = _read(folder, quiet=quiet), None if target is None else identity(target)
    with progress_shown(quiet=quiet) as progress:
        locked = lock(choice.lock, grid, cells, machine, progress)
    if not quiet:
        remark(
            f"locked: {plural(len(locked.predictions), 'prediction')} in {choice.lock},"
            f" {plural(len(locked.refused), 'cell')} not predicted; now `perstep sweep {choice.grid}`"
        )
    return 0


def _print_one(table: Table, facts: object, output: Output) -> None:
    if output == "json":
        write(encode_json(msgspec.to_builtins(facts)).decode())
    else:
        print_tables([table], output)
