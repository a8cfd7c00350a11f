"""The findings of `cache` as tables, files, pictures and a headline.

In the pictures dots were measured, lines are theory, dotted lines are fits; points that a fit has not seen are
hollow. Both axes are logarithmic, so that a power is a straight line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import msgspec

from perstep.experiments.cache.findings import CacheFindings
from perstep.experiments.cache.fits import WITH, WITHOUT, Fit, Point, times_of
from perstep.experiments.cache.samples import Workload
from perstep.experiments.columns import precision_notes
from perstep.experiments.conditions import Model, typed
from perstep.report import Table, to_csv
from perstep.report.format import interval, percent, significant
from perstep.report.plot import draw_png
from perstep.report.words import render
from perstep.runs import Manifest, encode_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DARK, LIGHT, WARM = "#1f3b5c", "#5d93b8", "#a8611a"
TITLE_WIDTH = 88  # characters of a line


@dataclass(frozen=True)
class MemoryCurves:
    """Bytes at each context; None where they were not measured or theory has none."""

    contexts: list[int]
    allocated: list[int]
    used: list[int]
    theory: list[int | None]
    resident: list[int | None]
    page_bound: list[int | None]


@dataclass(frozen=True)
class LatencyCurve:
    """One arm: measured milliseconds, a fit and theory at the same contexts.

    Attributes:
        label: what the arm is.
        contexts: where it was measured.
        measured_ms: there.
        ends_ms: the ends of its interval there, or None.
        fitted: contexts that the fit has seen; the others are hollow.
        fit_ms: of the fit, or nothing.
        theory_ms: prediction, or nothing.
        form: of the fit, in letters.
    """

    label: str
    contexts: list[int]
    measured_ms: list[float]
    ends_ms: list[tuple[float, float] | None]
    fitted: list[int]
    fit_ms: list[float]
    theory_ms: list[float]
    form: str


def memory_png(curves: MemoryCurves, *, title: str, preallocated: bool) -> bytes:
    """Allocated, used and resident bytes against the context.

    Args:
        curves: the figures.
        title: the finding.
        preallocated: the cache is allocated whole before it is filled.
    """

    def draw(figure: "Figure") -> None:
        ax = figure.subplots()
        x = curves.contexts
        if preallocated:
            ax.plot(x, curves.allocated, color=WARM, linewidth=2, label="allocated: buffers, whatever they hold")
        theory = [(S, size) for S, size in zip(x, curves.theory, strict=True) if size is not None]
        if theory:
            ax.plot(*zip(*theory, strict=True), color=DARK, linewidth=1.6, label="used, theory: 2·L·H_kv·d_h·S·B·bytes")
        ax.plot(x, curves.used, "o", color=DARK, markersize=6, label="used, from the live buffers")
        bound = [(S, size) for S, size in zip(x, curves.page_bound, strict=True) if size is not None]
        seen = [(S, size) for S, size in zip(x, curves.resident, strict=True) if size is not None]
        if bound:
            ax.plot(*zip(*bound, strict=True), ":", color=LIGHT, linewidth=2, label="used, rounded up to whole pages")
        if seen:
            ax.plot(*zip(*seen, strict=True), "s", color=LIGHT, markersize=6, label="resident (RSS), fresh process")
        if preallocated:
            ax.annotate(
                "pre-allocation hides the growth:\nthe buffers are as large at the first token as at the last",
                (x[0], curves.allocated[0]),
                xytext=(6, 10),
                textcoords="offset points",
                fontsize=9,
            )
        _log_axes(ax, x, "bytes of the cache")
        ax.yaxis.set_major_formatter(lambda value, _: _bytes(value))
        high = max([*curves.allocated, *(size for _, size in seen)])
        ax.set_ylim(min(curves.used) / 1.6, high * 3)
        ax.set_title(fill(title, TITLE_WIDTH), loc="left", fontsize=10.5)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)

    return draw_png(8, 5.4, draw)


def latency_png(
    curves: Sequence[LatencyCurve],
    *,
    title: str,
    crossover: float | None,
    changes_of_regime: Sequence[tuple[float, str]],
) -> bytes:
    """One decode step against the context, with and without a cache.

    Args:
        curves: with a cache, then without.
        title: the finding.
        crossover: the context where the curves cross, if they do.
        changes_of_regime: where a curve changes its power, in rising order, and what changes there.
    """

    def draw(figure: "Figure") -> None:
        ax = figure.subplots()
        for curve, colour, marker in zip(curves, (DARK, WARM), ("o", "s"), strict=True):
            _draw_curve(ax, curve, colour, marker)
        contexts = sorted({S for curve in curves for S in curve.contexts})
        _log_axes(ax, contexts, "ms for one decode step")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        low, high = ax.get_ylim()
        ax.set_ylim(low / 1.3, high * (1.3 + len(changes_of_regime)))
        said = [*changes_of_regime]
        if crossover is not None:
            said.append((crossover, f"crossover at S = {significant(crossover)}"))
        for line, (at, words) in enumerate(said):
            _say(ax, at, words, line)
        ax.set_title(fill(title, TITLE_WIDTH), loc="left", fontsize=10.5)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)

    return draw_png(8, 6, draw)


def _draw_curve(ax: "Axes", curve: LatencyCurve, colour: str, marker: str) -> None:
    pairs = list(zip(curve.contexts, curve.measured_ms, strict=True))
    seen = [pair for pair in pairs if pair[0] in curve.fitted or not curve.fitted]
    held = [pair for pair in pairs if pair not in seen]
    for context, ends in zip(curve.contexts, curve.ends_ms, strict=True):
        if ends is not None:
            ax.plot([context, context], ends, color=colour, linewidth=1.4)
    if seen:
        ax.plot(*zip(*seen, strict=True), marker, color=colour, markersize=7, label=f"{curve.label}, measured")
    if held:
        ax.plot(
            *zip(*held, strict=True),
            marker,
            markerfacecolor="white",
            markeredgecolor=colour,
            markeredgewidth=1.6,
            markersize=7,
            label=f"{curve.label}, measured, held out of the fit",
        )
    if curve.fit_ms:
        ax.plot(curve.contexts, curve.fit_ms, ":", color=colour, linewidth=2, label=f"{curve.label}, fit {curve.form}")
    if curve.theory_ms:
        ax.plot(
            curve.contexts,
            curve.theory_ms,
            color=colour,
            linewidth=1.2,
            label=f"{curve.label}, theory from measured ceilings, no fit",
        )


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
            return f"{size / one:g} {unit}"
    return f"{size:g} B"


PREDICTS = 0.10
"""A claimed fit that misses a held-out point by more is said not to predict."""


def tables(manifest: Manifest, findings: CacheFindings) -> list[Table]:
    """Latency, memory, and the fits with their errors at held-out points."""
    return [_latency(manifest, findings), _memory(manifest, findings), _fits(findings)]


def csv(findings: CacheFindings) -> str:
    """A row a context: every field of a point."""
    return _csv(findings, list(Point.__struct_fields__))


def files(manifest: Manifest, findings: CacheFindings) -> Mapping[str, bytes]:
    """Both curves as JSON, CSV and picture, and `README.md`."""
    memory = [name for name in Point.__struct_fields__ if name == "S" or "bytes" in name]
    latency = [name for name in Point.__struct_fields__ if name == "S" or name == "cache_bytes" or "bytes" not in name]
    w = typed(manifest, Workload)
    facts = {"model": name_of(manifest), "cache": w.cache, "batch": w.batch}
    regimes = changes_of_regime(findings)
    return {
        "memory.json": encode_json({**facts, "points": _rows(findings, memory)}),
        "latency.json": encode_json(
            {
                **facts,
                "points": _rows(findings, latency),
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
        "memory.csv": _csv(findings, memory).encode(),
        "latency.csv": _csv(findings, latency).encode(),
        "memory.png": _memory_png(manifest, findings),
        "latency.png": _latency_png(manifest, findings, regimes),
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


def summary(findings: CacheFindings) -> dict[str, Any]:
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
        found = [
            (findings.arithmetic_from_S, "by theory arithmetic takes\nmost of a step from S = {}"),
            (findings.attention_from_S, "by theory attention takes\nmost of a step from S = {}"),
        ]
    elif len(findings.without_cache.coefficients_ms) == 3:
        a, b, c = findings.without_cache.coefficients_ms
        found = [
            (a / b if min(a, b) > 0 else None, "by the fit b·S overtakes\nthe constant at S = {}"),
            (b / c if min(b, c) > 0 else None, "by the fit c·S² overtakes\nb·S at S = {}"),
        ]
    else:
        return []
    return [
        (at, f"without a cache: {words.format(significant(at, 2))}")
        for at, words in found
        if at is not None and S[0] < at < S[-1]
    ]


def _rows(findings: CacheFindings, names: list[str]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in names} for row in map(msgspec.to_builtins, findings.points)]


def _csv(findings: CacheFindings, names: list[str]) -> str:
    return to_csv(names, [[row[name] for name in names] for row in _rows(findings, names)])


def _latency(manifest: Manifest, findings: CacheFindings) -> Table:
    rows = [
        [
            f"{p.S:,}",
            _ms(p.per_token_ms_with_cache),
            interval(p.with_cache_low_ms, p.with_cache_high_ms),
            _ms(p.theory_ms_with_cache),
            _ms(p.per_token_ms_without_cache),
            interval(p.without_cache_low_ms, p.without_cache_high_ms),
            _ms(p.theory_ms_without_cache),
            _ratio(p.per_token_ms_without_cache, p.per_token_ms_with_cache),
        ]
        for p in findings.points
    ]
    w = typed(manifest, Workload)
    notes = [f"Crossover: {findings.crossover}.", *(f"Left out: {reason}." for reason in findings.left_out)]
    notes += theory_notes(findings)
    notes += precision_notes(findings)
    return Table(
        title=f"one decode step, ms: {name_of(manifest)}, {w.cache} cache, batch {w.batch}",
        header=["S", "with", "95 %", "theory", "without", "95 %", "theory", "without/with"],
        rows=rows,
        text_columns=frozenset(),
        notes=notes,
    )


def _memory(manifest: Manifest, findings: CacheFindings) -> Table:
    rows = [
        [
            f"{p.S:,}",
            f"{p.cache_bytes:,}",
            _count(p.theory_bytes),
            f"{p.cache_bytes_allocated:,}",
            _count(p.theory_bytes_allocated),
            _count(p.rss_growth_bytes),
            _count(p.rss_page_bound_bytes),
        ]
        for p in findings.points
    ]
    error = findings.memory_max_relative_error_to_theory
    return Table(
        title=f"bytes of the cache: {name_of(manifest)}, {typed(manifest, Workload).cache} cache",
        header=["S", "used", "theory", "allocated", "theory", "resident", "whole pages of the used"],
        rows=rows,
        text_columns=frozenset(),
        notes=[
            "No formula for this architecture." if error is None else f"Largest error to theory: {percent(error, 2)}."
        ],
    )


def _fits(findings: CacheFindings) -> Table:
    fits = [("with a cache", findings.with_cache), ("without", findings.without_cache)]
    if findings.without_cache_by_theory is not None:
        fits.insert(1, ("without", findings.without_cache_by_theory))
    rows = []
    for name, fit in fits:
        name += ", claimed" if fit.claimed else ", beside it"
        if fit.reason:
            rows.append([name, fit.form, "–", "–", "–", "–"])
            continue
        rows.append(
            [
                name,
                fit.form,
                _coefficients(fit),
                percent(fit.interleaved_error or 0.0),
                percent(fit.beyond_error or 0.0),
                f"{fit.r_squared:.4f}",
            ]
        )
    notes = [f"No fit {name}, {fit.form}: {fit.reason}." for name, fit in fits if fit.reason]
    notes += [
        f"{fit.form} ({name}) misses the held-out S = {missed} by more than {percent(PREDICTS, 0)}: "
        "predict nothing beyond the measured contexts from it."
        for name, fit in fits
        if fit.claimed and (missed := misses(fit))
    ]
    if findings.without_cache_by_theory is not None:
        notes.append(
            "T(S) is theory's own curve, nothing of it fitted. κ: how many times as long as at the measured ceilings a "
            "step takes to grow. a: what T's constant lacks (below 0: has too much)."
        )
    return Table(
        title="fits, judged on contexts they have not seen (coefficients in ms; κ is a number)",
        header=["steps", "form", "coefficients", "largest error between", "one octave beyond", "R²"],
        rows=rows,
        text_columns=frozenset({0, 1, 2}),
        notes=notes,
    )


def _coefficients(fit: Fit) -> str:
    names = [letter for letter in fit.form if letter in "αβabcκ"]
    return ", ".join(f"{name} = {significant(c)}" for name, c in zip(names, fit.coefficients_ms, strict=True))


def _memory_png(manifest: Manifest, findings: CacheFindings) -> bytes:
    points = findings.points
    curves = MemoryCurves(
        contexts=[p.S for p in points],
        allocated=[p.cache_bytes_allocated for p in points],
        used=[p.cache_bytes for p in points],
        theory=[p.theory_bytes for p in points],
        resident=[p.rss_growth_bytes for p in points],
        page_bound=[p.rss_page_bound_bytes for p in points],
    )
    error = findings.memory_max_relative_error_to_theory
    found = (
        "grows linearly"
        if error is None
        else "is what shapes say, to the byte"
        if error == 0
        else f"is within {percent(error, 2)} of theory"
    )
    w = typed(manifest, Workload)
    title = f"{name_of(manifest)}, {w.cache} cache: what it uses {found}"
    return memory_png(curves, title=title, preallocated=w.capacity is not None)


def _latency_png(manifest: Manifest, findings: CacheFindings, regimes: Sequence[tuple[float, str]]) -> bytes:
    curves = [
        _curve(findings, WITH, "with a cache", findings.with_cache),
        _curve(findings, WITHOUT, "without", claimed_without(findings)),
    ]
    S, ms = times_of(findings.points, WITH)
    grown = significant(ms[-1] / ms[0])
    title = f"{name_of(manifest)}: with a cache the step grows {grown}× from S = {S[0]:,} to {S[-1]:,}"
    alone, alone_ms = times_of(findings.points, WITHOUT)
    if alone:
        longer = significant(alone_ms[-1] / dict(zip(S, ms, strict=True))[alone[-1]])
        title += f"; without one it is {longer}× as long at {alone[-1]:,}"
    return latency_png(curves, title=title, crossover=findings.crossover_S, changes_of_regime=regimes)


def _curve(findings: CacheFindings, arm: str, label: str, fit: Fit) -> LatencyCurve:
    S, ms = times_of(findings.points, arm)
    points = [p for p in findings.points if p.S in S]
    theory = [p.theory_ms_with_cache if arm == WITH else p.theory_ms_without_cache for p in points]
    ends = [
        (p.with_cache_low_ms, p.with_cache_high_ms)
        if arm == WITH
        else (p.without_cache_low_ms, p.without_cache_high_ms)
        for p in points
    ]
    return LatencyCurve(
        label=label,
        contexts=S,
        measured_ms=ms,
        ends_ms=[(low, high) if low is not None and high is not None else None for low, high in ends],
        fitted=fit.fitted_S,
        fit_ms=[fit.predicted_ms[str(x)] for x in S] if fit.predicted_ms else [],
        theory_ms=[x for x in theory if x is not None] if None not in theory else [],
        form=fit.form,
    )


def _ms(value: float | None) -> str:
    return "–" if value is None else significant(value)


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _ratio(above: float | None, below: float | None) -> str:
    return "–" if above is None or not below else f"{significant(above / below)}×"
