"""How well fits of a decode step's cost predict contexts that they have not seen, for four models.

The `cache` experiment itself, on `mini` with the NumPy decoder and on the first layers of three real architectures
with random weights in transformers. Held out are every second context and the octave beyond the fitted range; the
claim is an error of at most 10 % at each of them. With a cache the claimed form is alpha + beta S. Without one it is
a + kappa T(S), where T is theory's own curve with nothing fitted: chosen because T knows from sizes alone where scores
leave a cache and where a library begins to pack weights. The polynomial a + b S + c S^2 stands beside it with its own
error, and so do R^2 and gamma S^2. `mini` is run from 8, from 16 and in half octaves. Prints a table and writes
results/cache_fits.json.

    OMP_NUM_THREADS=1 python -P benchmarks/cache_fits.py --date 2026-01-31            # about seven minutes
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
from perstep.experiments.cache.findings import CacheFindings
from perstep.experiments.cache.fits import Fit
from perstep.experiments.options import parse_counts

RESULT = Path(__file__).parent / "results" / "cache_fits.json"
CLAIM = 0.10
CLAIMED = ("with_cache", "without_cache")
HALF_OCTAVES = "8,11,16,23,32,45,64,91,128,181,256,362,512,724,1024"
TARGETS: dict[str, tuple[float, dict[str, Any]]] = {
    "mini": (40.0, {"context": "8-1024*2"}),
    "mini, from 16": (40.0, {"context": "16-1024*2"}),
    "mini, half octaves": (50.0, {"context": HALF_OCTAVES}),
    "gpt2, 4 layers": (70.0, {"arch": "gpt2", "layers": 4, "context": "8-512*2"}),  # knows 1,024 positions
    "smollm2-135m, 4 layers": (75.0, {"arch": "smollm2-135m", "layers": 4, "context": "8-1024*2"}),
    "qwen3-0.6b, 2 layers": (115.0, {"arch": "qwen3-0.6b", "layers": 2, "context": "8-512*2"}),
}
"""Seconds of measuring, and the options: so many that 20 rounds hold every point without a cache."""


def fit_row(fit: Fit) -> dict[str, Any]:
    """What is claimed of one fit, and whether it holds."""
    worst = max((abs(error) for error in fit.held_out_errors.values()), default=None)
    return {
        "form": fit.form,
        "claimed": fit.claimed,
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
        "without_cache": fit_row(found.without_cache_by_theory or found.without_cache),
        "without_cache_polynomial": fit_row(found.without_cache),
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
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (budget_s, target) in TARGETS.items():
            rows[name] = measure(
                target, budget_s=5.0 if options.quick else budget_s, folder=Path(folder) / str(len(rows))
            )
            for arm in (*CLAIMED, "without_cache_polynomial"):
                row = rows[name][arm]
                worst = "–" if row["largest_held_out_error"] is None else f"{row['largest_held_out_error']:.1%}"
                print(
                    f"{name:24s} {arm:24s} {row['form']:16s} largest held-out error {worst:>7s}  R² {row['r_squared']}"
                )
            if options.quick:
                return 0
    held = all(row[arm]["within_claim"] for row in rows.values() for arm in CLAIMED)
    result = {
        "schema_version": 1,
        "date": options.date,
        "claim": CLAIM,
        "claimed_of": list(rows),
        "holds": held,
        "targets": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
