"""The findings of `mask` as tables, CSV, pictures and words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from textwrap import fill
from typing import TYPE_CHECKING

import msgspec

from perstep._json import Json
from perstep._words import short
from perstep.experiments.columns import qualifying_notes
from perstep.experiments.conditions import Model, typed
from perstep.experiments.mask.building import Build
from perstep.experiments.mask.device import ArmOnDevice
from perstep.experiments.mask.device_bounds import MASK_PARTS, MaskBound, bound_note
from perstep.experiments.mask.findings import Arm, CellFinding, Curve, Fill, MaskFindings
from perstep.experiments.mask.roofline import RooflinePoint
from perstep.experiments.mask.samples import Conditions, LeftOut, Sample, Workload
from perstep.measure import RESIDUAL
from perstep.report import Column, Table, to_csv
from perstep.report.format import duration, interval, percent, plural, significant, time_unit
from perstep.report.ledger import bound_columns
from perstep.report.page import Bar, Bars, Content, Drawn, LedgerView, Roofline, Spot
from perstep.report.panels import Panel, Series
from perstep.report.plot import RESIDUAL_COLOUR, draw_png, part_colour
from perstep.report.table import ABSENT, in_files, places, time_column, within
from perstep.report.words import render
from perstep.runs import Manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def tables(manifest: Manifest, findings: MaskFindings) -> list[Table]:
    """Steps by cell; then what is built before them, fills against size, the roofline, what was left out."""
    result = [_cell_table(cell, manifest) for cell in findings.cells]
    result[-1].notes.extend(findings.notes)
    result[-1].notes.extend(qualifying_notes(findings))
    result.append(_build_table(findings.builds))
    if findings.curves:
        result.append(_curve_table(findings.curves))
    if findings.roofline:
        result.append(_roofline_table(findings))
    if findings.left_out:
        result.append(_left_out_table(findings.left_out))
    return result


def subject(cell: CellFinding) -> str:
    """A cell in words."""
    words = plural(cell.vocab_size, "token") if cell.vocab.isdigit() else f"its own {plural(cell.vocab_size, 'token')}"
    complexity = f", {cell.complexity} x the schema" if cell.complexity > 1 else ""
    return f"{words}, batch {cell.batch}{complexity}"


def _cell_table(cell: CellFinding, manifest: Manifest) -> Table:
    workload, there = typed(manifest, Workload), cell.free.on_device is not msgspec.UNSET
    name = f"{typed(manifest, Model).name} on {workload.device}" if there else typed(manifest, Model).name
    return Table(
        title=f"{name}, {subject(cell)}: a decode step under the mask of {workload.schema}",
        columns=[*_ARM, *_STEP, *(_ON_DEVICE if there else [])],
        records=cell.arms,
        notes=[_cell_note(cell, manifest), *(_device_notes(cell, manifest) if there else [])],
        rule_before=frozenset({1}),
    )


def _device_notes(cell: CellFinding, manifest: Manifest) -> list[str]:
    """How the device was looked at, and what the bounds beside it are made of."""
    ceilings = typed(manifest, Conditions).device_ceilings
    judged = ceilings is not None and any(_bound_of(arm) for arm in cell.arms)
    return [
        ON_DEVICE_NOTE.format(typed(manifest, Workload).device),
        *([bound_note(ceilings)] if judged and ceilings is not None else []),
    ]


def _of_device(arm: Arm, value: Callable[[ArmOnDevice], float]) -> float | str:
    return ABSENT if isinstance(arm.on_device, msgspec.UnsetType) else value(arm.on_device)


def _mask_busy_ns(there: ArmOnDevice) -> float:
    return sum(there.parts.get(part, 0.0) for part in MASK_PARTS)


def _bound_of(arm: Arm) -> MaskBound | None:
    return None if isinstance(arm.device_bound, msgspec.UnsetType) else arm.device_bound


def _bound_ns(arm: Arm) -> float | None:
    bound = _bound_of(arm)
    return None if bound is None else bound.bound_ns


def _binds(arm: Arm) -> str:
    bound = _bound_of(arm)
    return ABSENT if bound is None else bound.binds


def _ratio_ends(arm: Arm) -> str:
    """The interval of a ratio; a ratio without one is not shown."""
    if arm.ratio is None:
        return ABSENT
    return NOT_RESOLVED if arm.ci_low is None else interval(*arm.ratio_ends)


def _part_column(part: str) -> Column[Arm]:
    def ns(arm: Arm) -> float | str:
        return arm.part_ns(part) if part in arm.ledger.parts else ABSENT

    return time_column(part.removeprefix("mask."), ns, _MICROSECONDS)


NOT_RESOLVED = "not resolved"
"""What stands in place of a ratio that has no interval."""
_MICROSECONDS, _MILLISECONDS = ("µs", 1e3), ("ms", 1e6)
_ARM: list[Column[Arm]] = [
    Column("engine", lambda arm: arm.engine, name="engine", words=True),
    *in_files("ratio"),
]
_STEP: list[Column[Arm]] = [
    Column("", lambda arm: arm.per_step_ms, significant, unit="ms/step"),
    Column("ratio", lambda arm: None if arm.ci_low is None else arm.ratio, significant),
    Column("95 % interval", _ratio_ends),
    *map(_part_column, MASK_PARTS),
    Column("fill, repeated", lambda arm: arm.fill.hot_us if arm.fill else ABSENT, significant, unit="µs"),
    Column("mask", lambda arm: arm.mask_share if arm.fill else ABSENT, percent),
    Column("", lambda arm: arm.tokens_per_s, significant, unit="tokens/s"),
]


_MASK_BOUND: list[Column[Arm]] = bound_columns(
    lambda arm: 0.0 if isinstance(arm.on_device, msgspec.UnsetType) else _mask_busy_ns(arm.on_device),
    _bound_ns,
    _binds,
    _MICROSECONDS,
)
"""Of the mask's kernels, as a ledger has them of each part's."""
_ON_DEVICE: list[Column[Arm]] = [
    time_column("device busy", lambda arm: _of_device(arm, lambda there: there.busy_ns), _MILLISECONDS, per="/step"),
    time_column("of the mask", lambda arm: _of_device(arm, _mask_busy_ns) if arm.fill else ABSENT, _MICROSECONDS),
    Column("launches", lambda arm: _of_device(arm, lambda there: there.launches), significant, unit="/step"),
    *(replace(column, name="", optional=True) for column in _MASK_BOUND),
]
ON_DEVICE_NOTE = (
    "Times are the host's; a step ends when the tokens of {} are read. Fill and apply of a table that lies there are "
    "launches. Device busy is the time in which kernels run, in profiled steps before the rounds."
)


def ratio_words(arm: Arm) -> str:
    """How a step compares with the one without a mask: `1.26 times as long [1.20, 1.31]`."""
    return _times(arm.ratio, *arm.ratio_ends, "as long")


def speed_words(arm: Arm) -> str:
    """What is left of the tokens a second: `79.4 % of that [76.3 %, 83.3 %]`, with a word where it is under half."""
    low, high = arm.ratio_ends
    if arm.ratio is None or low is None or high is None:
        return NOT_RESOLVED
    ends = f"[{percent(1 / high)}, {percent(1 / low)}]"
    half = ", **less than half**" if low > 2 else ""
    return f"{percent(1 / arm.ratio)} of that {ends}{half}"


def share_words(arm: Arm) -> str:
    """The mask's share of the step with its interval."""
    if arm.mask_share_low is None or arm.mask_share_high is None:
        return NOT_RESOLVED
    return f"{percent(arm.mask_share)} [{percent(arm.mask_share_low)}, {percent(arm.mask_share_high)}]"


