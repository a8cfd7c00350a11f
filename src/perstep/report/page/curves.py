"""Curves as SVG: what a page shows of a panel without a script, and in print."""

from itertools import pairwise
from math import ceil, floor, log2, log10

from perstep._words import short
from perstep.report.page.markup import Markup, element, join
from perstep.report.panels import MEASURED, Panel, Series
from perstep.report.plot import part_shade

_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 620.0, 12.0, 270.0
_FEW_DECADES = 2.5
"""On a logarithmic axis with fewer decades, 2 and 5 have ticks too."""
_LEAST_TICKS = 3
"""Fewer do not show the scale."""


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two powers of ten; where they are few, their doubles and halves too, or all nine."""
    ticks: list[float] = []
    for factors in ((1, 2, 5), range(1, 10)) if high - low < _FEW_DECADES else ((1,),):
        every = [factor * 10.0**power for power in range(floor(low), ceil(high) + 1) for factor in factors]
        ticks = [tick for tick in every if low <= log10(tick) <= high]
        if len(ticks) >= _LEAST_TICKS:
            break
    return ticks


class _Axis:
    """One axis: values to places on the drawing."""

    def __init__(self, values: list[float], start: float, end: float, *, log: bool, from_zero: bool) -> None:
        self.log, self._start, self._end = log, start, end
        low, high = min(values), max(values)
        if log:
            low, high = log10(low), log10(high)
        if not log and from_zero:
            low = min(0.0, low)
        margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
        self.low = low if not log and low == 0.0 else low - margin
        self.high = high + margin

    def at(self, value: float) -> float:
        """Where a value lies."""
        share = ((log10(value) if self.log else value) - self.low) / (self.high - self.low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Round values."""
        return log_ticks(self.low, self.high) if self.log else round_ticks(self.low, self.high)


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two values, about six."""
    if not high > low:
        return [low]
    rough = (high - low) / 6
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * place for place in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def curves(panel: Panel) -> Markup:
    """A panel as a drawing with a legend below it."""
    xs = [x for series in panel.series for x in series.x if x > 0 or not panel.log_x]
    ys = [y for series in panel.series for y in _heights(series) if y > 0 or not panel.log_y]
    if not xs or not ys:
        return element("p", "No point was measured.", class_="note")
    x_axis = _Axis(xs, _LEFT, _RIGHT, log=panel.log_x, from_zero=False)
    y_axis = _Axis(ys, _BOTTOM, _TOP, log=panel.log_y, from_zero=panel.from_zero)
    shapes = [*_frame(panel, x_axis, y_axis)]
    for place, series in enumerate(panel.series):
        shapes += _series(series, place, x_axis, y_axis)
    drawing = element(
        "svg",
        *shapes,
        viewbox="0 0 640 312",
        class_="drawing curve",
        role="img",
        aria_label=panel.title or panel.y_label,
    )
    names = [
        element("span", _key(series, place), series.name, class_="legend") for place, series in enumerate(panel.series)
    ]
    return join([drawing, element("p", *names, class_="legends")])


def _heights(series: Series) -> list[float]:
    return [*series.y, *(end for ends in (series.low, series.high) for end in ends if end is not None)]


def _frame(panel: Panel, x_axis: _Axis, y_axis: _Axis) -> list[Markup]:
    shapes, middle = [], (_TOP + _BOTTOM) / 2
    turned = f"rotate(-90 14 {middle:.0f})"
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        shapes += [
            element("path", d=f"M{_LEFT} {y:.1f}H{_RIGHT}", class_="grid"),
            element("text", short(tick), x=_LEFT - 6, y=y + 4, class_="tick", text_anchor="end"),
        ]
    for tick in _x_ticks(panel, x_axis):
        x = x_axis.at(tick)
        shapes += [
            element("path", d=f"M{x:.1f} {_BOTTOM}v5", class_="axis"),
            element("text", short(tick), x=x, y=_BOTTOM + 18, class_="tick", text_anchor="middle"),
        ]
    return [
        *shapes,
        element("path", d=f"M{_LEFT} {_BOTTOM}H{_RIGHT}", class_="axis"),
        element("text", panel.x_label, x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 36, class_="label", text_anchor="middle"),
        element("text", panel.y_label, x=14, y=middle, class_="label", text_anchor="middle", transform=turned),
    ]


_MOST_TICKS, _LONGEST_TICK = 9, 5


def _x_ticks(panel: Panel, axis: _Axis) -> list[float]:
    """The measured values themselves where they are short, few and far enough apart, else round ones."""
    values = sorted({x for series in panel.series for x in series.x if series.kind in MEASURED})
    places = [axis.at(x) for x in values]
    apart = all(later - sooner >= 36 for sooner, later in pairwise(places))
    if values and apart and len(values) <= _MOST_TICKS and all(len(short(x)) <= _LONGEST_TICK for x in values):
        return values
    if panel.log_x:
        return [2.0**power for power in range(ceil(axis.low / log10(2)), floor(axis.high / log10(2)) + 1)][
            :: max(1, round(log2(10) * (axis.high - axis.low) / _MOST_TICKS))
        ]
    return axis.ticks()


def colour_of(series: Series, place: int) -> str:
    """The class of a series' colour: that of its part, or one by its shade."""
    return f"p{part_shade(series.part)}" if series.part else f"l{place if series.shade is None else series.shade}"


