"""The figures of a page as HTML and SVG: complete without a script, with the texts that a script shows on hover.

Colours and type are the style sheet's: a shape has a class. A bar is an SVG that is stretched to the width it has, so
no text is in it; other drawings keep their proportions.
"""

from collections.abc import Mapping, Sequence
from math import hypot, log10
from typing import Literal, NamedTuple

from perstep._words import short
from perstep.measure import RESIDUAL, Ledger, Part
from perstep.report.format import duration, duration_interval, percent, plural, significant, time_unit
from perstep.report.ledger import overhead_words
from perstep.report.page.content import Bar, Bars, Drawn, LedgerView, PartTime, Roofline, Spot, StepParts
from perstep.report.page.curves import curves, log_ticks, round_ticks
from perstep.report.page.markup import Markup, code, element, join, sentence
from perstep.report.panels import Panel
from perstep.report.plot import part_shade

_WIDE = 1000.0
"""Units of a stretched bar from end to end."""
_LANE_WIDE = 960.0
_IDLE = "idle"
_LABEL_HIGH, _LETTER = 14.0, 6.6
"""Room for a line of names beside their places on a roofline, and for a letter."""
_DOT, _RING = 5.0, 4.0
"""Radius of a part there, and by how much a disc below it is larger than the one above."""
_LEAST_NAMED = 7.0
"""Units that a character of a name takes in a lane; a segment that is narrower than its name has none."""


def figure(number: int, shown: Drawn) -> Markup:
    """A figure with its caption.

    Args:
        number: its place on the page, by which the script finds its data.
        shown: what is drawn.
    """
    drawn = (
        _ledger(shown)
        if isinstance(shown, LedgerView)
        else _bars(shown)
        if isinstance(shown, Bars)
        else _roofline(shown)
        if isinstance(shown, Roofline)
        else _panel(shown)
    )
    caption = element("figcaption", sentence(shown.title or "curve"))
    kind = "figure narrow" if isinstance(shown, Panel) else "figure"
    return element("figure", caption, drawn, id=f"figure-{number}", class_=kind, data_figure=str(number))


def part_words(view: LedgerView, name: str) -> list[str]:
    """What is known of a part, a line each: its time, its interval, its bound, what the device did, and n."""
    ledger = view.ledger
    part = ledger.parts.get(name)
    ns, share = (ledger.residual_ns, ledger.residual_share) if part is None else (part.ns, part.share)
    said = [f"{duration(ns)} a step, {percent(share)} of it"]
    if part is not None:
        said.append(
            f"95 % interval {duration_interval(part.ci_low, part.ci_high, f'missing: too few {round_noun(ledger)}s')}"
        )
        said += _waits(part)
    if view.bounds is not None and name in view.bounds.parts_ns:
        bound, binds = view.bounds.parts_ns[name], view.bounds.binds.get(name, "")
        said.append(
            f"bound {duration(bound)} ({binds}), measured is {significant(ns / bound)} times that"
            if bound
            else f"no bound: {binds}"
        )
    if view.device is not None and name in view.device.busy_ns:
        said.append(f"device busy {duration(view.device.busy_ns[name])}")
    return [*said, f"n = {plural(ledger.rounds, round_noun(ledger))}"]


def round_noun(ledger: Ledger | StepParts) -> str:
    """What intervals are over: rounds, or the steps of a trace."""
    return "round" if isinstance(ledger, Ledger) else "step"


def _waits(part: PartTime) -> list[str]:
    if not isinstance(part, Part):
        return []  # not counted
    counted = {"sync": part.syncs_per_step or 0.0, "upload": part.uploads_per_step or 0.0}
    return [f"{plural(count, f'host {what}')} a step" for what, count in counted.items() if count]


def _hint(name: str, said: Sequence[str]) -> str:
    return "\n".join([name, *said])


