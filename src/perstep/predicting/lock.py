"""Predictions that are locked before anything is measured, and checked against what is measured afterwards.

`--lock` writes what is predicted for every cell of a grid, with the time. A sweep of that grid comes after it.
`--check` compares, and refuses if a cell began before the lock: then it might have been fitted on.
"""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from perstep._json import DamagedError, decode, schema_version
from perstep._version import __version__
from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.command_line import AnyPlan
from perstep.measure import Progress
from perstep.predicting.cells import Cells
from perstep.predicting.predict import Prediction, Predictor, predictor
from perstep.predicting.subject import Subject, Way, choosing, is_mixture, shape_named
from perstep.runs import encode_json, read_regular, replace_file
from perstep.sweeps.grid import Grid, num_combinations, points
from perstep.targets import BUILT_IN
from perstep.theory import REFERENCE, TRANSFORMERS

_SCHEMA_VERSION = 1


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions made at a time.

    Attributes:
        locked_at: UTC, ISO 8601.
        perstep_version: what predicted.
        fitted_on: the runs that the fit has seen.
        predictions: hash of a cell's plan -> what is predicted.
        refused: hash of a cell's plan -> why it is not predicted.
        schema_version: of the file.
    """

    locked_at: str
    perstep_version: str
    fitted_on: list[str]
    predictions: dict[str, Prediction]
    refused: dict[str, str]
    schema_version: int = _SCHEMA_VERSION


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A locked prediction beside the cell that was measured after it."""

    cell: str
    name: str
    status: str
    predicted_ns: float
    low_ns: float | None
    high_ns: float | None
    measured_ns: float
    noise: float | None

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted_ns / self.measured_ns - 1

    @property
    def is_held(self) -> bool | None:
        """Whether the interval holds what was measured; None without one."""
        if self.low_ns is None or self.high_ns is None:
            return None
        return self.low_ns <= self.measured_ns <= self.high_ns


def lock(
    path: Path, grid: Grid, cells: Cells, machine: str | None, progress: Progress = lambda _share, _what: None
) -> Lock:
    """Write predictions for every cell of a grid.

    Args:
        path: of the lock, which must not be there yet.
        grid: of a `ledger` sweep.
        cells: to fit on.
        machine: as in `predictor`.
        progress: told how many cells are predicted.

    Raises:
        InputError: the file is there, the grid is of another experiment, or nothing can be predicted.
    """
    if path.exists():
        raise InputError(f"{path} is there: a lock is never written over; choose another name")
    if grid.experiment != "ledger":
        raise InputError(f"the grid measures `{grid.experiment}`; decode steps of `ledger` are what is predicted")
    predictors: dict[Way, Predictor] = {}
    predictions, refused = {}, {}
    total = num_combinations(grid) // grid.repeats
    for number, point in enumerate(points(grid), 1):
        progress(number / total, f"predicting {plural(total, 'cell')}")
        if point is None:
            continue
        try:
            subject = subject_of(point.plan)
            if subject.way not in predictors:
                predictors[subject.way] = predictor(cells, subject, machine)
            predictions[point.plan_hash] = predictors[subject.way].predict(subject)
        except InputError as error:
            refused[point.plan_hash] = str(error)
    if not predictions:
        raise InputError(f"no cell of the grid can be predicted: {next(iter(refused.values()), 'it has none')}")
    locked = Lock(
        locked_at=datetime.now(UTC).isoformat(timespec="seconds"),
        perstep_version=__version__,
        fitted_on=sorted({cell.name for one in predictors.values() for cell in one.cells}),
        predictions=predictions,
        refused=refused,
    )
    replace_file(path, encode_json(locked))
    return locked


def subject_of(plan: AnyPlan) -> Subject:
    """The decode step that a plan of `ledger` measures, by shapes alone.

    Raises:
        InputError: the model is no architecture by name, configuration or `mini`, or has no decode step.
    """
    if plan.arch is None and plan.model not in (None, BUILT_IN):
        raise InputError(f"{plan.model} is a stored model; a grid is predicted for --arch and for {BUILT_IN}")
    if plan.prompt is not None or plan.new_tokens < 2:
        raise InputError("a decode step is predicted for --prompt-tokens and two or more --new-tokens, not for a text")
    name, shape = shape_named(plan.arch or BUILT_IN, plan.layers)
    runs_numpy = plan.arch is None and plan.backend != "torch"
    backend = REFERENCE if runs_numpy else TRANSFORMERS
    chosen = choosing(plan.temperature, plan.top_k, plan.top_p)
    way = Way(backend.name, plan.dtype or "float32", plan.device, plan.threads, chosen, (), is_mixture(shape))
    context = (plan.prompt_tokens or 64) + (plan.new_tokens - 2) // 2
    return Subject(name, shape, plan.batch, context, way)


def read_lock(path: Path) -> Lock:
    """A lock.

    Raises:
        InputError: it cannot be read, or a newer perstep wrote it.
    """
    try:
        raw = read_regular(path)
        version = schema_version(raw)
        if version != _SCHEMA_VERSION:
            raise InputError(f"{path} has schema_version {version}, this perstep reads {_SCHEMA_VERSION}")
        return decode(raw, Lock)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; `perstep predict --lock FILE` makes one") from error
    except DamagedError as error:
        raise InputError(f"{path} is no lock: {error}") from error


def check(locked: Lock, cells: Cells) -> list[Checked]:
    """Each measured cell beside its locked prediction.

    Args:
        locked: the lock.
        cells: of the sweep that came after it.

    Raises:
        InputError: a cell is older than the lock, or none is in it.
    """
    pairs = [(cell, locked.predictions.get(cell.name.partition(".")[0])) for cell in cells.cells]
    older = [cell for cell, said in pairs if said is not None and cell.began_at < locked.locked_at]
    if older:
        raise InputError(
            f"{plural(len(older), 'cell is', 'cells are')} older than the lock of {locked.locked_at}, such as"
            f" {older[0].name} of {older[0].began_at}; predictions are checked with what is measured after them"
        )
    rows = [
        Checked(cell=cell.name, name=said.name, status=said.status, predicted_ns=said.step_ns, low_ns=said.low_ns,
                high_ns=said.high_ns, measured_ns=cell.step_ns, noise=cell.noise)
        for cell, said in pairs if said is not None
    ]  # fmt: skip
    if not rows:
        raise InputError(
            f"no cell of the sweep is in the lock ({cells.words or 'none left out'}); give the sweep of the grid that"
            " was locked"
        )
    return rows
