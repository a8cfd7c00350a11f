"""The fit: non-negative coefficients for each part, by least squares of errors relative to the step.

A part's coefficients are fitted to that part alone, so errors of parts are seen, and cannot cancel inside the fit. The
interval of a prediction is what whole architectures that were left out were off by: cells of one architecture resemble
each other, so rows that are left out at random would promise too much.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

from perstep.errors import InputError
from perstep.predicting.cells import Cell
from perstep.predicting.features import COEFFICIENTS, Features, features
from perstep.predicting.subject import Subject
from perstep.theory import Rates

COVERAGE = 0.9
"""The share of cells of a new architecture that an interval is to hold."""
LEAST_ARCHITECTURES = 5
"""With fewer there is no interval: how far a new one is off is then hardly known."""
LEAST_CELLS = 8

Group = Callable[[Cell], object]
"""What is left out together: an architecture, an octave of context, a machine."""


@dataclass(frozen=True)
class Fit:
    """Coefficients of each part.

    Attributes:
        parts: part -> coefficient -> value, those above 0.
    """

    parts: dict[str, Features]

    def parts_ns(self, subject: Subject, rates: Rates) -> dict[str, float]:
        """The time of each part.

        Raises:
            InputError: as `features`.
        """
        found = features(subject, rates, list(self.parts))
        return {
            part: sum(value * found[part].get(name, 0.0) for name, value in coefficients.items())
            for part, coefficients in self.parts.items()
        }

    def step_ns(self, subject: Subject, rates: Rates) -> float:
        """The step: the sum of its parts, and what lies between them."""
        return sum(self.parts_ns(subject, rates).values())


def fit_cells(cells: Sequence[Cell], rates: Mapping[str, Rates]) -> Fit:
    """The coefficients.

    Args:
        cells: of one way.
        rates: cell's name -> the ceilings that its features are made of.

    Raises:
        InputError: there are too few cells.
    """
    from scipy.optimize import nnls

    if len(cells) < LEAST_CELLS:
        raise InputError(
            f"a fit needs {LEAST_CELLS} cells of one way of carrying out steps, and there are {len(cells)}"
        )
    parts = list(dict.fromkeys(part for cell in cells for part in cell.parts_ns))
    rows = [features(cell.subject, rates[cell.name], parts) for cell in cells]
    weights = np.array([1.0 / cell.step_ns for cell in cells])
    made = {}
    for part in parts:
        X = np.array([[row[part].get(name, 0.0) for name in COEFFICIENTS] for row in rows]) * weights[:, None]
        y = np.array([cell.parts_ns.get(part, 0.0) for cell in cells]) * weights
        scale = X.max(axis=0)
        scale[scale == 0] = 1.0  # a column of one size: a millionth of a step and a thousand of them fit alike
        found = nnls(X / scale, y)[0] / scale
        made[part] = {name: float(value) for name, value in zip(COEFFICIENTS, found, strict=True) if value > 0}
    return Fit(made)


def left_out(cells: Sequence[Cell], rates: Mapping[str, Rates], group: Group) -> dict[str, Fit]:
    """Cell's name -> a fit that has seen none of its group; cells of which the rest is too few are left out."""
    made: dict[str, Fit] = {}
    for one in dict.fromkeys(group(cell) for cell in cells):
        rest = [cell for cell in cells if group(cell) != one]
        if len(rest) >= LEAST_CELLS:
            fit = fit_cells(rest, rates)
            made |= {cell.name: fit for cell in cells if group(cell) == one}
    return made


def architecture(cell: Cell) -> str:
    """The group of a cell that decides its interval."""
    return cell.subject.arch


def half_width(cells: Sequence[Cell], rates: Mapping[str, Rates]) -> float | None:
    """By which factor a prediction may be off, as a logarithm; None with too few architectures.

    The quantile over cells, all architectures weighing the same, that a new architecture exceeds in a tenth of its
    cells at most; with fewer than ten architectures that is the largest error of all.
    """
    names = {architecture(cell) for cell in cells}
    if len(names) < LEAST_ARCHITECTURES:
        return None
    fits = left_out(cells, rates, architecture)
    errors = [
        (abs(log(cell.step_ns / fits[cell.name].step_ns(cell.subject, rates[cell.name]))), architecture(cell))
        for cell in cells
        if cell.name in fits
    ]
    counts = {name: sum(arch == name for _, arch in errors) for name in names}
    wanted, reached = COVERAGE * (1 + 1 / len(names)), 0.0
    for error, arch in sorted(errors):
        reached += 1 / (len(names) * counts[arch])
        if reached >= wanted:
            return error
    return max((error for error, _ in errors), default=None)


def interval_ns(step_ns: float, half: float | None) -> tuple[float, float] | None:
    """The interval of a prediction."""
    return None if half is None else (step_ns * exp(-half), step_ns * exp(half))