def _ledger(view: LedgerView) -> Markup:
    ledger = view.ledger
    unit, size = time_unit([part.ns for part in ledger.parts.values()] or [ledger.residual_ns])
    names = [*ledger.parts, RESIDUAL]
    longest = max(
        [ledger.residual_ns]
        + [max(part.ns, min(part.ci_high or 0.0, 1.5 * part.ns)) for part in ledger.parts.values()]
        + list(view.device.busy_ns.values() if view.device else ())
    )
    rows = [_ledger_row(view, name, size, longest) for name in names]
    head = element(
        "tr",
        element("th", "part", scope="col"),
        element("th", _legend(view), scope="col", class_="plot"),
        element("th", f"{unit}/step", scope="col", class_="number"),
        element("th", "share", scope="col", class_="number"),
    )
    table = element("table", element("thead", head), element("tbody", *rows), class_="ledger")
    return join([_step_words(view), _lanes(view), table])


def _step_words(view: LedgerView) -> Markup:
    ledger = view.ledger
    if isinstance(ledger, StepParts):
        return element("p", sentence(ledger.words), class_="words")
    said = f"An instrumented {_kind(ledger.kind)} takes {duration(ledger.step_ns)}"
    if ledger.plain_step_ns is not None:
        ends = duration_interval(ledger.plain_step_ci_low, ledger.plain_step_ci_high, "(no interval)")
        said += f"; without instruments {duration(ledger.plain_step_ns)} {ends}"
    if view.bounds is not None and view.bounds.step_ns:
        said += f"; its bound is {duration(view.bounds.step_ns)}"
    words = f"{said} · {overhead_words(ledger)} · {plural(ledger.rounds, 'round')}"
    invalid = [element("strong", f"INVALID: {ledger.invalid}")] if ledger.invalid else []
    return element("p", *invalid, sentence(words), class_="words")


def _kind(kind: str) -> str:
    """A kind of step in words; steps that differ by their number of tokens are named by it."""
    tokens = kind.removeprefix("S")
    return f"step of {plural(int(tokens), 'token')}" if tokens.isdecimal() else f"{kind} step"


def _legend(view: LedgerView) -> Markup:
    keys = [("key host", "time of the host"), ("key ends", "95 % interval")]
    if view.device is not None:
        keys.append(("key device", "device busy"))
    if view.bounds is not None and any(view.bounds.parts_ns.values()):
        keys.append(("key bound", "bound"))
    return join(element("span", element("i", class_=kind), words, class_="legend") for kind, words in keys)


def _ledger_row(view: LedgerView, part_name: str, size: float, longest: float) -> Markup:
    part = view.ledger.parts.get(part_name)
    ns, share = (view.ledger.residual_ns, view.ledger.residual_share) if part is None else (part.ns, part.share)

    def at(value: float) -> float:
        return min(_WIDE * value / longest, _WIDE) if longest else 0.0

    busy = view.device.busy_ns.get(part_name) if view.device else None
    bound = view.bounds.parts_ns.get(part_name) if view.bounds else None
    shapes = [element("rect", x=0, y=4, width=at(ns), height=16, class_=shade(part_name))]
    if busy is not None:
        shapes.append(element("rect", x=0, y=15, width=at(busy), height=5, class_="device"))
    if part is not None and part.ci_low is not None and part.ci_high is not None:
        shapes += _whisker(at(part.ci_low), at(part.ci_high), 4)
    if bound:
        shapes.append(element("path", d=f"M{at(bound):.1f} 0V24", class_="bound"))
    return element(
        "tr",
        element("th", element("i", class_=f"swatch {shade(part_name)}"), code(part_name), scope="row"),
        element("td", _stretched(shapes, 24), class_="plot"),
        element("td", significant(ns / size), class_="number"),
        element("td", percent(share), class_="number"),
        data_part=part_name,
        data_hint=_hint(part_name, part_words(view, part_name)),
    )


def shade(part: str) -> str:
    """The class of a part's colour, the same on every page."""
    return "idle" if part == _IDLE else "shade residual" if part == RESIDUAL else f"shade s{part_shade(part)}"


def _stretched(shapes: Sequence[Markup], height: float) -> Markup:
    return element(
        "svg", *shapes, viewbox=f"0 0 {_WIDE:.0f} {height:.0f}", ratio="none", class_="bar", aria_hidden="true"
    )