def in_place_words(fill: Fill) -> str:
    """A fill between forwards against the same one hot: `7.4 times as long [7.1, 7.8]`."""
    return _times(fill.in_place_over_hot, fill.over_hot_low, fill.over_hot_high, "as long")


def _times(ratio: float | None, low: float | None, high: float | None, what: str) -> str:
    if ratio is None or low is None or high is None:
        return NOT_RESOLVED
    words = f"{significant(ratio)} times {what} {interval(low, high)}"
    return f"{words}, {NOT_RESOLVED}" if low <= 1 <= high else words


def _cell_note(cell: CellFinding, manifest: Manifest) -> str:
    w = typed(manifest, Workload)
    allowed = "" if cell.allowed_mean is None else f", {significant(cell.allowed_mean)} tokens allowed on average"
    states = "no automaton" if cell.states is None else plural(cell.states, "state")
    return (
        f"{plural(w.forwards, 'decode forward')} a pass of valid texts, whitespace {w.whitespace}, "
        f"{states}{allowed} · {plural(cell.free.ledger.rounds, 'round')}{_overhead(cell)}"
    )


def _overhead(cell: CellFinding) -> str:
    """How much marks slowed the arms down at most, by their intervals; nothing where one is missing."""
    highs = [arm.ledger.overhead_ci_high for arm in cell.arms]
    present = [high for high in highs if high is not None]
    return f" · instrumentation overhead at most {percent(max(present))}" if len(present) == len(highs) else ""


