"""The findings of `cache` as tables, files, pictures and a headline.

In the pictures dots were measured, lines are theory, dotted lines are fits; points that a fit has not seen are
hollow. Both axes are logarithmic, so that a power is a straight line.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from textwrap import fill
from typing import TYPE_CHECKING

from perstep._json import Json
from perstep._words import short
from perstep.experiments.cache.findings import CacheFindings
from perstep.experiments.cache.fits import WITH, WITHOUT, Fit, Point, times_of
from perstep.experiments.cache.samples import Sample, Workload
from perstep.experiments.columns import qualifying_notes
from perstep.experiments.conditions import Model, typed
from perstep.report import Column, Table, to_csv
from perstep.report.format import interval, percent, significant
from perstep.report.page import Content
from perstep.report.panels import Kind, Panel, Series
from perstep.report.plot import draw_png
from perstep.report.table import in_files, interval_columns, to_records
from perstep.report.words import render
from perstep.runs import Manifest, encode_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DARK, LIGHT, WARM = "#1f3b5c", "#5d93b8", "#a8611a"
TITLE_WIDTH = 88  # characters of a line


_S: Column[Point] = Column("S", lambda p: p.S, "{:,}".format, "S")


def _bytes_column(header: str, name: str) -> Column[Point]:
    return Column(header, attrgetter(name), "{:,}".format, name, "bytes")


MEMORY: tuple[Column[Point], ...] = (
    _bytes_column("used", "cache_bytes"),
    _bytes_column("allocated", "cache_bytes_allocated"),
    _bytes_column("used, theory", "theory_bytes"),
    _bytes_column("allocated, theory", "theory_bytes_allocated"),
    _bytes_column("resident", "rss_growth_bytes"),
    _bytes_column("whole pages of the used", "rss_page_bound_bytes"),
)


def _step_columns(arm: str) -> list[Column[Point]]:
    """A step with a cache, or without: measured, its interval, and theory."""
    name, low, high = f"{'un' * (arm == WITHOUT)}cached", f"{arm}_cache_low_ms", f"{arm}_cache_high_ms"
    measured, theory = f"per_token_ms_{arm}_cache", f"theory_ms_{arm}_cache"
    return [
        Column(name, attrgetter(measured), significant, measured, "ms"),
        *interval_columns(attrgetter(low, high), ("ms", 1.0), names=(low, high)),
        *in_files(f"{arm}_cache_repetitions"),
        Column(f"{name}, theory", attrgetter(theory), significant, theory, "ms"),
    ]


LATENCY: tuple[Column[Point], ...] = (*_step_columns(WITH), *_step_columns(WITHOUT))


def _known(points: Sequence[Point], name: str) -> tuple[list[int], list[Json]]:
    """The contexts at which something is known, and what."""
    pairs = [(p.S, value) for p in points if (value := getattr(p, name)) is not None]
    return [S for S, _ in pairs], [value for _, value in pairs]


def memory_png(manifest: Manifest, findings: CacheFindings) -> bytes:
    """Allocated, used and resident bytes against the context; the title says the finding."""
    points, error = findings.points, findings.memory_max_relative_error_to_theory
    growth = (
        "grows linearly"
        if error is None
        else "is what shapes say, to the byte"
        if error == 0
        else f"is within {percent(error, 2)} of theory"
    )
    w = typed(manifest, Workload)
    title = f"{name_of(manifest)}, {w.cache} cache: what it uses {growth}"
    preallocated = w.capacity is not None

    def draw(figure: "Figure") -> None:
        ax = figure.subplots()
        x, allocated = _known(points, "cache_bytes_allocated")
        used, resident = [p.cache_bytes for p in points], _known(points, "rss_growth_bytes")
        if preallocated:
            ax.plot(x, allocated, color=WARM, linewidth=2, label="allocated: buffers, whatever they hold")
        for name, style, words in (
            ("theory_bytes", ("-", DARK, 1.6), "used, theory: 2·L·H_kv·d_h·S·B·bytes"),
            ("cache_bytes", ("o", DARK, 1.5), "used, from the live buffers"),
            ("rss_page_bound_bytes", (":", LIGHT, 2.0), "used, rounded up to whole pages"),
            ("rss_growth_bytes", ("s", LIGHT, 1.5), "resident (RSS), fresh process"),
        ):
            if _known(points, name)[0]:
                shape, colour, width = style
                ax.plot(*_known(points, name), shape, color=colour, linewidth=width, markersize=6, label=words)
        if preallocated:
            ax.annotate(
                "pre-allocation hides the growth:\nthe buffers are as large at the first token as at the last",
                (x[0], allocated[0]),
                xytext=(6, 10),
                textcoords="offset points",
                fontsize=9,
            )
        _log_axes(ax, x, "bytes of the cache")
        ax.yaxis.set_major_formatter(lambda value, _: _bytes(value))
        ax.set_ylim(min(used) / 1.6, 3 * max([*allocated, *resident[1]]))
        ax.set_title(fill(title, TITLE_WIDTH), loc="left", fontsize=10.5)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)

    return draw_png(8, 5.4, draw)


def latency_png(manifest: Manifest, findings: CacheFindings, regimes: Sequence[tuple[float, str]]) -> bytes:
    """One decode step against the context, with and without a cache; the title says the finding.

    Args:
        manifest: of the run.
        findings: the points and the fits.
        regimes: where a curve changes its power, in rising order, and what changes there.
    """
    S, ms = times_of(findings.points, WITH)
    grown = significant(ms[-1] / ms[0])
    title = f"{name_of(manifest)}: with a cache the step grows {grown}× from S = {S[0]:,} to {S[-1]:,}"
    alone, alone_ms = times_of(findings.points, WITHOUT)
    if alone:
        longer = significant(alone_ms[-1] / dict(zip(S, ms, strict=True))[alone[-1]])
        title += f"; without one it is {longer}× as long at {alone[-1]:,}"

    def draw(figure: "Figure") -> None:
        ax = figure.subplots()
        _draw_curve(ax, findings.points, WITH, findings.with_cache)
        _draw_curve(ax, findings.points, WITHOUT, claimed_without(findings))
        _log_axes(ax, sorted({*S, *alone}), "ms for one decode step")
        ax.yaxis.set_major_formatter(lambda value, _: short(value))
        low, high = ax.get_ylim()
        ax.set_ylim(low / 1.3, high * (1.3 + len(regimes)))
        said = [*regimes]
        if findings.crossover_S is not None:
            said.append((findings.crossover_S, f"crossover at S = {significant(findings.crossover_S)}"))
        for line, (at, words) in enumerate(said):
            _say(ax, at, words, line)
        ax.set_title(fill(title, TITLE_WIDTH), loc="left", fontsize=10.5)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)

    return draw_png(8, 6, draw)


def _draw_curve(ax: "Axes", points: Sequence[Point], arm: str, fit: Fit) -> None:
    """What was measured, hollow where the fit has not seen it, the fit, and theory where it has all points."""
    label, colour, marker = ("with a cache", DARK, "o") if arm == WITH else ("without", WARM, "s")
    pairs = list(zip(*times_of(points, arm), strict=True))
    for point in points:
        ends = getattr(point, f"{arm}_cache_low_ms"), getattr(point, f"{arm}_cache_high_ms")
        if None not in ends:
            ax.plot([point.S, point.S], ends, color=colour, linewidth=1.4)
    for is_held_out, words in ((False, "measured"), (True, "measured, held out of the fit")):
        shown = [pair for pair in pairs if bool(fit.fitted_S and pair[0] not in fit.fitted_S) == is_held_out]
        if shown:
            (dots,) = ax.plot(*zip(*shown, strict=True), marker, color=colour, markersize=7, label=f"{label}, {words}")
            if is_held_out:
                dots.set(markerfacecolor="white", markeredgewidth=1.6)
    S = [context for context, _ in pairs]
    if fit.predicted_ms:
        fitted = [fit.predicted_ms[str(x)] for x in S]
        ax.plot(S, fitted, ":", color=colour, linewidth=2, label=f"{label}, fit {fit.form}")
    at, theory = _known([p for p in points if p.S in S], f"theory_ms_{arm}_cache")
    if at and at == S:
        words = f"{label}, theory from measured ceilings, no fit"
        ax.plot(at, theory, color=colour, linewidth=1.2, label=words)


def _log_axes(ax: "Axes", contexts: Sequence[int], unit: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ticks = list(contexts) if len(contexts) <= 12 else list(contexts[:: -(-len(contexts) // 12)])
    ax.set_xticks(ticks, [f"{S:,}" for S in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("S, positions held in the cache before the step")
    ax.set_ylabel(unit)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    ax.grid(visible=True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["right", "top"]].set_visible(False)


def _say(ax: "Axes", at: float, words: str, line: int) -> None:
    ax.axvline(at, color="#777777", linewidth=0.9, linestyle="--")
    left, right = ax.get_xlim()
    middle = (left * right) ** 0.5
    ax.annotate(
        words,
        (at, ax.get_ylim()[1]),
        xytext=(-5 if at > middle else 5, -4 - 26 * line),
        textcoords="offset points",
        fontsize=8.5,
        va="top",
        ha="right" if at > middle else "left",
        color="#333333",
    )


def _bytes(size: float) -> str:
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{short(size / one)} {unit}"
    return f"{short(size)} B"


PREDICTS = 0.10
"""A claimed fit that misses a held-out point by more is said not to predict."""


def tables(manifest: Manifest, findings: CacheFindings) -> list[Table]:
    """Latency, memory, and the fits with their errors at held-out points."""
    return [_latency(manifest, findings), _memory(manifest, findings), _fits(findings)]


def csv(findings: CacheFindings) -> str:
    """A row a context: every field of a point."""
    return to_csv([_S, *MEMORY, *LATENCY], findings.points)


def files(manifest: Manifest, findings: CacheFindings) -> Mapping[str, bytes]:
    """Both curves as JSON, CSV and picture, and `README.md`."""
    memory, latency, points = [_S, *MEMORY], [_S, MEMORY[0], *LATENCY], findings.points
    w = typed(manifest, Workload)
    facts = {"model": name_of(manifest), "cache": w.cache, "batch": w.batch}
    regimes = changes_of_regime(findings)
    return {
        "memory.json": encode_json({**facts, "points": to_records(memory, points)}),
        "latency.json": encode_json(
            {
                **facts,
                "points": to_records(latency, points),
                "fits": {
                    "with_cache": findings.with_cache,
                    "without_cache": findings.without_cache,
                    "without_cache_by_theory": findings.without_cache_by_theory,
                },
                "gamma_S2": findings.square,
                "crossover": findings.crossover,
                "left_out": findings.left_out,
            }
        ),
        "memory.csv": to_csv(memory, points).encode(),
        "latency.csv": to_csv(latency, points).encode(),
        "memory.png": memory_png(manifest, findings),
        "latency.png": latency_png(manifest, findings, regimes),
        "README.md": render(
            __package__,
            manifest=manifest,
            findings=findings,
            tables=tables(manifest, findings),
            regimes=[words for _, words in regimes],
            name=name_of(manifest),
            theory_notes=theory_notes(findings),
        ),
    }


def summary(findings: CacheFindings) -> dict[str, Json]:
    """The headline, and the four figures that a reader of cost curves looks for, of the fits that are claimed."""
    without = claimed_without(findings)
    S, ms = times_of(findings.points, WITH)
    grown = f"{significant(ms[-1] / ms[0])} times as long at S = {S[-1]} as at {S[0]}"
    return {
        "headline": f"with a cache a step takes {grown}; crossover: {findings.crossover}",
        "memory_max_relative_error_to_theory": findings.memory_max_relative_error_to_theory,
        "latency_with_cache_R2": findings.with_cache.r_squared,
        "latency_without_cache_R2": without.r_squared,
        "latency_without_cache_form": without.form,
        "crossover_S": findings.crossover_S,
    }


def claimed_without(findings: CacheFindings) -> Fit:
    """The fit without a cache that is claimed: theory's form where there is one, else the polynomial."""
    return findings.without_cache_by_theory or findings.without_cache