def _series(series: Series, place: int, x_axis: _Axis, y_axis: _Axis) -> list[Markup]:
    colour = colour_of(series, place)
    points = [
        (x_axis.at(x), y_axis.at(y))
        for x, y in zip(series.x, series.y, strict=True)
        if (x > 0 or not x_axis.log) and (y > 0 or not y_axis.log)
    ]
    shapes = []
    if series.kind != "points":
        between = "H{0:.1f}V{1:.1f}" if series.kind == "steps" else "L{0:.1f} {1:.1f}"
        line = "".join((between if i else "M{0:.1f} {1:.1f}").format(x, y) for i, (x, y) in enumerate(points))
        shapes.append(element("path", d=line, class_=f"line {colour} {series.kind}"))
    if series.kind not in MEASURED:
        return shapes
    for x, low, high in zip(series.x, series.low, series.high, strict=False):
        if low is not None and high is not None and (low > 0 or not y_axis.log):
            ends = f"M{x_axis.at(x):.1f} {y_axis.at(low):.1f}V{y_axis.at(high):.1f}"
            shapes.append(element("path", d=ends, class_=f"line {colour}"))
    for y, left, right in zip(series.y, series.left, series.right, strict=False):
        if left is not None and right is not None and (left > 0 or not x_axis.log):
            ends = f"M{x_axis.at(left):.1f} {y_axis.at(y):.1f}H{x_axis.at(right):.1f}"
            shapes.append(element("path", d=ends, class_=f"line {colour}"))
    shapes += [_mark(x, y, colour, place) for x, y in points]
    for (x, y), words in zip(points, series.labels, strict=False):
        shapes.append(element("text", words, x=x + 7, y=y - 6, class_="tick"))
    return shapes


def _mark(x: float, y: float, colour: str, place: int) -> Markup:
    """A point; series differ by shape as well as by colour."""
    kind = f"mark {colour}"
    if place % 3 == 1:
        return element("rect", x=x - 3.5, y=y - 3.5, width=7, height=7, class_=kind)
    if place % 3 == 2:
        return element("path", d=f"M{x:.1f} {y - 4.5:.1f}l4.5 8h-9z", class_=kind)
    return element("circle", cx=x, cy=y, r=3.8, class_=kind)


def _key(series: Series, place: int) -> Markup:
    colour = colour_of(series, place)
    shapes = [_mark(9, 6, colour, place)] if series.kind in MEASURED else []
    if series.kind != "points":
        shapes.append(element("path", d="M0 6H18", class_=f"line {colour} {series.kind}"))
    return element("svg", *shapes, viewbox="0 0 18 12", class_="sign", aria_hidden="true")
