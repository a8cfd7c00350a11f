"""Simulated experiments on the shipped rules: coverage, power, families, shares, effects.

Each study takes a generator and a number of comparisons and returns rows for the results.
What is called is `perstep.stats` itself, in the order in which the measuring loop calls it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.simulation import SHAPES, Shape, shape_named, simulate_pairs

from benchmarks import alternatives, simulation
from perstep import stats

Row = dict[str, Any]
Pace = Callable[[np.random.Generator, int], np.ndarray]
"""How slow a machine is in each of a number of rounds."""

SIZES = (0.006, 0.015, 0.04)  # noise of a round's ratio: stops at once, after a while, never
BUDGETS = (30, 60, 120, 200)  # rounds; the comparisons take turns
PRECISION = 0.005
AT_ONCE = 500


def run_to_stop(costs: np.ndarray, budget: int) -> tuple[stats.Change, stats.Stop]:
    """One comparison under the real rule: costs [rounds, 2] become visible round by round."""
    rounds = 0
    while True:
        rounds = min(stats.next_look(rounds), budget)
        change = stats.paired_change(costs[:rounds, 0], costs[:rounds, 1])
        stop = stats.should_stop(
            change.half_width,
            precision=PRECISION,
            merged_rounds=change.merged_rounds,
            elapsed_s=rounds,
            budget_s=budget,
        )
        if stop is not None:
            return change, stop


def coverage(rng: np.random.Generator, series: int) -> list[Row]:
    """A/A under the real stopping rule: coverage of the printed interval, and false verdicts."""
    return [tally(rng, shape, size, series, change=0.0) for shape in SHAPES for size in SIZES]


def detection(rng: np.random.Generator, series: int) -> list[Row]:
    """The same with a true change: what the verdicts are."""
    shapes = [shape_named(n) for n in ("white", "bursts", "heavy", "ar1-rounds-0.5")]
    return [tally(rng, shape, SIZES[1], series // 5, change) for shape in shapes for change in (0.01, 0.02, 0.05)]


def tally(rng: np.random.Generator, shape: Shape, size: float, series: int, change: float) -> Row:
    """Many comparisons under the real rule, counted."""
    found: list[tuple[stats.Change, stats.Stop]] = []
    for start in range(0, series, AT_ONCE):
        costs = simulate_pairs(rng, shape, size, min(AT_ONCE, series - start), max(BUDGETS), change)
        found += [run_to_stop(c, BUDGETS[i % len(BUDGETS)]) for i, c in enumerate(costs)]
    printed = [c for c, _ in found if c.ci_low is not None]
    covered = sum(c.ci_low <= change <= c.ci_high for c in printed)
    verdicts = {v: sum(c.verdict is v for c, _ in found) / series for v in stats.Verdict}
    wrong = verdicts[stats.Verdict.FASTER] + (verdicts[stats.Verdict.SLOWER] if change == 0 else 0.0)
    return {
        "noise": shape.name,
        "size": size,
        "change": change,
        "comparisons": series,
        "coverage": covered / len(printed),
        "printed": len(printed) / series,
        "false_verdicts": wrong,
        "faster": verdicts[stats.Verdict.FASTER],
        "slower": verdicts[stats.Verdict.SLOWER],
        "same": verdicts[stats.Verdict.SAME],
        "not_resolved": verdicts[stats.Verdict.NOT_RESOLVED],
        "stopped_on_precision": sum(s is stats.Stop.PRECISION for _, s in found) / series,
        "mean_rounds": float(np.mean([c.rounds for c, _ in found])),
        "mean_merged_by": float(np.mean([c.merged_by for c, _ in found])),
    }


def detectable(rng: np.random.Generator, series: int) -> list[Row]:
    """Is the minimum detectable effect honest? Inject its median and count resolved changes."""
    rows = []
    for name in ("white", "bursts", "bimodal", "heavy", "student", "ar1-rounds-0.5"):
        for rounds in (20, 60, 200):
            null = fixed_rounds(simulate_pairs(rng, shape_named(name), SIZES[1], series // 10, rounds))
            mdes = [c.mde for c in null if c.mde is not None]
            mde = float(np.median(mdes))
            tries = fixed_rounds(simulate_pairs(rng, shape_named(name), SIZES[1], series // 5, rounds, change=mde))
            printed = [c for c in tries if c.ci_low is not None]
            resolved = sum(c.ci_low > 0 or c.ci_high < 0 for c in printed)
            rows.append(
                {
                    "noise": name,
                    "rounds": rounds,
                    "mde": mde,
                    "mde_p10": float(np.quantile(mdes, 0.1)),
                    "mde_p90": float(np.quantile(mdes, 0.9)),
                    "tries": len(tries),
                    "printed": len(printed) / len(tries),
                    "resolved": resolved / len(printed),
                }
            )
    return rows


def fixed_rounds(costs: np.ndarray) -> list[stats.Change]:
    """The change of each comparison from all of its rounds: costs [series, rounds, 2]."""
    return [stats.paired_change(c[:, 0], c[:, 1]) for c in costs]


def family(rng: np.random.Generator, series: int) -> list[Row]:
    """Twelve arms in Williams squares: do all eleven intervals hold at once? And with Holm's levels?"""
    arms, rounds, rows = 12, 45, []
    for name in ("white", "drift", "heavy"):
        for spread in (0.0, 0.1):  # all alike; or each arm 10 % slower than the one before
            truth = np.log1p(spread * np.arange(1, arms))
            ours, single, holm, false, total = 0, 0, 0, 0, series // 5
            for start in range(0, total, 100):
                costs = simulation.interleave(rng, shape_named(name), SIZES[1], min(100, total - start), rounds, arms)
                costs[:, :, 1:] *= np.exp(truth)
                for c in costs:
                    found = stats.paired_changes(c).values()
                    ours += all(holds(f, t) for f, t in zip(found, np.expm1(truth), strict=True))
                    false += spread == 0 and any(f.verdict in ("faster", "slower") for f in found)
                ratios = np.log(costs[:, :, 1:] / costs[:, :, :1]).transpose(0, 2, 1)
                single += family_coverage(ratios, truth, np.full(ratios.shape[:2], 0.95))
                p_values = alternatives.sign_test_p_values(ratios)
                holm += family_coverage(ratios, truth, alternatives.holm_confidences(p_values))
            rows.append(
                {
                    "noise": name,
                    "true_spread": spread,
                    "arms": arms,
                    "rounds": rounds,
                    "families": total,
                    "family_coverage": ours / total,
                    "false_families": false / total if spread == 0 else None,
                    "family_coverage_uncorrected": single / total,
                    "family_coverage_holm": holm / total,
                }
            )
    return rows