def _whisker(low: float, high: float, half: float) -> list[Markup]:
    """An interval, with a rim that parts it from a dark bar below it."""
    top, bottom = 12 - half, 12 + half
    line = f"M{low:.1f} {top}V{bottom}M{low:.1f} 12H{high:.1f}M{high:.1f} {top}V{bottom}"
    return [element("path", d=line, class_="rim"), element("path", d=line, class_="ends")]


def _lanes(view: LedgerView) -> Markup:
    """The step from left to right: the parts one after another, below them what the device does, and the waits."""
    ledger, device = view.ledger, view.device
    parts = {**{name: part.ns for name, part in ledger.parts.items()}, RESIDUAL: ledger.residual_ns}
    whole = max(ledger.step_ns, device.step_ns if device else 0.0)
    shapes = [*_lane("host", 22, parts, whole, view), *_sync_marks(view, parts, whole)]
    if device is not None:
        shapes += _lane("device", 64, {**device.busy_ns, _IDLE: device.idle_ns}, whole, view)
    bottom = 108 if device else 66
    shapes += _axis(whole, bottom)
    drawing = element(
        "svg", *shapes, viewbox=f"0 0 {_LANE_WIDE + 60:.0f} {bottom + 22}", class_="drawing lanes", role="img",
        aria_label=f"The parts of a {_kind(ledger.kind)} from left to right",
    )  # fmt: skip
    said = "Left to right in the order of the step. A part that is entered several times is drawn once, as its sum."
    if device is not None:
        said += f" {device.words} The two lanes are of two clocks: their places do not say what ran at the same time."
    return join([_scrolled(drawing, "the step from left to right"), element("p", sentence(said), class_="note")])


def _scrolled(drawing: Markup, what: str) -> Markup:
    return element("div", drawing, class_="scrolled", tabindex=0, role="group", aria_label=what)


def _lane(name: str, top: float, parts: Mapping[str, float], whole: float, view: LedgerView) -> list[Markup]:
    shapes = [element("text", name, x=0, y=top + 20, class_="label")]
    left = 0.0
    for part, ns in parts.items():
        width = _LANE_WIDE * ns / whole
        hint = _hint(part, part_words(view, part)) if name == "host" else f"{part}\n{duration(ns)} of the device's step"
        drawn = [
            element("rect", x=60 + left, y=top, width=width, height=32, class_=shade(part)),
            element("title", hint),
        ]
        if width >= _LEAST_NAMED * len(part) + 6:
            drawn.append(element("text", part, x=60 + left + width / 2, y=top + 20, class_=f"name on{_ink(part)}"))
        shapes.append(element("g", *drawn, data_part=part, data_hint=hint))
        left += width
    return shapes


def _ink(part: str) -> str:
    return "" if part in (RESIDUAL, _IDLE) else f" s{part_shade(part)}"


def _sync_marks(view: LedgerView, parts: Mapping[str, float], whole: float) -> list[Markup]:
    """A triangle above each part in which the host waits for the device."""
    shapes, left = [], 0.0
    for name, ns in parts.items():
        part, width = view.ledger.parts.get(name), _LANE_WIDE * ns / whole
        if part is not None and (said := _waits(part)):
            x = 60 + left + width / 2
            mark = element(
                "path", element("title", f"{name}: {', '.join(said)}"), d=f"M{x - 5:.1f} 8h10l-5 10z", class_="sync"
            )
            shapes.append(mark)
        left += width
    return shapes


def _axis(whole: float, y: float) -> list[Markup]:
    unit, size = time_unit([whole])
    shapes = [element("path", d=f"M60 {y}H{60 + _LANE_WIDE:.0f}", class_="axis")]
    ticks = round_ticks(0.0, whole / size)
    for tick in ticks:
        x = 60 + _LANE_WIDE * tick * size / whole
        words = f"{short(tick)} {unit}" if tick == ticks[-1] else short(tick)
        anchor = "end" if x > 40 + _LANE_WIDE else "middle"
        shapes += [
            element("path", d=f"M{x:.1f} {y}v5", class_="axis"),
            element("text", words, x=x, y=y + 18, class_="tick", text_anchor=anchor),
        ]
    return shapes


