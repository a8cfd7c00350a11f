"""Curves and scatters beside one another, with one legend below them that covers no data.

Series differ by marker and dash as well as by shade, so that the picture can be read in grey.
"""

from dataclasses import dataclass, field
from textwrap import fill
from typing import TYPE_CHECKING, Literal

from perstep._words import short
from perstep.report.plot import draw_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Kind = Literal["points", "line", "dashed", "steps", "joined"]

MEASURED = ("points", "joined")
"""The kinds of what was measured."""
_SHADES = ("#1f3b5c", "#b5651d", "#2f5d34", "#7a4b8c", "#777777")
_MARKERS = ("o", "s", "^", "D", "v")
_A_LINE = {11: 12, 9.5: 13.5, 8.5: 15}
"""Characters of a type size, in points, that fit into an inch of a line, most names being of wide letters."""
_DASHES = ("-", (0, (8, 2)), "-.", ":", (0, (1, 3)))


@dataclass(frozen=True)
class Series:
    """One series of a panel.

    Attributes:
        name: in the legend.
        x: [points].
        y: [points].
        kind: measured points, a fitted line, an expectation (dashed), a staircase, or joined measured points.
        low: lower ends of the intervals of `y`, as long as it, or none.
        high: upper ends.
        left: lower ends of the intervals of `x`, or none.
        right: upper ends.
        labels: a word beside each point, or none.
        shade: index of its colour; by its place in the panel if None.
        part: the part whose colour it has on a page, or none; pictures take `shade`.
    """

    name: str
    x: list[float]
    y: list[float]
    kind: Kind = "points"
    low: list[float | None] = field(default_factory=list)
    high: list[float | None] = field(default_factory=list)
    left: list[float | None] = field(default_factory=list)
    right: list[float | None] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    shade: int | None = None
    part: str = ""


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what is to be seen.
        x_label: with unit.
        y_label: with unit.
        series: drawn in this order.
        log_x: a logarithmic axis, with the values themselves as ticks.
        log_y: a logarithmic vertical axis.
        from_zero: whether the vertical axis begins at 0; a logarithmic one does not.
    """

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = True


def grid_png(title: str, rows: list[list[Panel]]) -> bytes:
    """Rows of panels under one title, with one legend for all.

    Args:
        title: the finding, in a sentence or a line a row.
        rows: each of one to three panels; a shorter row leaves its last places empty.
    """
    columns = max(len(row) for row in rows)
    width_in = {1: 7.3, 2: 10.4}.get(columns, 13.0)
    panel_in = width_in / columns - 0.8  # its labels take the rest

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(len(rows), columns, squeeze=False)
        named: dict[str, Line2D] = {}
        for places, row in zip(axes, rows, strict=True):
            for ax, panel in zip(places, row, strict=False):
                _draw(ax, panel, panel_in, named)
            for ax in places[len(row) :]:
                ax.set_axis_off()
        figure.suptitle(_filled(title, 11, width_in), fontsize=11, x=0.01, ha="left")
        entry_in = 0.6 + max(map(len, named)) / _A_LINE[8.5]
        fitting = max(int(width_in / entry_in), 1)
        figure.legend(
            list(named.values()),
            [_filled(name, 8.5, width_in - 0.8) for name in named],
            loc="outside lower center",
            ncols=min(len(named), 4, fitting),
            fontsize=8.5,
        )

    return draw_png(width_in, 4.3 + 3.6 * (len(rows) - 1), draw)


def _filled(text: str, size_pt: float, width_in: float) -> str:
    """A text in lines that fit, each of its own lines on its own."""
    return "\n".join(fill(line, int(_A_LINE[size_pt] * width_in)) for line in text.splitlines())


def _draw(ax: "Axes", panel: Panel, width_in: float, named: "dict[str, Line2D]") -> None:
    from matplotlib.ticker import MaxNLocator

    for place, series in enumerate(panel.series):
        shade = place if series.shade is None else series.shade
        handle = _series(ax, series, shade)
        named.setdefault(series.name, handle)
        for x, y, label in zip(series.x, series.y, series.labels, strict=False):
            ax.annotate(label, (x, y), textcoords="offset points", xytext=(5, 5), fontsize=7.5)
    if panel.log_x:
        ax.set_xscale("log", base=2)
        ticks = sorted({x for series in panel.series for x in series.x if series.kind in MEASURED})
        ax.set_xticks(ticks, [short(tick) for tick in ticks])
        ax.minorticks_off()
    elif all(x == int(x) for series in panel.series if series.kind in MEASURED for x in series.x):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.1 if any(series.labels for series in panel.series) else 0.05, y=0.1)
    if panel.log_y:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")  # text is not parsed: a power would be TeX
    elif panel.from_zero:
        ax.update_datalim([(0, 0)], updatex=False)  # so that the margin above is a part of the whole axis
        ax.autoscale_view()
        ax.set_ylim(bottom=0)
    ax.set_title(_filled(panel.title, 9.5, width_in), fontsize=9.5, loc="left")
    ax.set_xlabel(panel.x_label, fontsize=9)
    ax.set_ylabel(panel.y_label, fontsize=9)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["right", "top"]].set_visible(False)


def _series(ax: "Axes", series: Series, shade: int) -> "Line2D":
    colour, marker = _SHADES[shade % len(_SHADES)], _MARKERS[shade % len(_MARKERS)]
    if series.kind in MEASURED:
        joined = "" if series.kind == "points" else "-"
        (handle,) = ax.plot(series.x, series.y, marker + joined, color=colour, markersize=4.5, clip_on=False, zorder=3)
        for x, low, high in zip(series.x, series.low, series.high, strict=False):
            if low is not None and high is not None:
                ax.plot([x, x], [low, high], "-", color=colour, linewidth=1.2)
        for y, left, right in zip(series.y, series.left, series.right, strict=False):
            if left is not None and right is not None:
                ax.plot([left, right], [y, y], "-", color=colour, linewidth=1.2)
        return handle
    if series.kind == "steps":
        (handle,) = ax.step(series.x, series.y, where="post", color=colour, linewidth=1.2)
        return handle
    style = (0, (5, 4)) if series.kind == "dashed" else _DASHES[shade % len(_DASHES)]
    (handle,) = ax.plot(series.x, series.y, linestyle=style, color=colour, linewidth=1.2)
    return handle