def name_of(manifest: Manifest) -> str:
    """The model's name, with the layers that were kept of it."""
    return typed(manifest, Model).name


def theory_notes(findings: CacheFindings) -> list[str]:
    """Why theory has no curve, where that is the fault of the ceilings; one sentence where both arms share it."""
    reasons = findings.theory_withdrawn
    if len(set(reasons.values())) == 1 and len(reasons) > 1:
        return [f"Theory has no curve: {next(iter(reasons.values()))}."]
    return [f"Theory has no curve {arm} a cache: {reason}." for arm, reason in reasons.items()]


def misses(fit: Fit) -> str:
    """The held-out contexts that a fit misses by more than `PREDICTS`, as a list; empty where it predicts all."""
    return ", ".join(S for S, error in fit.held_out_errors.items() if abs(error) > PREDICTS)


def changes_of_regime(findings: CacheFindings) -> list[tuple[float, str]]:
    """Where a step without a cache changes its power within the measured range, and what changes there.

    By theory, where it has a curve. Otherwise by the polynomial: below b/c its linear term (every weight, for every
    position) is larger than the quadratic one (every position with every other); below a/b the constant is.
    """
    S, _ = times_of(findings.points, WITHOUT)
    if not S:
        return []
    if findings.without_cache_by_theory is not None:
        changes = [
            (findings.arithmetic_from_S, "by theory arithmetic takes\nmost of a step from S = {}"),
            (findings.attention_from_S, "by theory attention takes\nmost of a step from S = {}"),
        ]
    elif len(findings.without_cache.coefficients_ms) == 3:
        a, b, c = findings.without_cache.coefficients_ms
        changes = [
            (a / b if min(a, b) > 0 else None, "by the fit b·S overtakes\nthe constant at S = {}"),
            (b / c if min(b, c) > 0 else None, "by the fit c·S² overtakes\nb·S at S = {}"),
        ]
    else:
        return []
    return [
        (at, f"without a cache: {words.format(significant(at, 2))}")
        for at, words in changes
        if at is not None and S[0] < at < S[-1]
    ]


