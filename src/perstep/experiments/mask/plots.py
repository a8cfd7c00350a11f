"""The pictures of `mask`: stacked steps without and with each engine, and fills against the vocabulary's size."""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from perstep.experiments.mask.curve_findings import Curve
from perstep.experiments.mask.findings import Arm, CellFinding
from perstep.measure import RESIDUAL
from perstep.report.format import interval, significant
from perstep.report.plot import RESIDUAL_COLOUR, draw_png, part_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PARTS = ("forward", "lm_head", "mask.fill", "mask.apply", "mask.accept", "sample", "stop")
NOT_RESOLVED = "not resolved"
"""What stands in place of a ratio that has no interval."""
_COLUMNS = 2
_TITLE_WIDTH = 72  # characters over a panel
_CLIPPED_FROM = 3.0
"""A bar more than so many times as long as the others is cut off, with its length written on it."""


def overhead_png(cells: Sequence[CellFinding], model: str) -> bytes:
    """A panel a cell, a bar an arm, stacked by part."""
    columns = min(_COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    height = 1.4 + rows * (0.9 + 0.36 * max(len(cell.arms) for cell in cells))

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, cell in zip(axes, cells, strict=False):
            _draw_cell(ax, cell)
        for ax in axes[len(cells) :]:
            ax.set_visible(False)
        title = "\n".join(fill(line, columns * _TITLE_WIDTH) for line in _finding(cells, model).splitlines())
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncol=4 * columns, fontsize=8.5, frameon=False)

    return draw_png(6.2 * columns, height, draw)


