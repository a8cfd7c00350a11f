"""The findings of `cache` as tables, files, pictures and a headline."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from perstep.experiments.cache_findings import CacheFindings
from perstep.experiments.cache_fits import WITH, WITHOUT, Fit, Point, times_of
from perstep.report import Table, to_csv
from perstep.report.cache import LatencyCurve, MemoryCurves, latency_png, memory_png
from perstep.report.format import interval, percent, significant
from perstep.report.words import render
from perstep.runs import Manifest, encode_json

FORETELLS = 0.10
"""A claimed fit that misses a held-out point by more is said not to foretell."""


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
    facts = {"model": name_of(manifest), "cache": manifest.workload["cache"], "batch": manifest.workload["batch"]}
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
            "cache.md",
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
    return str(manifest.model["name"])


def theory_notes(findings: CacheFindings) -> list[str]:
    """Why theory has no curve, where that is the fault of the ceilings; one sentence where both arms share it."""
    reasons = findings.theory_withdrawn
    if len(set(reasons.values())) == 1 and len(reasons) > 1:
        return [f"Theory has no curve: {next(iter(reasons.values()))}."]
    return [f"Theory has no curve {arm} a cache: {reason}." for arm, reason in reasons.items()]


def misses(fit: Fit) -> str:
    """The held-out contexts that a fit misses by more than `FORETELLS`, as a list; empty where it foretells all."""
    return ", ".join(S for S, error in fit.held_out_errors.items() if abs(error) > FORETELLS)


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
    w = manifest.workload
    notes = [f"Crossover: {findings.crossover}.", *(f"Left out: {reason}." for reason in findings.left_out)]
    notes += theory_notes(findings)
    if findings.unresolved:
        notes.append(f"Not resolved to the asked precision: {findings.unresolved}.")
    return Table(
        title=f"one decode step, ms: {name_of(manifest)}, {w['cache']} cache, batch {w['batch']}",
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
        title=f"bytes of the cache: {name_of(manifest)}, {manifest.workload['cache']} cache",
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
        f"{fit.form} ({name}) misses the held-out S = {missed} by more than {percent(FORETELLS, 0)}: "
        "foretell nothing beyond the measured contexts from it."
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
    title = f"{name_of(manifest)}, {manifest.workload['cache']} cache: what it uses {found}"
    return memory_png(curves, title=title, preallocated=manifest.workload["capacity"] is not None)


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
    theory = [p.theory_ms_with_cache if arm == WITH else p.theory_ms_without_cache for p in findings.points if p.S in S]
    return LatencyCurve(
        label=label,
        contexts=S,
        measured_ms=ms,
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
