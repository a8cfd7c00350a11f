"""The pictures of a sweep: curves and heat maps of its first figure, for each machine alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product, takewhile
from math import nan
from statistics import median
from typing import TYPE_CHECKING

from perstep._words import plural, significant
from perstep.report.panels import Panel, Series, grid_png
from perstep.report.plot import draw_png
from perstep.sweeps.drift import figure_of
from perstep.sweeps.rows import Found, Row, plain, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS, _MOST_LINES, _A_ROW = 6, 5, 3
At = Mapping[str, Found]
"""Axis -> value: some cells of a grid."""


def pictures(rows: Sequence[Row]) -> dict[str, bytes]:
    """File name -> picture. Curves need an axis of numbers that varies, a heat map two axes that vary."""
    machines = _machines(rows)
    files = {}
    for number, one in enumerate(machines, 1):
        ending = f"-{number}.png" if len(machines) > 1 else ".png"
        if one.numeric:
            files[f"curves{ending}"] = one.curves()
        if len(one.axes) > 1:
            files[f"heat-map{ending}"] = one.heat_map()
    return files


def panels_of(rows: Sequence[Row]) -> list[Panel]:
    """The curves of all machines, each with a title of its own."""
    panels = []
    for one in _machines(rows):
        for panel in one.panels() if one.numeric else []:
            title = one.title(0) if not panel.title else f"{one.title(0)}: {panel.title}"
            panels.append(replace(panel, title=title))
    return panels


def _machines(rows: Sequence[Row]) -> "list[_Measured]":
    figure = figure_of(rows)
    measured = [row for row in rows if not row.cell.is_reference and isinstance(row.figures.get(figure), int | float)]
    machines = dict.fromkeys(row.machine for row in measured)
    return [_Measured(figure, [row for row in measured if row.machine == machine]) for machine in machines]


class _Measured:
    """What one machine measured.

    Attributes:
        axes: those that vary -> their values in order.
    """

    def __init__(self, figure: str, rows: Sequence[Row]) -> None:
        self._figure, self._rows = figure, rows
        by_axis = {axis: list(dict.fromkeys(_at(row, axis) for row in rows)) for axis in rows[0].cell.values}
        self.axes = {axis: sorted(levels, key=_order) for axis, levels in by_axis.items() if len(levels) > 1}
        self._names = {
            (axis, level): name
            for axis, levels in self.axes.items()
            for level, name in zip(levels, _short_names(levels), strict=True)
        }
        self._header, self._unit, self._size = shown(figure, [float(row.figures[figure]) for row in rows])

    @property
    def numeric(self) -> list[str]:
        """The axes of numbers."""
        return [axis for axis, levels in self.axes.items() if all(isinstance(level, int | float) for level in levels)]

    def curves(self) -> bytes:
        """The panels as a picture."""
        panels = self.panels()
        levels = sum(len(series.x) for panel in panels for series in panel.series if series.kind == "joined")
        left_out = len({tuple(map(str, row.cell.values.values())) for row in self._rows}) - levels
        return grid_png(self.title(left_out), [panels[i : i + _A_ROW] for i in range(0, len(panels), _A_ROW)])

    def panels(self) -> list[Panel]:
        """An axis of numbers from left to right, a line for each value of a second, a panel for those of the others."""
        axis = self.numeric[0]
        second, *others = [name for name in self.axes if name != axis] or [""]
        lines = self.axes.get(second, [None])[:_MOST_LINES]
        positive = all(row.figures[self._figure] >= 0 for row in self._rows)
        panels = []
        for at in self._panels(others):
            series = []
            for shade, line in enumerate(lines):
                points = [(float(x), self._value({**at, second: line, axis: x})) for x in self.axes[axis]]
                xs, ys = [x for x, y in points if y is not None], [y for _, y in points if y is not None]
                name = f"{second} {self._names[second, line]}" if second else "measured"
                series.append(Series(name, xs, ys, "joined", shade=shade))
            log_x = min(self.axes[axis]) > 0
            panels.append(Panel(self._words(at), axis, self._label, series, log_x=log_x, from_zero=positive))
        return panels

    def heat_map(self) -> bytes:
        """The first axis down, the second from left to right, a panel for each value of the others; one scale."""
        down, right, *others = self.axes
        panels = self._panels(others)
        columns = min(len(panels), _A_ROW)
        num_rows = -(-len(panels) // columns)
        wide, high = (max(len(self.axes[axis]), 2) for axis in (right, down))
        longest = max(len(self._names[down, level]) for level in self.axes[down])
        across = max(0.8, 0.08 * max(len(self._names[right, level]) for level in self.axes[right]))

        def draw(figure: "Figure") -> None:
            places = figure.subplots(num_rows, columns, squeeze=False, sharey=True)
            values = [value for at in panels for row in self._cells(at, down, right) for value in row]
            largest = max((value for value in values if value is not None), default=0.0)
            for axes, at in zip(places.ravel(), panels, strict=False):
                self._draw_map(axes, at, down, right, largest)
            for axes in places.ravel()[len(panels) :]:
                axes.set_axis_off()
            for axes in places[:, 0]:
                axes.set_ylabel(down, fontsize=9)
            figure.colorbar(places[0, 0].images[0], ax=places, label=self._label)
            cells = {tuple(map(str, row.cell.values.values())) for row in self._rows}
            drawn = [c for at in panels for c in cells if self._is_in(c, at)]
            figure.suptitle(self.title(len(cells) - len(drawn)), fontsize=11)

        width = 2.4 + 0.08 * longest + across * wide * columns
        return draw_png(min(max(width, 5.0), 20.0), min(1.8 + 0.55 * high * num_rows, 20.0), draw)

    def _cells(self, at: At, down: str, right: str) -> list[list[float | None]]:
        return [[self._value({**at, down: low, right: level}) for level in self.axes[right]] for low in self.axes[down]]

    def _draw_map(self, axes: "Axes", at: At, down: str, right: str, largest: float) -> None:
        cells = self._cells(at, down, right)
        shades = [[nan if value is None else value for value in row] for row in cells]
        axes.imshow(shades, cmap="Greys", aspect="auto", vmin=0.0, vmax=max(largest, 0.0))
        for y, row in enumerate(cells):
            for x, value in enumerate(row):
                text, dark = ("–", False) if value is None else (significant(value), value > 0.6 * largest)
                axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axes.set_xticks(range(len(self.axes[right])), [self._names[right, one] for one in self.axes[right]], fontsize=8)
        axes.set_yticks(range(len(self.axes[down])), [self._names[down, one] for one in self.axes[down]], fontsize=8)
        axes.set_xlabel(right, fontsize=9)
        axes.set_title(self._words(at), fontsize=9.5, loc="left")

    @property
    def _label(self) -> str:
        return f"{self._header} ({self._unit})" if self._unit else self._header

    def title(self, left_out: int) -> str:
        """What is to be seen, and how many cells are not."""
        more = f"; {plural(left_out, 'cell is', 'cells are')} not shown" if left_out > 0 else ""
        values = [float(row.figures[self._figure]) / self._size for row in self._rows]
        ends = " to ".join(map(significant, (min(values), max(values))))
        return f"{self._header} from {ends}{f' {self._unit}' if self._unit else ''} on {self._rows[0].hardware}{more}"

    def _is_in(self, cell: tuple[str, ...], at: At) -> bool:
        """Whether a cell, by the texts of its values, is one of these."""
        by_axis = dict(zip(self._rows[0].cell.values, cell, strict=True))
        return all(by_axis[axis] == str(value) for axis, value in at.items())

    def _panels(self, others: Sequence[str]) -> Sequence[At]:
        combinations = product(*(self.axes[axis] for axis in others))
        return [dict(zip(others, one, strict=True)) for one in combinations][:_MOST_PANELS]

    def _words(self, at: At) -> str:
        return ", ".join(f"{axis} {self._names[axis, value]}" for axis, value in at.items())

    def _value(self, at: At) -> float | None:
        """The median of a cell's repetitions in the unit of the picture; None where none was measured."""
        values = [
            float(row.figures[self._figure])
            for row in self._rows
            if all(_at(row, axis) == value for axis, value in at.items() if axis)
        ]
        return median(values) / self._size if values else None


def _at(row: Row, axis: str) -> Found:
    return plain(row.cell.values.get(axis))


def _order(value: Found) -> tuple[bool, float, str]:
    """Numbers first, by size, then texts."""
    number = isinstance(value, int | float)
    return (not number, value if number else 0.0, str(value))


def _short_names(levels: Sequence[Found]) -> list[str]:
    """Texts of the levels of an axis; of paths, what lies between the folders that all share: `gpt2`, `opt`."""
    names = [str(level) for level in levels]
    parts = [name.split("/") for name in names]
    same = _shared(parts)
    end = _shared([part[same:][::-1] for part in parts])
    short = ["/".join(part[same : len(part) - end]) for part in parts]
    return short if all(short) else names


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """How many of their first words all have in common."""
    return sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*parts, strict=False)))