def _draw_cell(ax: "Axes", cell: CellFinding) -> None:
    unit, size = ("ms", 1e6) if cell.free.per_step_ms >= 1 else ("µs", 1e3)
    limit = _limit(cell) / size
    places = range(len(cell.arms))
    left = [0.0] * len(cell.arms)
    for index, part in enumerate((*_PARTS, RESIDUAL)):
        widths = [arm.part_ns(part) / size for arm in cell.arms]
        colour = RESIDUAL_COLOUR if part == RESIDUAL else part_colour(index)
        ax.barh(places, widths, left=left, color=colour, edgecolor="#222222", linewidth=0.5, height=0.72, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, (arm, end) in enumerate(zip(cell.arms, left, strict=True)):
        words = significant(arm.per_step_ms * 1e6 / size) + ("" if arm.ratio is None else f"  {_times(arm)}")
        if end > limit:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            ax.text(limit * 0.99, place, f"{words} →", va="center", ha="right", fontsize=8, bbox=box)
        else:
            ax.text(end + 0.01 * limit, place, words, va="center", fontsize=8)
    ax.set_yticks(places, [arm.engine for arm in cell.arms], fontsize=8.5)
    ax.invert_yaxis()
    ax.set_xlim(0, limit)
    ax.spines[["right", "top"]].set_visible(False)
    ax.set_title(_panel_title(cell), loc="left", fontsize=9.5)
    ax.set_xlabel(f"{unit} a step, and × no mask with its 95 % interval", fontsize=8)


def _limit(cell: CellFinding) -> float:
    """The axis ends where every bar fits, unless one is far longer than all others; room for the words is added."""
    lengths = sorted(arm.per_step_ms * 1e6 for arm in cell.arms)
    longest = lengths[-1]
    if len(lengths) > 2 and longest > _CLIPPED_FROM * lengths[-2]:
        longest = 1.6 * lengths[-2]
    return 1.45 * longest


def _times(arm: Arm) -> str:
    """The ratio to no mask with its interval: `×1.26 [1.20, 1.31]`."""
    if arm.ratio is None or arm.ratio_low is None:
        return NOT_RESOLVED
    return f"×{significant(arm.ratio)} {interval(arm.ratio_low, arm.ratio_high)}"


def _panel_title(cell: CellFinding) -> str:
    name = f"{cell.vocab}: " if not cell.vocab.isdigit() else ""
    complexity = f", {cell.complexity} x the schema" if cell.complexity > 1 else ""
    return f"{name}{cell.vocab_size:,} tokens, batch {cell.batch}{complexity}"


def _finding(cells: Sequence[CellFinding], model: str) -> str:
    """What the pictures show, in the numbers of the first and the last cell."""

    def of(cell: CellFinding) -> str:
        arms = [arm for arm in cell.arms if arm.engine in _STYLES] or cell.arms[1:2]
        return f"{', '.join(f'{arm.engine} {_times(arm)}' for arm in arms)} at {cell.vocab_size:,} tokens"

    shown = [cells[0]] if len(cells) == 1 else [cells[0], cells[-1]]
    return "\n".join(f"{model}, a step against one without a mask: {of(cell)}" for cell in shown)


_STYLES = {"naive": ("#8a5a1c", "o"), "table": ("#1f3b5c", "s")}
_MARKS = ("^", "v", "D", "P", "X", "*")


def scaling_png(curves: Sequence[Curve], cells: Sequence[CellFinding]) -> bytes:
    """Fills against size: hot ones with their fit on the left, those in place between forwards on the right.

    Hot: fitted points filled, held-out ones hollow, the prediction a cross. A row a complexity.
    """
    levels = sorted({curve.complexity for curve in curves})

    def draw(figure: "Figure") -> None:
        rows = figure.subplots(len(levels), 2, squeeze=False, sharey="row", sharex=True)
        for (hot, in_place), level in zip(rows, levels, strict=True):
            title = "" if len(levels) == 1 else f"{level} x the schema: "
            shown = [curve for curve in curves if curve.complexity == level]
            _draw_curves(hot, shown)
            hot.set_title(title + _scaling_finding(shown), fontsize=9.5, loc="left")
            _draw_in_place(in_place, [cell for cell in cells if cell.complexity == level and cell.batch == 1])
            in_place.set_title(f"{title}in place, between two forwards", fontsize=9.5, loc="left")
            hot.set_ylabel("µs a fill")
            for ax in (hot, in_place):
                _size_axes(ax)
        for ax in rows[-1]:
            ax.set_xlabel("tokens of the vocabulary")

    return draw_png(12.0, 4.8 * len(levels), draw)


def _draw_curves(ax: "Axes", curves: Sequence[Curve]) -> None:
    for curve in curves:
        colour, shape = _STYLES[curve.engine]
        x, y = curve.sizes, curve.fill_us
        fit = [sum(term * size**power for power, term in enumerate(curve.terms)) / 1e3 for size in x]
        ax.plot(x, [max(value, 1e-4) for value in fit], color=colour, linewidth=1)
        for fitted, face, word in ((True, colour, "fitted"), (False, "white", "held out")):
            points = [(a, b) for a, b, f in zip(x, y, curve.fitted, strict=True) if f is fitted]
            label = f"{curve.engine}, {word}"
            ax.plot(*zip(*points, strict=True), shape, color=colour, markerfacecolor=face, markersize=6, label=label)
        if curve.predicted_us is not None:
            label = f"{curve.engine}, predicted before"
            ax.plot([50_000], [curve.predicted_us], "x", color=colour, markersize=10, markeredgewidth=1.6, label=label)


def _size_axes(ax: "Axes") -> None:
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda value, _place: f"{value:,g}")
    ticks = [512, 2048, 8192, 32_768, 131_072]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    ax.legend(fontsize=8, frameon=False, loc="upper left")


def _draw_in_place(ax: "Axes", cells: Sequence[CellFinding]) -> None:
    """Every engine, as the tables of the cells have it."""
    marks = iter(_MARKS)
    for name in dict.fromkeys(arm.engine for cell in cells for arm in cell.arms[1:]):
        colour, shape = _STYLES[name] if name in _STYLES else ("#777777", next(marks))
        arms = [(cell.vocab_size, arm) for cell in cells if (arm := cell.arm(name)) is not None]
        points = sorted((size, arm.fill.in_place_us) for size, arm in arms if arm.fill)
        ax.plot(*zip(*points, strict=True), f"{shape}:", color=colour, markersize=5.5, linewidth=0.8, label=name)


def _scaling_finding(curves: Sequence[Curve]) -> str:
    words = [
        f"{curve.engine} {significant(curve.slope_ns_per_token)} ns a token"
        if curve.engine == "naive"
        else f"{curve.engine} {significant(max(curve.fill_us))} µs at most"
        for curve in curves
    ]
    return "hot, a fill costs: " + ", ".join(words)
