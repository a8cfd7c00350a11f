# ruff: noqa: A005 (the file is run by its path; as a module it is benchmarks.statistics)
"""Proof of the statistics by simulation: coverage, false verdicts, and the rules that were rejected.

Every row of docs/statistics.md comes from the file this writes. The rules under test are the
shipped functions of `perstep.stats`, called as the measuring loop calls them (`studies.py`);
noise is a time series sampled through the interleaved design (`simulation.py`). From the repository:

    python benchmarks/statistics.py --date 2025-01-31 --page docs/statistics.md    # three minutes
    python benchmarks/statistics.py --date 2025-01-31 --quick --out quick.json     # seconds
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# As a script, this folder leads sys.path, and this file would hide the standard library's `statistics`.
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p).resolve() != HERE)]

import numpy as np  # noqa: E402

from benchmarks import rejected, simulation, studies, tables  # noqa: E402
from perstep import stats  # noqa: E402

SERIES = 5000
QUICK_SERIES = 40

STUDIES = {
    "coverage": studies.coverage,
    "detection": studies.detection,
    "detectable": studies.detectable,
    "family": studies.family,
    "shares": studies.shares,
    "factorial": studies.factorial,
    "stopping_rules": rejected.stopping_rules,
    "interval_methods": rejected.interval_methods,
    "sequential": rejected.sequential,
    "merging": rejected.merging,
    "few_rounds": studies.few_rounds,
}


def simulate(seed: int, date: str, *, quick: bool, only: str | None = None) -> dict[str, Any]:
    """Run the studies, each from its own generator, so that one can be repeated alone."""
    series = QUICK_SERIES if quick else SERIES
    names = [only] if only else list(STUDIES)
    return {
        "schema_version": 1,
        "date": date,
        "seed": seed,
        "quick": quick,
        "parameters": {
            "noise_sizes": studies.SIZES,
            "budgets_rounds": studies.BUDGETS,
            "precision": studies.PRECISION,
            "steps_per_visit": simulation.STEPS_PER_VISIT,
            "first_look_rounds": stats.FIRST_LOOK,
            "min_rounds_for_verdict": stats.MIN_ROUNDS_FOR_VERDICT,
            "confidence": 0.95,
            "asked_of_sign_test": stats.guarded_confidence(0.95),
            "noise": {shape.name: shape.meaning for shape in (*simulation.SHAPES, rejected.ONE_SIDED)},
        },
        "studies": {
            name: STUDIES[name](np.random.default_rng([seed, list(STUDIES).index(name)]), series) for name in names
        },
    }


def main() -> None:
    """Write the results, by default to benchmarks/results/statistics.json, and the tables made of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--date", required=True, help="stored in the results, such as 2025-01-31")
    parser.add_argument("--seed", type=int, default=20250131)
    parser.add_argument("--quick", action="store_true", help="40 comparisons a row instead of 5,000")
    parser.add_argument("--only", choices=STUDIES, help="one study; the results of the others are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "statistics.json")
    parser.add_argument("--page", type=Path, help="renew the tables of this page, such as docs/statistics.md")
    args = parser.parse_args()
    results = simulate(args.seed, args.date, quick=args.quick, only=args.only)
    if args.only and args.out.exists():
        results["studies"] = json.loads(args.out.read_text())["studies"] | results["studies"]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {args.out}")
    if args.page:
        args.page.write_text(tables.fill(args.page.read_text(encoding="utf-8"), results), encoding="utf-8")
        print(f"wrote the tables of {args.page}")


if __name__ == "__main__":
    main()