_BUILD: list[Column[Build]] = [
    Column("engine", lambda build: build.engine, words=True),
    Column("vocabulary", lambda build: build.vocab, words=True),
    Column("complexity", lambda build: build.complexity),
    time_column("once a vocabulary", lambda build: build.setup_ns, _MILLISECONDS),
    time_column("once a schema", lambda build: build.build_ns, _MILLISECONDS),
    time_column("to the first mask", lambda build: build.first_mask_ns, _MILLISECONDS),
    time_column("from the disk cache", lambda build: build.from_disk_ns, _MILLISECONDS),
]


def _build_table(builds: Sequence[Build]) -> Table:
    note = "To the first mask: from the schema, after what is made once a vocabulary; nothing is cached."
    chosen = dict.fromkeys(f"{build.engine}: {build.chosen}." for build in builds if build.chosen)
    return Table("before the first step", _BUILD, builds, [note, *chosen])


_CURVE: list[Column[Curve]] = [
    Column("engine", lambda curve: curve.engine, words=True),
    Column("complexity", lambda curve: curve.complexity),
    Column("slope", lambda curve: curve.slope_ns_per_token, significant, unit="ns/token"),
    Column("exponent", lambda curve: curve.exponent, lambda exponent: significant(exponent, 2)),
    Column("error between", lambda curve: curve.interleaved_error, percent),
    Column("error beyond", lambda curve: curve.beyond_error, percent),
    Column("predicted at 50,000", lambda curve: curve.predicted_us, significant, unit="µs"),
    Column("measured", lambda curve: curve.measured_us, significant, unit="µs"),
    Column("off by", lambda curve: curve.prediction_error, percent),
]


def _curve_table(curves: Sequence[Curve]) -> Table:
    return Table(
        title="one fill against the vocabulary's size, repeated with nothing between",
        columns=_CURVE,
        records=curves,
        notes=[
            "The error is the largest at sizes that the fit did not see. Exponent 1 is linear, 0 flat.",
            "The prediction was made from sizes up to 32,768, before anything larger was measured.",
        ],
    )


def _bandwidth(spot: RooflinePoint) -> str | None:
    return None if spot.share_of_bandwidth is None else f"{percent(spot.share_of_bandwidth)} at {spot.level}"


_SPOT: list[Column[RooflinePoint]] = [
    Column("vocabulary", lambda spot: spot.cell.split("/")[0], words=True),
    Column("engine", lambda spot: spot.engine, words=True),
    Column("part", lambda spot: spot.part, words=True),
    Column("time", lambda spot: spot.ns, duration),
    Column("", lambda spot: spot.operations_per_s / 1e9, significant, unit="Gop/s"),
    Column("", lambda spot: spot.bytes_per_s / 1e9, significant, unit="GB/s"),
    Column("", lambda spot: spot.intensity, lambda intensity: significant(intensity, 2), unit="op/byte"),
    Column("of compute", lambda spot: spot.share_of_compute, percent),
    Column("of bandwidth", _bandwidth, words=True),
    Column("bound by", lambda spot: "not judged" if spot.withdrawn else spot.bound_by, words=True),
]


def _roofline_table(findings: MaskFindings) -> Table:
    return Table(
        title="on this machine's roofline",
        columns=_SPOT,
        records=findings.roofline,
        notes=[
            *_ceiling_notes(findings),
            "Counted are an operation and 3 bytes for a look-up of the walk, a comparison and 8 bytes for a logit, "  # noqa: ISC004
            "2 V D operations and 4 V D bytes for the head.",
        ],
    )


def _ceiling_notes(findings: MaskFindings) -> list[str]:
    """The ceilings from their median to their best round, and why something is not judged by them."""
    reasons = dict.fromkeys(spot.withdrawn for spot in findings.roofline if spot.withdrawn)
    notes = [f"{reason[0].upper()}{reason[1:]}." for reason in reasons]
    if findings.ceilings is None or findings.ceilings.why_no_bounds():
        return notes
    typical, best = findings.ceilings.typical, findings.ceilings.best
    read = ", ".join(
        f"{short(size / 1e6, 3)} MB {significant(gb_s)} … {significant(best.read_gb_s[size])}"
        for size, gb_s in typical.read_gb_s.items()
    )
    products = f"{significant(typical.gemm_gflop_s)} … {significant(best.gemm_gflop_s)}"
    ends = "Ceilings of the same rounds, from the median to the best round; shares are of the best"
    return [f"{ends}: GB/s reading {read}; products {products} GFLOP/s.", *notes]


