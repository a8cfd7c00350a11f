"""What the repeated reference cell says of a sweep: how far the machine drifted while the grid was measured."""

from collections.abc import Sequence
from statistics import median

import msgspec

from perstep.sweeps.rows import Row


class Drift(msgspec.Struct, frozen=True):
    """The reference cell on one machine.

    Attributes:
        hardware: the machine in words.
        figure: which number of the cell is compared.
        times: how often it was measured.
        most: the largest deviation of one from their median, as a share.
        over_time: the last over the first, minus 1.
    """

    hardware: str
    figure: str
    times: int
    most: float
    over_time: float


def figure_of(rows: Sequence[Row]) -> str:
    """The first figure that is a number somewhere; empty if there is none."""
    for row in rows:
        for name, value in row.figures.items():
            if isinstance(value, int | float):
                return name
    return ""


def drifts(rows: Sequence[Row]) -> list[Drift]:
    """The drift on each machine that measured the reference cell at least twice."""
    figure = figure_of(rows)
    result = []
    for machine in dict.fromkeys(row.machine for row in rows if row.machine):
        repeats = [row for row in rows if row.machine == machine and row.cell.is_reference]
        values = [value for row in repeats if isinstance(value := row.figures.get(figure), int | float) and value > 0]
        if len(values) > 1:
            middle = median(values)
            most = max(abs(value / middle - 1) for value in values)
            result.append(Drift(repeats[0].hardware, figure, len(values), most, values[-1] / values[0] - 1))
    return result
