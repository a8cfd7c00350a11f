"""Cost curves of a KV cache as pictures: dots were measured, lines are theory, dotted lines are fits.

Points that a fit has not seen are hollow. Both axes are logarithmic, so that a power is a straight line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

from perstep.report.format import significant
from perstep.report.plot import draw_png

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
        fitted: contexts that the fit has seen; the others are hollow.
        fit_ms: of the fit, or nothing.
        theory_ms: prediction, or nothing.
        form: of the fit, in letters.
    """

    label: str
    contexts: list[int]
    measured_ms: list[float]
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
            _curve(ax, curve, colour, marker)
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


def _curve(ax: "Axes", curve: LatencyCurve, colour: str, marker: str) -> None:
    pairs = list(zip(curve.contexts, curve.measured_ms, strict=True))
    seen = [pair for pair in pairs if pair[0] in curve.fitted or not curve.fitted]
    held = [pair for pair in pairs if pair not in seen]
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