def _left_out_table(left_out: Sequence[LeftOut]) -> Table:
    columns: list[Column[LeftOut]] = [
        Column("engine", lambda entry: entry.engine, words=True),
        Column("vocabulary", lambda entry: entry.vocab, words=True),
        Column("batch", lambda entry: entry.batch),
        Column("complexity", lambda entry: entry.complexity),
        Column("why", lambda entry: entry.why, words=True),
    ]
    return Table("not measured", columns, left_out)


def csv(findings: MaskFindings) -> str:
    """A row a part of each arm of each cell, in nanoseconds a step: the numbers of `overhead.png`."""
    rows: list[tuple[CellFinding, Arm, str, float]] = []
    for cell in findings.cells:
        for arm in cell.arms:
            rows += [(cell, arm, name, part.share) for name, part in arm.ledger.parts.items()]
            rows.append((cell, arm, RESIDUAL, arm.ledger.residual_share))
    columns: list[Column[tuple[CellFinding, Arm, str, float]]] = [
        *within(in_files("vocab", "vocab_size", "batch", "complexity"), lambda row: row[0]),
        *within(_ARM, lambda row: row[1]),
        Column("part", lambda row: row[2], name="part", words=True),
        time_column("", lambda row: row[1].part_ns(row[2]), _MICROSECONDS, per="/step", name="ns_per_step"),
        Column("share", lambda row: row[3], percent, "share"),
    ]
    return to_csv(columns, rows)


def scaling_csv(curves: Sequence[Curve]) -> str:
    """A row a point of `scaling.png`."""
    rows = [
        (curve.engine, curve.complexity, *point)
        for curve in curves
        for point in zip(curve.sizes, curve.fill_us, curve.fitted, strict=True)
    ]
    return to_csv(places("engine", "complexity", "vocab_size", "fill_us", "fitted"), rows)


def files(manifest: Manifest, findings: MaskFindings) -> Mapping[str, bytes]:
    """`overhead.png` and, where sizes were measured, `scaling.png`, with their CSVs; `README.md`."""
    result = {
        "overhead.png": overhead_png(findings.cells, typed(manifest, Model).name),
        "overhead.csv": csv(findings).encode(),
    }
    if findings.curves:
        result["scaling.png"] = scaling_png(findings.curves, findings.cells)
        result["scaling.csv"] = scaling_csv(findings.curves).encode()
    result["README.md"] = readme(manifest, findings)
    return result


def readme(manifest: Manifest, findings: MaskFindings) -> bytes:
    """The four questions of a mask lab, answered in the run's own numbers."""
    first = findings.cells[0]
    return render(
        __package__,
        manifest=manifest,
        findings=findings,
        tables=tables(manifest, findings),
        subject=subject,
        first=first,
        engines={arm.engine for cell in findings.cells for arm in cell.arms},
        ratio_words=ratio_words,
        speed_words=speed_words,
        share_words=share_words,
        in_place_words=in_place_words,
        curves={(curve.engine, curve.complexity): curve for curve in findings.curves},
        walks=[spot for spot in findings.roofline if spot.part == "mask.fill"],
        others=[spot for spot in findings.roofline if spot.part != "mask.fill"],
    )


def summary(findings: MaskFindings) -> dict[str, Json]:
    """The headline for `perstep list`."""
    ends = interval(findings.ratio_low, findings.ratio_high)
    ratio = (
        NOT_RESOLVED
        if findings.ratio is None or findings.ratio_low is None
        else f"{significant(findings.ratio)} {ends} x a step without"
    )
    return {
        "headline": f"{findings.engine} mask on {plural(findings.vocab_size, 'token')}: {ratio}",
        "engine": findings.engine,
        "vocab_size": findings.vocab_size,
        "per_step_ms_no_mask": findings.per_step_ms_no_mask,
        "per_step_ms_with_mask": findings.per_step_ms_with_mask,
        "ratio": findings.ratio,
    }


