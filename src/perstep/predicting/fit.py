"""The fit: non-negative coefficients for each part, by least squares of errors relative to the step.

A part's coefficients are fitted to that part alone, so errors of parts are seen, and cannot cancel inside the fit. The
interval of a prediction is what whole architectures that were left out were off by: cells of one architecture resemble
each other, so rows that are left out at random would promise too much.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np

from perstep.errors import InputError
from perstep.predicting.cells import DEVICE, Cell, Speed, machine_speed
from perstep.predicting.features import COEFFICIENTS, Features, features
from perstep.predicting.subject import Subject

COVERAGE = 0.9
"""The share of cells of a new architecture that an interval is to hold."""
LEAST_ARCHITECTURES = 5
"""With fewer there is no interval: how far a new one is off is then hardly known."""
LEAST_CELLS = 8

Group = Callable[[Cell], object]
"""What is left out together: an architecture, an octave of context, a machine."""


@dataclass(frozen=True)
class Fit:
    """Coefficients of each part, and how far host and device overlap.

    Attributes:
        parts: part -> coefficient -> value, those above 0.
        exposed: the share of the shorter of host and device that does not pass while the longer one works; 0 without a
            device.
    """

    parts: dict[str, Features]
    exposed: float

    def parts_ns(self, subject: Subject, speed: Speed) -> dict[str, float]:
        """The time of each part.

        Raises:
            InputError: as `features`.
        """
        by_part = features(subject, speed, list(self.parts))
        return {
            part: sum(value * by_part[part].get(name, 0.0) for name, value in coefficients.items())
            for part, coefficients in self.parts.items()
        }

    def together_ns(self, parts_ns: Mapping[str, float]) -> float:
        """The step that parts make: of the host alone their sum, with a device the overlap of two sums."""
        host, device = sides_ns(parts_ns)
        return max(host, device) + self.exposed * min(host, device)

    def step_ns(self, subject: Subject, speed: Speed) -> float:
        """The step."""
        return self.together_ns(self.parts_ns(subject, speed))


def sides_ns(parts_ns: Mapping[str, float]) -> tuple[float, float]:
    """The sum of the host's parts, and that of the device's."""
    device = sum(ns for part, ns in parts_ns.items() if part.startswith(DEVICE))
    return sum(parts_ns.values()) - device, device


def fit_cells(cells: Sequence[Cell], speeds: Mapping[str, Speed]) -> Fit:
    """The coefficients.

    Args:
        cells: of one way.
        speeds: cell's name -> the ceilings that its features are made of.

    Raises:
        InputError: there are too few cells.
    """
    if len(cells) < LEAST_CELLS:
        raise InputError(
            f"a fit needs {LEAST_CELLS} cells of one way of carrying out steps, and there are {len(cells)}"
        )
    parts = list(dict.fromkeys(part for cell in cells for part in cell.parts_ns))
    rows = [features(cell.subject, speeds[cell.name], parts) for cell in cells]
    coefficients = {}
    for part in parts:
        X = [[row[part].get(name, 0.0) for name in COEFFICIENTS] for row in rows]
        solved = _solved(cells, X, [cell.parts_ns.get(part, 0.0) for cell in cells])
        coefficients[part] = {name: value for name, value in zip(COEFFICIENTS, solved, strict=True) if value > 0}
    sides = [sides_ns(cell.parts_ns) for cell in cells]
    left_ns = [cell.step_ns - max(both) for cell, both in zip(cells, sides, strict=True)]
    return Fit(coefficients, _solved(cells, [[min(both)] for both in sides], left_ns)[0])


def _solved(cells: Sequence[Cell], X: Sequence[Sequence[float]], y_ns: Sequence[float]) -> list[float]:
    """Non-negative least squares of errors relative to the steps."""
    from scipy.optimize import nnls

    weights = np.array([1.0 / cell.step_ns for cell in cells])
    columns = np.array(X) * weights[:, None]
    scale = columns.max(axis=0)
    scale[scale == 0] = 1.0  # columns of one size: a millionth of a step and a thousand of them are fitted alike
    return [float(value) for value in nnls(columns / scale, np.array(y_ns) * weights)[0] / scale]


def left_out(cells: Sequence[Cell], speeds: Mapping[str, Speed], group: Group) -> dict[str, Fit]:
    """Cell's name -> a fit that has seen none of its group; cells of which the rest is too few are left out."""
    fits: dict[str, Fit] = {}
    for one in dict.fromkeys(group(cell) for cell in cells):
        rest = [cell for cell in cells if group(cell) != one]
        if len(rest) >= LEAST_CELLS:
            fit = fit_cells(rest, speeds)
            fits |= {cell.name: fit for cell in cells if group(cell) == one}
    return fits


def architecture(cell: Cell) -> str:
    """The group of a cell that decides its interval."""
    return cell.subject.arch


@dataclass(frozen=True)
class HalfWidths:
    """By which factor a prediction may be off, as a logarithm; None with too few architectures.

    Attributes:
        own: of a cell whose own rounds tell the ceilings.
        pooled: of one that is predicted from the ceilings of other cells, as every cell is that is not measured yet;
            the machine's drift is in it.
    """

    own: float | None
    pooled: float | None


def half_widths(cells: Sequence[Cell], speeds: Mapping[str, Speed]) -> HalfWidths:
    """How far architectures that were left out are off.

    Args:
        cells: of one way.
        speeds: cell's name -> the ceilings that its features are made of.
    """
    if len({architecture(cell) for cell in cells}) < LEAST_ARCHITECTURES:
        return HalfWidths(None, None)
    fits = left_out(cells, speeds, architecture)
    with_pooled = {**speeds, **pooled_speeds(cells, architecture)}
    return HalfWidths(_exceeded(cells, fits, speeds), _exceeded(cells, fits, with_pooled))


def _exceeded(cells: Sequence[Cell], fits: Mapping[str, Fit], speeds: Mapping[str, Speed]) -> float | None:
    """The error that a new architecture exceeds in a tenth of its cells at most, all architectures weighing the same.

    With fewer than ten architectures that is the largest error of all.
    """
    errors = [
        (abs(log(cell.step_ns / fits[cell.name].step_ns(cell.subject, speeds[cell.name]))), architecture(cell))
        for cell in cells
        if cell.name in fits
    ]
    counts = Counter(arch for _, arch in errors)
    wanted, reached = COVERAGE * (1 + 1 / len(counts)) if counts else 1.0, 0.0
    for error, arch in sorted(errors):
        reached += 1 / (len(counts) * counts[arch])
        if reached >= wanted:
            return error
    return max((error for error, _ in errors), default=None)


def pooled_speeds(cells: Sequence[Cell], group: Group) -> dict[str, Speed]:
    """Cell's name -> the ceilings of its machine by the cells of other groups; nothing where there are none."""
    by_group: dict[tuple[object, str], Speed | None] = {}
    for cell in cells:
        key = (group(cell), cell.machine)
        if key not in by_group:
            others = [other for other in cells if group(other) != key[0] and other.machine == cell.machine]
            by_group[key] = machine_speed(others) if others else None
    by_cell = {cell.name: by_group[group(cell), cell.machine] for cell in cells}
    return {name: speed for name, speed in by_cell.items() if speed is not None}


def interval_ns(step_ns: float, half: float | None) -> tuple[float, float] | None:
    """The interval of a prediction."""
    return None if half is None else (step_ns * exp(-half), step_ns * exp(half))