def _latency(manifest: Manifest, findings: CacheFindings) -> Table:
    w = typed(manifest, Workload)
    notes = [f"Crossover: {findings.crossover}.", *(f"Left out: {reason}." for reason in findings.left_out)]
    notes += theory_notes(findings)
    notes += qualifying_notes(findings)
    return Table(
        title=f"one decode step: {name_of(manifest)}, {w.cache} cache, batch {w.batch}",
        columns=[_S, *LATENCY, Column("uncached/cached", _ratio, lambda ratio: f"{significant(ratio)}×")],
        records=findings.points,
        notes=notes,
    )


def _ratio(p: Point) -> float | None:
    alone, cached = p.per_token_ms_without_cache, p.per_token_ms_with_cache
    return None if alone is None or not cached else alone / cached


def _memory(manifest: Manifest, findings: CacheFindings) -> Table:
    error = findings.memory_max_relative_error_to_theory
    return Table(
        title=f"memory of the cache: {name_of(manifest)}, {typed(manifest, Workload).cache} cache",
        columns=[_S, *MEMORY],
        records=findings.points,
        notes=[
            "No formula for this architecture." if error is None else f"Largest error to theory: {percent(error, 2)}."
        ],
    )


def _fits(findings: CacheFindings) -> Table:
    fits = [("with a cache", findings.with_cache), ("without", findings.without_cache)]
    if findings.without_cache_by_theory is not None:
        fits.insert(1, ("without", findings.without_cache_by_theory))
    notes = [f"No fit {name}, {fit.form}: {fit.reason}." for name, fit in fits if fit.reason]
    notes += [
        f"{fit.form} ({name}) misses the held-out S = {missed} by more than {percent(PREDICTS, 0)}: "
        "do not predict beyond the measured contexts with it."
        for name, fit in fits
        if fit.claimed and (missed := misses(fit))
    ]
    if findings.without_cache_by_theory is not None:
        notes.append(
            "T(S) is theory's own curve; nothing in it is fitted. κ is the measured growth over that of T, and a is"
            " added to T."
        )
    columns: list[Column[tuple[str, Fit]]] = [
        Column("steps", lambda row: f"{row[0]}, {'claimed' if row[1].claimed else 'beside it'}", words=True),
        Column("form", lambda row: row[1].form, words=True),
        Column("coefficients", lambda row: None if row[1].reason else _coefficients(row[1]), words=True),
        Column("largest error between", lambda row: row[1].interleaved_error, percent),
        Column("one octave beyond", lambda row: row[1].beyond_error, percent),
        Column("R²", lambda row: row[1].r_squared, "{:.4f}".format),
    ]
    return Table(
        title="fits, judged on contexts they have not seen (coefficients in ms; κ is a number)",
        columns=columns,
        records=fits,
        notes=notes,
    )


