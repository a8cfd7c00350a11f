"""List results that are older than what they measure (`make stale`).

A result was measured at the commit that it names (`run.py` writes it there); one that names none, at the commit that
last changed it. It is stale if the code it measures, or the benchmark itself, changed after that commit. Docstrings,
comments and names of local variables are no code, and a file that was moved is no change.
"""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEASURES = {
    "aa": "stats measure experiments/compare",
    "ablation": "experiments/ablation targets/transformers stats",
    "between_runs": "stats stored",
    "big_run": "runs experiments/pipeline.py experiments/ledger",
    "cache_fits": "experiments/cache theory",
    "constrained": "fast automata targets/reference",
    "decode_loop": "fast",
    "depth": "experiments/knobs targets/block_mask.py targets/transformers/blocks.py",
    "dropins": "fast",
    "flops_vs_torch": "theory",
    "gate_self": "measure targets/transformers fast cli __init__.py",
    "jsonschema": "automata",
    "ledger_mini": "experiments/ledger measure targets/reference",
    "masks": "automata",
    "observer": "measure watching targets/transformers",
    "planted": "measure watching targets",
    "predict": "predicting theory sweeps/cell.py",
    "real_clock": "measure stats experiments/compare",
    "reference_vs_transformers": "targets/reference",
    "selftest": "selftest.py measure stats targets/reference",
    "slots": "fast",
    "statistics": "stats",
    "strangers": "watching targets",
    "sweeps": "sweeps",
    "theory_vs_measured": "theory machine experiments/bounds.py targets/reference",
    "torture": "runs sweeps predicting cli experiments/pipeline.py experiments/ledger",
    "validity": "automata targets/reference",
}
"""Result -> the rooms and modules of src/perstep that it measures."""
_SHOWN = 4
"""Files that are named."""


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


def changed_since(root: Path, commit: str, result: str, measures: str) -> tuple[list[str], int]:
    """The files that a result measures whose code was not there at its commit, and how many files there are."""
    paths = [*(f"src/perstep/{path}" for path in measures.split()), f"benchmarks/{result}.py"]
    before, now = (_blobs(root, at, paths) for at in (commit, "HEAD"))
    other = {path: blob for path, blob in now.items() if blob not in before.values()}
    _read(root, [*before.values(), *other.values()] if other else [])
    known = {code_of(blob) for blob in before.values()} if other else set()
    return [path for path, blob in other.items() if code_of(blob) not in known], len(now)


def _blobs(root: Path, commit: str, paths: list[str]) -> dict[str, str]:
    """Path -> the content of each Python file there, by its name in git."""
    listed = git(root, "ls-tree", "-r", "--format=%(objectname) %(path)", commit, "--", *paths).splitlines()
    return {path: blob for blob, _, path in (line.partition(" ") for line in listed) if path.endswith(".py")}


_TEXTS: dict[str, str] = {}
"""Content of files by its name in git."""


def _read(root: Path, blobs: list[str]) -> None:
    """Read what has not been read, all of it from one process."""
    asked = [blob for blob in dict.fromkeys(blobs) if blob not in _TEXTS]
    command = ["git", "cat-file", "--batch"]
    answer = subprocess.run(command, cwd=root, input="\n".join(asked).encode(), capture_output=True, check=True).stdout
    for blob in asked:
        head, _, answer = answer.partition(b"\n")
        size = int(head.rsplit(b" ", 1)[1])
        _TEXTS[blob], answer = answer[:size].decode(), answer[size + 1 :]


@cache
def code_of(blob: str) -> str:
    """What a file does: its syntax tree without docstrings and the names of local variables, or its text."""
    text = _TEXTS[blob]
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return text
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [one for one in node.body if not _is_text(one)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            _rename_locals(node)
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _rename_locals(function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Name local variables by the order in which they are first set."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    order = {name: f"local {place}" for place, name in enumerate(
        dict.fromkeys(node.id for node in names if isinstance(node.ctx, ast.Store))
    )}  # fmt: skip
    for node in names:
        node.id = order.get(node.id, node.id)


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
    """Print the stale results, each with the files that changed; the exit status is 1 if there are any."""
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
            continue
        changed, files = changed_since(root, commit, name, measures)
        if changed:
            shown = ", ".join(path.removeprefix("src/perstep/") for path in changed[:_SHOWN])
            more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
            print(f"{name}: measured at {commit[:10]}; other code in {len(changed)} of {files} files: {shown}{more}")
            stale += 1
    print(f"{stale} of {len(MEASURES)} results are older than what they measure", file=sys.stderr)
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main())
