"""How well fits of a decode step's cost foretell contexts that they have not seen, for four models.

The `cache` experiment itself, on `mini` with the NumPy decoder and on the first layers of three real architectures
with random weights in transformers. Held out are every second context and the octave beyond the fitted range; the
claim is an error of at most 10 % at each of them. R^2 and gamma S^2 stand beside. `mini` begins at 16, and once more,
outside the claim, at 8: without a cache its products there are of 9 rows, which OpenBLAS hands to another kernel
(below 10^6 multiply-adds), and no polynomial has that step. Prints a table and writes results/cache_fits.json.

    OMP_NUM_THREADS=1 python -P benchmarks/cache_fits.py --date 2026-01-31            # about six minutes
    OMP_NUM_THREADS=1 python -P benchmarks/cache_fits.py --date 2026-01-31 --quick    # to see that it runs
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from perstep.experiments import pipeline
from perstep.experiments.cache import Plan
from perstep.experiments.cache_findings import CacheFindings, Fit
from perstep.experiments.options import parse_counts

RESULT = Path(__file__).parent / "results" / "cache_fits.json"
CLAIM = 0.10
OUTSIDE_THE_CLAIM = ("mini, from 8",)
TARGETS: dict[str, dict[str, Any]] = {
    "mini": {"context": "16-1024*2"},
    "mini, from 8": {"context": "8-1024*2"},
    "gpt2, 4 layers": {"arch": "gpt2", "layers": 4, "context": "8-512*2"},  # knows 1,024 positions
    "smollm2-135m, 4 layers": {"arch": "smollm2-135m", "layers": 4, "context": "8-1024*2"},
    "qwen3-0.6b, 2 layers": {"arch": "qwen3-0.6b", "layers": 2, "context": "8-1024*2"},
}


def fit_row(fit: Fit) -> dict[str, Any]:
    """What is claimed of one fit, and whether it holds."""
    worst = max((abs(error) for error in fit.held_out_errors.values()), default=None)
    return {
        "form": fit.form,
        "coefficients_ms": fit.coefficients_ms,
        "fitted_S": fit.fitted_S,
        "held_out_errors": fit.held_out_errors,
        "largest_held_out_error": worst,
        "within_claim": worst is not None and worst <= CLAIM,
        "r_squared": fit.r_squared,
        "local_exponents": fit.local_exponents,
        "reason": fit.reason,
    }


def unseen(_share: float, _what: str) -> None:
    """Nobody looks at the progress of a benchmark."""


def measure(options: dict[str, Any], *, budget_s: float, folder: Path) -> dict[str, Any]:
    """One run of the experiment, as a row of the result."""
    plan = Plan(**{**options, "context": parse_counts(options["context"])}, budget=budget_s)
    report = pipeline.run("cache", plan, progress=unseen, out=folder)
    found = report.findings
    assert isinstance(found, CacheFindings)
    return {
        "with_cache": fit_row(found.with_cache),
        "without_cache": fit_row(found.without_cache),
        "gamma_S2_ratio_at_largest": None if found.square is None else found.square.ratio_at_largest,
        "memory_max_relative_error_to_theory": found.memory_max_relative_error_to_theory,
        "theory_median_error_with_cache": found.theory_median_error_with_cache,
        "theory_median_error_without_cache": found.theory_median_error_without_cache,
        "crossover": found.crossover,
        "rounds": found.noise.rounds,
        "rounds_hit": found.noise.rounds_hit,
        "left_out": found.left_out,
        "points": [
            {
                "S": p.S,
                "per_token_ms_with_cache": p.per_token_ms_with_cache,
                "per_token_ms_without_cache": p.per_token_ms_without_cache,
                "theory_ms_with_cache": p.theory_ms_with_cache,
                "theory_ms_without_cache": p.theory_ms_without_cache,
            }
            for p in found.points
        ],
        "step_at_the_longest_over_the_shortest": (found.points[-1].per_token_ms_with_cache or 0)
        / (found.points[0].per_token_ms_with_cache or 1),
    }


def main() -> int:
    """1 where a held-out error is above the claim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--date", required=True, help="of the run, for the result file")
    parser.add_argument("--quick", action="store_true", help="mini alone, five seconds; nothing is written")
    parser.add_argument("--budget", type=float, default=75.0, help="seconds for each model")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, target in TARGETS.items():
            budget_s = 5.0 if options.quick else options.budget
            rows[name] = measure(target, budget_s=budget_s, folder=Path(folder) / str(len(rows)))
            for arm in ("with_cache", "without_cache"):
                row = rows[name][arm]
                worst = "–" if row["largest_held_out_error"] is None else f"{row['largest_held_out_error']:.1%}"
                print(
                    f"{name:24s} {arm:14s} {row['form']:16s} largest held-out error {worst:>7s}  R² {row['r_squared']}"
                )
            if options.quick:
                return 0
    claimed = [name for name in rows if name not in OUTSIDE_THE_CLAIM]
    held = all(rows[name][arm]["within_claim"] for name in claimed for arm in ("with_cache", "without_cache"))
    result = {
        "schema_version": 1,
        "date": options.date,
        "claim": CLAIM,
        "claimed_of": claimed,
        "holds": held,
        "targets": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