def _coefficients(fit: Fit) -> str:
    names = [letter for letter in fit.form if letter in "αβabcκ"]
    return ", ".join(f"{name} = {significant(c)}" for name, c in zip(names, fit.coefficients_ms, strict=True))


def content(manifest: Manifest, findings: CacheFindings, _samples: Sequence[Sample]) -> Content:
    """The page's: a step and its bytes against the context, measured, fitted and by theory."""
    S, ms = times_of(findings.points, WITH)
    first, last = ({p.S: p for p in findings.points}[at] for at in (S[0], S[-1]))
    ends = [interval(p.with_cache_low_ms, p.with_cache_high_ms) for p in (first, last)]
    finding = (
        f"{name_of(manifest)}: with a cache a step takes {significant(ms[0])} ms {ends[0]} at S = {S[0]:,} and"
        f" {significant(ms[-1])} ms {ends[1]} at {S[-1]:,}; crossover: {findings.crossover}"
    )
    series = [
        *_curve_series(findings.points, WITH, findings.with_cache, 0),
        *_curve_series(findings.points, WITHOUT, claimed_without(findings), 1),
    ]
    label = "S, positions held in the cache before the step"
    latency = Panel("One decode step", label, "ms", series, log_x=True, log_y=True)
    curves = _memory_series(findings.points)
    memory = Panel("Bytes of the cache", label, "MB", curves, log_x=True, log_y=True)
    return Content(finding, [latency, memory])


