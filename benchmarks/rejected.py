"""Simulated experiments on rejected rules, on the same machines as ours (`studies.py`).

Rules to stop by significance or too early, intervals that assume more than is known, and the
usual sequential comparison. Each study returns rows for the results.
"""

from __future__ import annotations

import numpy as np
from benchmarks.simulation import SHAPES, Shape, shape_named, simulate_pairs
from benchmarks.studies import AT_ONCE, BUDGETS, PRECISION, SIZES, Row, fixed_rounds

from benchmarks import alternatives, simulation
from perstep import stats

ONE_SIDED = Shape(
    "one-sided",
    "white, and the candidate alone is delayed by a Pareto time in each round",
    simulation.white,
    2.0,
    simulation.heavy,
)


def stopping_rules(rng: np.random.Generator, series: int) -> list[Row]:
    """Rejected ways to stop, and no merging: coverage and false verdicts of unmerged sign tests."""
    rows = []
    for name in ("white", "bimodal", "ar1-rounds-0.5"):
        for size in SIZES[:2]:
            ratios = np.concatenate(
                [
                    np.log(c[:, :, 1] / c[:, :, 0])
                    for c in (
                        simulate_pairs(rng, shape_named(name), size, min(AT_ONCE, series), max(BUDGETS))
                        for _ in range(0, series, AT_ONCE)
                    )
                ]
            )
            for rule in alternatives.STOPPING_RULES:
                intervals, stopped = alternatives.run_stopping_rule(ratios, rule, PRECISION, max(BUDGETS))
                rows.append(
                    {
                        "noise": name,
                        "size": size,
                        "rule": rule.name,
                        "comparisons": len(ratios),
                        "coverage": float(alternatives.rows(intervals, 0.0).mean()),
                        "mean_rounds": float(stopped.mean()),
                    }
                )
    return rows


def merging(rng: np.random.Generator, series: int) -> list[Row]:
    """What to show when rounds are autocorrelated, at a fixed number of rounds."""
    rows = []
    for name in ("white", "ar1-rounds-0.2", "ar1-rounds-0.5", "ar1-rounds-0.8"):
        for rounds in (20, 30, 60, 200):
            costs = simulate_pairs(rng, shape_named(name), SIZES[1], 2 * series // 5, rounds)
            found = [shown_after_merging(c) for c in costs]
            for way in found[0]:
                printed = [f[way] for f in found if f[way] is not None]
                held = sum(interval.low <= 0 <= interval.high for interval in printed)
                rows.append(
                    {
                        "noise": name,
                        "rounds": rounds,
                        "way": way,
                        "comparisons": len(found),
                        "coverage": held / len(printed) if printed else None,
                        "printed": len(printed) / len(found),
                    }
                )
    return rows


def shown_after_merging(costs: np.ndarray) -> dict[str, stats.MedianInterval | None]:
    """One comparison [rounds, 2] in four ways of treating autocorrelated rounds."""
    merged = stats.merge_until_independent(costs, lambda c: stats.log_ratios(c[:, 0], c[:, 1]))
    values = merged.values
    widest = stats.MedianInterval(float(values.min()), float(values.max()), 1.0, 1)
    ours = stats.merged_interval(merged)
    raw = stats.log_ratios(costs[:, 0], costs[:, 1])
    return {
        "no merging": stats.median_interval(raw, confidence=stats.guarded_confidence(0.95)),
        "merged, nothing unless under 0.1": ours if merged.independent else None,
        "merged, else the widest under 0.5 (perstep)": ours,
        "merged, else the widest always": ours if merged.independent else widest,
    }


def interval_methods(rng: np.random.Generator, series: int) -> list[Row]:
    """Rejected intervals at a fixed number of rounds: coverage of the true median log-ratio, and width."""
    rows = []
    for shape in (*(shape_named(n) for n in ("white", "student", "bimodal", "ar1-rounds-0.5")), ONE_SIDED):
        truth = 0.0
        if shape is ONE_SIDED:
            many = simulate_pairs(rng, shape, SIZES[1], 2 * series, 200)
            truth = float(np.median(np.log(many[:, :, 1] / many[:, :, 0])))
        for rounds in (20, 60):
            costs = simulate_pairs(rng, shape, SIZES[1], 2 * series // 5, rounds)
            ratios = np.log(costs[:, :, 1] / costs[:, :, 0])
            for method, intervals in methods(rng, costs, ratios).items():
                width = (intervals[1] - intervals[0]) / 2
                printed = np.isfinite(width)
                rows.append(
                    {
                        "noise": shape.name,
                        "rounds": rounds,
                        "method": method,
                        "comparisons": len(ratios),
                        "coverage": float(alternatives.rows(intervals, truth)[printed].mean()),
                        "printed": float(printed.mean()),
                        "median_half_width": float(np.median(width[printed])),
                    }
                )
    return rows


def methods(
    rng: np.random.Generator, costs: np.ndarray, ratios: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Intervals of the log-ratio by every method."""
    ours = [(c.ci_low, c.ci_high) for c in fixed_rounds(costs)]
    low, high = np.array([(np.nan, np.nan) if lo is None else (lo, hi) for lo, hi in ours]).T
    return {
        "perstep": (np.log1p(low), np.log1p(high)),
        "sign test": alternatives.sign_test(ratios),
        "bootstrap percentile": alternatives.bootstrap_percentile(ratios, rng),
        "t": alternatives.t_interval(ratios),
        "Wilcoxon, Hodges-Lehmann": alternatives.hodges_lehmann(ratios),
    }


def sequential(rng: np.random.Generator, series: int) -> list[Row]:
    """The usual way: all steps of one arm, then all of the other, pooled in a Mann-Whitney test."""
    rows, steps = [], 400
    for shape in SHAPES:
        if shape.round_noise is not None:
            continue
        noise = shape.step_noise(rng, (series // 2, 2 * steps), SIZES[1] * shape.size_unit)
        differ = alternatives.pooled_mann_whitney(noise[:, :steps], noise[:, steps:])
        rows.append(
            {
                "noise": shape.name,
                "steps_per_arm": steps,
                "comparisons": len(differ),
                "false_verdicts": float(differ.mean()),
            }
        )
    return rows