_PARTS = ("forward", "lm_head", "mask.fill", "mask.apply", "mask.accept", "sample", "stop")
_COLUMNS = 2
_TITLE_WIDTH = 72  # characters over a panel
_CLIPPED_FROM = 3.0
"""A bar more than this many times as long as the others is cut off, with its length written on it."""


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
    others = dict.fromkeys(part for arm in cell.arms for part in arm.ledger.parts if part not in _PARTS)
    for part in (*_PARTS, *others, RESIDUAL):
        widths = [arm.part_ns(part) / size for arm in cell.arms]
        colour, edge = (RESIDUAL_COLOUR, "#222222") if part == RESIDUAL else (part_colour(part), "white")
        ax.barh(places, widths, left=left, color=colour, edgecolor=edge, linewidth=0.5, height=0.72, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, (arm, end) in enumerate(zip(cell.arms, left, strict=True)):
        words = significant(arm.per_step_ms * 1e6 / size) + ("" if arm.ratio is None else f"  {_cell_times(arm)}")
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


def _cell_times(arm: Arm) -> str:
    """The ratio to no mask with its interval: `×1.26 [1.20, 1.31]`."""
    if arm.ratio is None or arm.ci_low is None:
        return NOT_RESOLVED
    return f"×{significant(arm.ratio)} {interval(*arm.ratio_ends)}"


def _panel_title(cell: CellFinding) -> str:
    name = f"{cell.vocab}: " if not cell.vocab.isdigit() else ""
    complexity = f", {cell.complexity} x the schema" if cell.complexity > 1 else ""
    return f"{name}{plural(cell.vocab_size, 'token')}, batch {cell.batch}{complexity}"


def _finding(cells: Sequence[CellFinding], model: str) -> str:
    """What the pictures show, in the numbers of the first and the last cell."""

    def of(cell: CellFinding) -> str:
        arms = [arm for arm in cell.arms if arm.engine in _STYLES] or cell.arms[1:2]
        at = _panel_title(cell) if one_size else plural(cell.vocab_size, "token")
        return f"{', '.join(f'{arm.engine} {_cell_times(arm)}' for arm in arms)} at {at}"

    one_size = len(cells) > 1 and cells[0].vocab_size == cells[-1].vocab_size
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
    return "repeated with nothing between, a fill costs: " + ", ".join(words)


def content(manifest: Manifest, findings: MaskFindings, _samples: Sequence[Sample]) -> Content:
    """The page's: a step under each mask and without one, the parts of the first and last cell, fills, roofline."""
    figures: list[Drawn] = []
    for cell in findings.cells:
        unit, size = time_unit([arm.per_step_ms * 1e6 for arm in cell.arms])
        free_ns = cell.free.per_step_ms * 1e6
        bars = []
        for arm in cell.arms:
            low, high = (None if end is None else free_ns * end for end in arm.ratio_ends)
            words = duration(arm.per_step_ms * 1e6) + (f", {ratio_words(arm)}" if arm.ratio is not None else "")
            bars.append(Bar.scaled(arm.engine, (arm.per_step_ms * 1e6, low, high), 1 / size, words, free_ns / size))
        note = "The line is the step without a mask."
        figures.append(Bars(f"A decode step under each mask, {subject(cell)}", unit, bars, note=note))
    ends = {cell.key: cell for cell in (findings.cells[0], findings.cells[-1])}
    figures += [
        LedgerView(f"{arm.engine}, {subject(cell)}: what the step is made of", arm.ledger, about=manifest.boundaries)
        for cell in ends.values()
        for arm in cell.arms
    ]
    figures += _page_curves(findings)
    name = typed(manifest, Model).name
    return Content(f"{name}: {summary(findings)['headline']}", figures)


def _page_curves(findings: MaskFindings) -> list[Drawn]:
    """Fills against the size of the vocabulary, and the roofline, where there are any."""
    figures: list[Drawn] = []
    if findings.curves:
        series = []
        for shade, curve in enumerate(findings.curves):
            level = f", {curve.complexity} x the schema" if curve.complexity > 1 else ""
            sizes = [float(size) for size in curve.sizes]
            fit = [max(sum(t * size**power for power, t in enumerate(curve.terms)) / 1e3, 1e-4) for size in sizes]
            series.append(Series(f"{curve.engine}{level}", sizes, curve.fill_us, shade=shade))
            series.append(Series(f"{curve.engine}{level}, fit", sizes, fit, kind="line", shade=shade))
        title = "One fill, repeated with nothing between"
        figures.append(Panel(title, "tokens of the vocabulary", "µs a fill", series, log_x=True, log_y=True))
    judged = [spot for spot in findings.roofline if not spot.withdrawn]
    if findings.ceilings is not None and judged:
        read = findings.ceilings.best.read_gb_s
        figures.append(
            Roofline(
                title="On this machine's roofline",
                peak_per_s=findings.ceilings.best.gemm_gflop_s * 1e9,
                roofs={f"{short(size / 1e6, 3)} MB": 1e9 * read[size] for size in {min(read), max(read)}},
                spots=[
                    Spot(
                        f"{spot.engine}, {spot.part}",
                        spot.intensity,
                        spot.operations_per_s,
                        f"{spot.cell.split('/')[0]}; {duration(spot.ns)}; bound by {spot.bound_by}",
                    )
                    for spot in judged
                ],
                note="The lines are the best rounds of reading and of matrix products.",
            )
        )
    return figures