def holds(change: stats.Change, truth: float) -> bool:
    """Whether the interval holds the truth; one that is not printed claims nothing."""
    return change.ci_low is None or change.ci_high is None or change.ci_low <= truth <= change.ci_high


def family_coverage(ratios: np.ndarray, truth: np.ndarray, confidence: np.ndarray) -> int:
    """How many families [series, k, rounds] have all sign-test intervals, each at its own level, hold."""
    n = ratios.shape[2]
    ordered = np.sort(ratios, axis=2)
    levels = {level: stats.sign_test_rank(n, confidence=level) for level in np.unique(confidence).tolist()}
    ranks = np.vectorize(levels.__getitem__)(confidence)
    low = np.take_along_axis(ordered, ranks[:, :, None] - 1, axis=2)[:, :, 0]
    high = np.take_along_axis(ordered, n - ranks[:, :, None], axis=2)[:, :, 0]
    return int(((low <= truth) & (truth <= high)).all(axis=1).sum())


def drifting(a_round: float) -> Pace:
    """A machine whose speed is a random walk."""
    return lambda rng, rounds: np.exp(np.cumsum(a_round * rng.standard_normal(rounds)))


def in_spells(rng: np.random.Generator, rounds: int) -> np.ndarray:
    """A machine that is 1.7 times as slow in spells of about eight rounds."""
    return np.where(np.cumsum(rng.random(rounds) < 1 / 8) % 2, 1.7, 1.0)


MACHINES: dict[str, Pace] = {
    "steady": drifting(0.0),
    "drifts by 1 % a round": drifting(0.01),
    "drifts by 3 % a round": drifting(0.03),
    "1.7 times as slow in spells": in_spells,
}