def _curve_series(points: Sequence[Point], arm: str, fit: Fit, shade: int) -> list[Series]:
    """What was measured, the fit, and theory where it has all points."""
    S, ms = times_of(points, arm)
    if not S:
        return []
    label, at = "with a cache" if arm == WITH else "without", {p.S: p for p in points}
    low, high = ([getattr(at[x], f"{arm}_cache_{end}_ms") for x in S] for end in ("low", "high"))
    xs = [float(x) for x in S]
    plot = [Series(f"{label}, measured", xs, ms, low=low, high=high, shade=shade)]
    if fit.predicted_ms:
        fitted = [fit.predicted_ms[str(x)] for x in S]
        plot.append(Series(f"{label}, fit {fit.form}", xs, fitted, kind="dashed", shade=shade))
    theory_S, theory = _known([at[x] for x in S], f"theory_ms_{arm}_cache")
    if theory_S == S:
        plot.append(Series(f"{label}, theory from measured ceilings, no fit", xs, theory, kind="line", shade=shade + 2))
    return plot


def _memory_series(points: Sequence[Point]) -> list[Series]:
    shown: tuple[tuple[str, str, Kind], ...] = (
        ("cache_bytes", "used, from the live buffers", "points"),
        ("theory_bytes", "used, theory", "line"),
        ("cache_bytes_allocated", "allocated", "dashed"),
        ("rss_growth_bytes", "resident (RSS), fresh process", "points"),
    )
    return [
        Series(words, [float(S) for S in contexts], [size / 1e6 for size in sizes], kind=kind, shade=shade)
        for shade, (name, words, kind) in enumerate(shown)
        for contexts, sizes in [_known(points, name)]
        if contexts
    ]
