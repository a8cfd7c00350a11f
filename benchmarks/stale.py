"""List results that are older than what they measure (`make stale`).

A result was measured at the commit that it names (`run.py` writes it there); one that names none, at the commit that
last changed it. It is stale if the code it measures, or the benchmark itself, changed after that commit.
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEASURES = {
    "aa": "stats measure experiments/compare",
    "ablation": "experiments/ablation targets/transformers stats",
    "between_runs": "stats stored",
    "big_run": "runs experiments/pipeline.py experiments/ledger",
    "cache_fits": "experiments/cache theory",
    "constrained": "fast automata",
    "decode_loop": "fast",
    "depth": "experiments/knobs targets/block_mask.py targets/reference",
    "dropins": "fast",
    "flops_vs_torch": "theory",
    "gate_self": "measure targets/transformers fast cli __init__.py",
    "jsonschema": "automata",
    "ledger_mini": "experiments/ledger measure targets/reference",
    "masks": "automata",
    "observer": "measure watching targets/transformers",
    "predict": "predicting theory sweeps/cell.py",
    "real_clock": "measure stats experiments/compare",
    "reference_vs_transformers": "targets/reference",
    "selftest": "selftest.py measure stats",
    "slots": "fast",
    "statistics": "stats",
    "sweeps": "sweeps",
    "theory_vs_measured": "theory machine experiments/bounds.py experiments/ledger",
    "torture": "runs sweeps predicting cli experiments/pipeline.py",
    "validity": "automata fast",
}
"""Result -> the rooms and modules of src/perstep that it measures."""


def git(root: Path, *words: str) -> str:
    """What git prints; nothing where it fails."""
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def measured_at(root: Path, result: Path) -> str:
    """The commit that a result names, else the one that last changed it; empty if there is none."""
    named = json.loads(result.read_text(encoding="utf-8"))
    commit = str(named.get("commit", "")).split("+")[0].split("-")[0] if isinstance(named, dict) else ""
    if commit and git(root, "cat-file", "-t", commit) == "commit":
        return commit
    return git(root, "log", "-1", "--format=%H", "--", str(result))


def changes_since(root: Path, commit: str, result: str, measures: str) -> list[str]:
    """The commits after a result's that changed what it measures, newest first, each as `1234abc its subject`."""
    paths = [f"src/perstep/{path}" for path in measures.split()]
    script = f"benchmarks/{result}.py"
    shown = git(root, "log", "--no-merges", "--format=%h %s", f"{commit}..HEAD", "--", *paths, script)
    return shown.splitlines()


def stamp(result: Path, root: Path) -> None:
    """Write the commit into a result, with `+changes` where files were changed since."""
    found = json.loads(result.read_text(encoding="utf-8"))
    commit = git(root, "rev-parse", "HEAD")
    if not commit or not isinstance(found, dict):
        return
    dirty = "+changes" if git(root, "status", "--porcelain", "--", "src") else ""
    made = {"commit": f"{commit}{dirty}", **{name: value for name, value in found.items() if name != "commit"}}
    result.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(root: Path = HERE.parent) -> int:
    """Print the stale results, each with the newest change; the exit status is 1 if there are any."""
    if not git(root, "rev-parse", "HEAD"):
        print("not a git repository: no commit to compare with", file=sys.stderr)
        return 2
    stale = 0
    for name, measures in MEASURES.items():
        result = root / "benchmarks" / "results" / f"{name}.json"
        commit = measured_at(root, result) if result.exists() else ""
        if not commit:
            print(f"{name}: no committed result")
            stale += 1
        elif changes := changes_since(root, commit, name, measures):
            often = "once" if len(changes) == 1 else f"{len(changes)} times"
            print(f"{name}: measured at {commit[:10]}; changed {often} since, last in {changes[0]}")
            stale += 1
    print(f"{stale} of {len(MEASURES)} results are older than what they measure", file=sys.stderr)
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main())
