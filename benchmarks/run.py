"""Run all benchmarks, one after the other, on a machine that does nothing else (`make bench`)."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from stale import stamp

HERE = Path(__file__).resolve().parent
TODAY = datetime.now(UTC).date().isoformat()
BENCHMARKS = [
    ["reference_vs_transformers.py"],
    ["big_run.py"],
    ["flops_vs_torch.py"],
    ["masks.py"],
    ["observer.py", "--date", TODAY],
    ["planted.py", "--date", TODAY],
    ["ablation.py", "--date", TODAY],
    ["constrained.py", "--date", TODAY],
    ["dropins.py", "--date", TODAY],
    ["decode_loop.py", "--date", TODAY],
    ["slots.py", "--date", TODAY],
    ["theory_vs_measured.py", "--date", TODAY],
    ["predict.py", "--date", TODAY],
    ["cache_fits.py", "--date", TODAY],
    ["mask_cache.py", "--date", TODAY],
    ["depth.py", "--date", TODAY],
    ["validity.py", "--date", TODAY],
    ["statistics.py", "--date", TODAY],
    ["real_clock.py", "--date", TODAY],
    ["aa.py", "--date", TODAY],
    ["torture.py", "--date", TODAY],
]


def main() -> int:
    """The number of benchmarks that failed."""
    failed = 0
    for script, *options in BENCHMARKS:
        print(f"--- {script}", file=sys.stderr)
        # -P keeps this folder off the module path, where statistics.py would hide the standard library's.
        code = subprocess.run([sys.executable, "-P", str(HERE / script), *options], check=False).returncode
        failed += code != 0
        result = HERE / "results" / script.replace(".py", ".json")
        if code == 0 and result.exists():
            stamp(result, HERE.parent)
    with (HERE / "results" / "selftest.json").open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", "perstep", "selftest", "--budget", "60s", "--json"]
        failed += subprocess.run(command, stdout=file, check=False).returncode != 0
    stamp(HERE / "results" / "selftest.json", HERE.parent)
    return failed


if __name__ == "__main__":
    sys.exit(main())