def _bars(bars: Bars) -> Markup:
    drawn = [bar for bar in bars.bars if bar.value is not None]
    ends = [end for bar in drawn for end in (bar.value, bar.low, bar.high, bar.reference) if end is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if bars.within is not None:
        high = 1.1 * max(high, -low, 2 * bars.within)
        low = -high
    rows = [_bar_row(bars, bar, low, high) for bar in bars.bars]
    note = [element("p", sentence(bars.note), class_="note")] if bars.note else []
    return join([element("table", element("tbody", *rows), class_="ledger bars"), *note])


def _bar_row(bars: Bars, bar: Bar, low: float, high: float) -> Markup:
    def at(value: float) -> float:
        return _WIDE * (value - low) / (high - low) if high > low else 0.0

    shapes = []
    if bars.within is not None:
        left, right = at(-bars.within), at(bars.within)
        shapes.append(element("rect", x=left, y=0, width=right - left, height=24, class_="same"))
    if bar.value is not None:
        left, right = sorted((at(0.0), at(bar.value)))
        shapes.append(element("rect", x=left, y=5, width=right - left, height=14, class_="amount"))
        if bar.low is not None and bar.high is not None:
            shapes += _whisker(at(bar.low), at(bar.high), 5)
    if bar.reference is not None:
        shapes.append(element("path", d=f"M{at(bar.reference):.1f} 0V24", class_="bound"))
    if low < 0:
        shapes.append(element("path", d=f"M{at(0.0):.1f} 0V24", class_="zero"))
    value = "–" if bar.value is None else f"{significant(bar.value)} {bars.unit}".rstrip()
    return element(
        "tr",
        element("th", code(bar.name), scope="row"),
        element("td", _stretched(shapes, 24), class_="plot"),
        element("td", sentence(bar.words or value), class_="words"),
        data_part=bar.name,
        data_hint=_hint(bar.name, [bar.words or value]),
    )


def _panel(panel: Panel) -> Markup:
    return element("div", curves(panel), class_="curves")


class _Roof:
    """The places on the drawing of a roofline: both axes are logarithmic."""

    left, right, top, bottom = 70.0, 700.0, 14.0, 330.0

    def __init__(self, shown: Roofline, spots: Sequence[Spot]) -> None:
        corner = shown.peak_per_s / max(shown.roofs.values())
        self.x_ends = _decades([*(spot.intensity for spot in spots), corner], 0.4)
        self.y_ends = _decades([*(spot.per_s for spot in spots), shown.peak_per_s], 0.2)

    def x(self, intensity: float) -> float:
        """From operations a byte."""
        low, high = self.x_ends
        return self.left + (self.right - self.left) * (log10(intensity) - low) / (high - low)

    def y(self, per_s: float) -> float:
        """From operations a second."""
        low, high = self.y_ends
        return self.bottom - (self.bottom - self.top) * (log10(per_s) - low) / (high - low)


def _roofline(shown: Roofline) -> Markup:
    spots = [spot for spot in shown.spots if spot.intensity > 0 and spot.per_s > 0]
    at = _Roof(shown, spots)
    shapes = [*_roof_axes(at), *(_roof_line(at, shown, size) for size in shown.roofs), *_spots(at, spots)]
    drawing = element(
        "svg", *shapes, viewbox="0 0 720 374", class_="drawing roofline", role="img", aria_label=shown.title
    )
    note = [element("p", sentence(shown.note), class_="note")] if shown.note else []
    return join([_scrolled(drawing, "roofline"), *note])


def _roof_axes(at: _Roof) -> list[Markup]:
    middle = (at.left + at.right) / 2
    shapes = [
        element("text", "operations a byte", x=middle, y=at.bottom + 36, class_="label", text_anchor="middle"),
        element("text", "G operations/s", x=4, y=at.top - 3, class_="label"),
    ]
    for tick in log_ticks(*at.x_ends):
        shapes += [
            element("path", d=f"M{at.x(tick):.1f} {at.top}V{at.bottom}", class_="grid"),
            element("text", short(tick), x=at.x(tick), y=at.bottom + 18, class_="tick", text_anchor="middle"),
        ]
    for tick in log_ticks(*at.y_ends):
        shapes += [
            element("path", d=f"M{at.left} {at.y(tick):.1f}H{at.right}", class_="grid"),
            element("text", short(tick / 1e9), x=at.left - 6, y=at.y(tick) + 4, class_="tick", text_anchor="end"),
        ]
    return shapes


def _roof_line(at: _Roof, shown: Roofline, size: str) -> Markup:
    """Up at the bandwidth of a set, then along the peak."""
    bandwidth = shown.roofs[size]
    start = max(10 ** at.x_ends[0], 10 ** at.y_ends[0] / bandwidth)
    corner = f"L{at.x(shown.peak_per_s / bandwidth):.1f} {at.y(shown.peak_per_s):.1f}"
    words = element("title", f"reading {size}: {significant(bandwidth / 1e9)} GB/s")
    return element(
        "path", words, d=f"M{at.x(start):.1f} {at.y(start * bandwidth):.1f}{corner}H{at.right}", class_="roof"
    )


def _spots(at: _Roof, spots: Sequence[Spot]) -> list[Markup]:
    """The parts with their names beside them; a line joins a name that had to move.

    Of parts at one place the first is a dot and the others are larger discs below it, so that each is seen where it is.
    """
    ordered = sorted(spots, key=lambda spot: -spot.per_s)
    places = [(at.x(spot.intensity), at.y(spot.per_s)) for spot in ordered]
    below = [
        sum(hypot(x - left, y - top) < _DOT for left, top in places[:place]) for place, (x, y) in enumerate(places)
    ]
    taken = [_Box(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in places]
    shapes: list[tuple[int, Markup]] = []
    for spot, (x, y), discs in zip(ordered, places, below, strict=True):
        most = max(n for n, (left, top) in zip(below, places, strict=True) if hypot(x - left, y - top) < 2 * _DOT)
        left, label, anchor = _label(at, taken, x, y, _DOT + _RING * most + 4, _LETTER * len(spot.name))
        hint = _hint(spot.name, spot.words.split("; "))
        moved = element("path", d=f"M{x:.1f} {y:.1f}L{left:.1f} {label:.1f}", class_="leader")
        drawn = element(
            "g",
            element("title", hint),
            *([moved] if label != y else []),
            element("circle", cx=x, cy=y, r=_DOT + _RING * discs, class_=shade(spot.name.split(", ")[-1])),
            element("text", spot.name, x=left, y=label + 4, text_anchor=anchor),
            data_part=spot.name,
            data_hint=hint,
        )
        shapes.append((discs, drawn))
    return [drawn for _, drawn in sorted(shapes, key=lambda shape: -shape[0])]


class _Box(NamedTuple):
    """Where something is drawn."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        """Whether both cover a place."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def _label(
    at: _Roof, taken: list[_Box], x: float, y: float, gap: float, wide: float
) -> tuple[float, float, Literal["start", "end"]]:
    """The nearest free place for a name, which is taken by it: its end, its height, and which end that is."""
    for rows in sorted(range(-12, 13), key=lambda rows: (abs(rows), rows)):
        middle = y - rows * _LABEL_HIGH
        half = _LABEL_HIGH / 2
        for box, end in (
            (_Box(x + gap, middle - half, x + gap + wide, middle + half), "start"),
            (_Box(x - gap - wide, middle - half, x - gap, middle + half), "end"),
        ):
            inside = at.left < box.left and box.right < at.right + 20 and at.top < box.top and box.bottom < at.bottom
            if inside and not any(box.meets(other) for other in taken):
                taken.append(box)
                return (box.left, middle, "start") if end == "start" else (box.right, middle, "end")
    return x + gap, y, "start"


def _decades(values: Sequence[float], margin: float) -> tuple[float, float]:
    """The ends of a logarithmic axis, as powers of ten, with a margin around the values."""
    return log10(min(values)) - margin, log10(max(values)) + margin
