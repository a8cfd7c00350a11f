"""Coverage of the interval between two stored runs, by simulation, and of the simpler ones that were rejected.

A run has a level of its own (drawn from a shape, standard deviation 1 %) and rounds that scatter about it (white, or
resembling their neighbours). The spread of runs is learned anew from A/A runs in each of the tries; a true +5 % must
lie in the interval. Rejected: the rounds alone, as if runs did not differ; the spread with the normal quantile in place
of t; the spread without the √2 that two runs need. Writes results/between_runs.json, the table of docs/compare.md.

    python -P benchmarks/between_runs.py        # about a minute
"""

import argparse
import json
from collections.abc import Callable
from math import expm1, hypot, log, sqrt
from pathlib import Path

import numpy as np
from scipy.special import ndtri, stdtrit

from perstep.stats import RunCost, Spread, pooled_spread, unpaired_change

RESULT = Path(__file__).parent / "results" / "between_runs.json"
TRUE_CHANGE = 0.05
LEVEL_SD = 0.01
ROUNDS = 30

Draw = Callable[[np.random.Generator], float]

LEVELS: dict[str, Draw] = {
    "normal": lambda rng: rng.normal(),
    "two levels": lambda rng: float(rng.choice([-1.0, 1.0])),
    "heavy tails (t with 3 df)": lambda rng: rng.standard_t(3) / sqrt(3),
    "one run in five 2.5 sd slower": lambda rng: (float(rng.random() < 0.2) - 0.2) / 0.4,
    "runs do not differ": lambda _rng: 0.0,
}
SCATTERS = {"1 %": (0.01, 0.0), "3 %": (0.03, 0.0), "3 %, autocorrelated 0.9": (0.03, 0.9)}
REPEATS = (4, 6, 10, 20)


def a_run(rng: np.random.Generator, true: float, level: Draw, scatter: tuple[float, float]) -> RunCost:
    """One simulated run of `ROUNDS` rounds."""
    sd, resemblance = scatter
    noise = rng.normal(0, 1, ROUNDS)
    for i in range(1, ROUNDS) if resemblance else ():
        noise[i] = resemblance * noise[i - 1] + sqrt(1 - resemblance**2) * noise[i]
    x = true * np.exp(LEVEL_SD * level(rng) + sd * noise)
    return RunCost(float(np.median(x)), x)


def holds(low: float | None, high: float | None) -> bool:
    """Whether the true change lies in an interval that there is."""
    return low is not None and high is not None and low <= TRUE_CHANGE <= high


def alternatives(ref: RunCost, new: RunCost, spread: Spread) -> dict[str, bool]:
    """Which of the rejected intervals hold the true change."""
    alone = unpaired_change(ref, new, Spread(0.0, spread.df))
    if alone.ci_low is None or alone.ci_high is None:
        raise SystemExit("a simulated run has too few rounds")
    ratio = log(new.estimate / ref.estimate)
    down, up = ratio - log(1 + alone.ci_low), log(1 + alone.ci_high) - ratio
    between = {
        "normal quantile": float(ndtri(0.975)) * spread.sd_log * sqrt(2),
        "without √2": float(stdtrit(spread.df, 0.975)) * spread.sd_log,
    }
    found = {"rounds alone": holds(alone.ci_low, alone.ci_high)}
    for name, half in between.items():
        found[name] = holds(expm1(ratio - hypot(down, half)), expm1(ratio + hypot(up, half)))
    return found


def coverage(rng: np.random.Generator, tries: int, level: Draw, scatter: tuple[float, float], repeats: int) -> dict:
    """Coverage of ours and of the rejected ones, and our median half-width."""
    held, widths = dict.fromkeys(("ours", "rounds alone", "normal quantile", "without √2"), 0), []
    for _ in range(tries):
        spread = pooled_spread([[a_run(rng, 1.0, level, scatter).estimate for _ in range(repeats)]])
        if spread is None:
            raise SystemExit("no spread")
        ref, new = (a_run(rng, true, level, scatter) for true in (1.0, 1 + TRUE_CHANGE))
        change = unpaired_change(ref, new, spread)
        held["ours"] += holds(change.ci_low, change.ci_high)
        for name, hit in alternatives(ref, new, spread).items():
            held[name] += hit
        if change.ci_low is not None and change.ci_high is not None:
            widths.append((change.ci_high - change.ci_low) / 2)
    return {**{name: round(count / tries, 4) for name, count in held.items()}, "half_width": float(np.median(widths))}


def main() -> None:
    """Simulate every combination and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=2000)
    tries = parser.parse_args().tries
    rows = []
    for shape, level in LEVELS.items():
        for scatter in SCATTERS:
            for repeats in REPEATS if scatter == "1 %" else (6,):
                rng = np.random.default_rng([20, len(rows)])
                found = coverage(rng, tries, level, SCATTERS[scatter], repeats)
                rows.append({"runs differ": shape, "rounds scatter": scatter, "aa_runs": repeats, **found})
                print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    result = {"tries": tries, "true_change": TRUE_CHANGE, "level_sd": LEVEL_SD, "rounds": ROUNDS, "rows": rows}
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