def shares(rng: np.random.Generator, series: int) -> list[Row]:
    """Twelve parts of a step: do all their share intervals hold the true shares at once, at any speed?"""
    parts, positions, rows = 12, 16, []
    base = 1000 * rng.dirichlet(np.ones(parts), positions).T  # [parts, positions]
    truth = base.sum(axis=1) / base.sum()  # equal noise on every part leaves shares as they are
    for rounds, (machine, pace_of) in itertools.product((20, 60, 150), MACHINES.items()):
        kept = kept_as_measured = total = series // 20
        for _ in range(total):
            noisy = pace_of(rng, rounds)[:, None, None] * ledger_rounds(rng, base, rounds)
            step = noisy.sum(axis=1)
            found = stats.ledger_estimate(step, {str(p): noisy[:, p] for p in range(parts)})
            as_measured = [stats.step_estimate(noisy[:, p]) for p in range(parts)]
            kept -= any(share_missed(noisy[:, p], step, found.share(str(p)), truth[p], parts) for p in range(parts))
            kept_as_measured -= any(
                share_missed(noisy[:, p], step, as_measured[p] / sum(as_measured), truth[p], parts)
                for p in range(parts)
            )
        rows.append(
            {
                "parts": parts,
                "rounds": rounds,
                "machine": machine,
                "ledgers": total,
                "family_coverage": kept / total,
                "family_coverage_not_normalised": kept_as_measured / total,
            }
        )
    return rows


def ledger_rounds(rng: np.random.Generator, base: np.ndarray, rounds: int) -> np.ndarray:
    """Noisy parts: [rounds, parts, positions] around base [parts, positions]."""
    return base * np.exp(0.1 * rng.standard_normal((rounds, *base.shape)))


def share_missed(part: np.ndarray, step: np.ndarray, estimate: float, truth: float, parts: int) -> bool:
    """Whether the interval of one part's share is printed and does not hold the truth."""
    found = stats.share_interval(part.sum(1), step.sum(1), estimate=estimate, comparisons=parts)
    return found is not None and not found.low <= truth <= found.high


def factorial(rng: np.random.Generator, series: int) -> list[Row]:
    """Two parts with an interaction: bootstrap intervals of effects and Shapley values over rounds."""
    truth, rows = np.array([1.1408, 2.2548, 2.1392, 3.1276]), []
    targets = {"shapley": 1.0512, "leave_one_out": 0.9884, "interaction": -0.1256}
    for name in ("white", "drift", "ar1-rounds-0.5"):
        for rounds in (20, 60):
            missed, printed, total = dict.fromkeys(targets, 0), 0, series // 10
            for c in four_cells(rng, shape_named(name), total, rounds):
                found = stats.factorial_effects(c * truth, ["logits", "stop"], rng)
                if found.reason:
                    continue
                printed += 1
                effects = (found.shapley["logits"], found.leave_one_out["logits"], *found.interaction.values())
                for key, effect in zip(targets, effects, strict=True):
                    missed[key] += not effect.ci_low <= targets[key] <= effect.ci_high
            row = {"noise": name, "rounds": rounds, "factorials": total, "printed": printed / total}
            rows.append(row | {f"coverage_{key}": 1 - missed[key] / max(printed, 1) for key in targets})
    return rows


def few_rounds(rng: np.random.Generator, series: int) -> list[Row]:
    """Rounds that are too few to merge: how often does chance withhold an interval, and do the shown ones hold?"""
    truth, total_effect, rows = np.array([1.1408, 2.2548, 2.1392, 3.1276]), 1.9868, []
    for name in ("white", "ar1-rounds-0.2", "ar1-rounds-0.5"):
        for rounds in (10, 12, 14, 19):
            single = fixed_rounds(simulate_pairs(rng, shape_named(name), SIZES[1], series, rounds))
            shown = [c for c in single if c.ci_low is not None]
            effects = [
                stats.factorial_effects(c * truth, ["logits", "stop"], rng).total
                for c in four_cells(rng, shape_named(name), series // 10, rounds)
            ]
            resampled = [effect for effect in effects if effect.ci_low is not None]
            held = sum(effect.ci_low <= total_effect <= effect.ci_high for effect in resampled)
            rows.append(
                {
                    "noise": name,
                    "rounds": rounds,
                    "comparisons": series,
                    "printed": len(shown) / series,
                    "coverage": sum(c.ci_low <= 0 <= c.ci_high for c in shown) / len(shown),
                    "factorials": len(effects),
                    "printed_factorial": len(resampled) / len(effects),
                    "coverage_factorial": held / len(resampled),
                }
            )
    return rows


def four_cells(rng: np.random.Generator, shape: Shape, series: int, rounds: int) -> np.ndarray:
    """Noise of four arms in Williams squares: [series, rounds, 4], about 1."""
    costs = simulation.interleave(rng, shape, SIZES[1], series, rounds, 4)
    if shape.round_noise is not None:
        for arm in range(4):
            costs[:, :, arm] *= np.exp(shape.round_noise(rng, (series, rounds), SIZES[1]))
    return costs / np.median(costs[:, :, 3:], axis=1, keepdims=True)  # effects are those at its own pace
