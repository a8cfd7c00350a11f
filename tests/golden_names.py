"""Show that the stored runs' results differ from those of a revision by names alone.

Usage: `python tests/golden_names.py REVISION`.

`golden/names.json` says, for each experiment, what became of a path of `results.json`: old path -> new path, and a list
`added` of paths that had no old name. A star in a path stands for any key or index. `golden/words.json`: old ->
new words of sentences. Every other path and every value must be as it was.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, word and empty container with its path; keys are separated by slashes."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not items or value in ({}, []):
        yield path, value
    for key, below in items:
        yield from leaves(below, f"{path}/{str(key).replace('/', '|')}")


def renamed(path: str, names: dict[str, str]) -> str:
    """A path under the map; the stars of the new path stand for what those of the old one matched."""
    for old, new in names.items():
        match = re.fullmatch(re.escape(old).replace(r"\*", "([^/]+)"), path)
        if match:
            return new.replace("*", "{}").format(*match.groups())
    return path


def reworded(value: Any, words: dict[str, str]) -> Any:
    """A sentence under the map; any other value as it is."""
    for old, new in words.items() if isinstance(value, str) else ():
        value = value.replace(old, new)
    return value


def alike(old: Any, new: Any) -> bool:
    """Equal, or numbers that differ by the rounding of a subtraction."""
    numbers = isinstance(old, float) and isinstance(new, float)
    return bool(old == new or (numbers and abs(old - new) < 1e-12))


def turned(path: str, value: Any) -> Any:
    """An `inflation` became an `overhead` and the ratio of a mask's arm a change: the factor less 1."""
    factor = "/inflation" in path or re.search("/arms/[^/]+/ratio", path)
    return value - 1 if factor and value is not None else value


def differences(old: Any, new: Any, names: dict[str, Any], words: dict[str, str]) -> list[str]:
    """What the map does not explain, one line each."""
    moves = {name: to for name, to in names.items() if name != "added"}
    added = re.compile("|".join(re.escape(one).replace(r"\*", "[^/]+") for one in names.get("added", [])) or "-")
    before = {renamed(path, moves): turned(path, reworded(value, words)) for path, value in leaves(old)}
    after = {path: value for path, value in leaves(new) if path in before or not added.fullmatch(path)}
    return [
        f"{path}: {before.get(path, 'nothing')} -> {after.get(path, 'nothing')}"
        for path in sorted(before.keys() | after.keys())
        if path not in before or path not in after or not alike(before[path], after[path])
    ]


def main(revision: str) -> int:
    """Compare every experiment; the exit status is 1 if anything is left."""
    names, words = (json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")) for name in ("names", "words"))
    left = []
    for path in sorted(GOLDEN.glob("*/results.json")):
        asked = ["git", "show", f"{revision}:./{path.parent.name}/results.json"]
        old = json.loads(subprocess.run(asked, cwd=GOLDEN, capture_output=True, check=True).stdout)
        new = json.loads(path.read_text(encoding="utf-8"))
        left += [f"{path.parent.name} {one}" for one in differences(old, new, names.get(path.parent.name, {}), words)]
    print("\n".join(left) or f"the results differ from those of {revision} by names.json and words.json alone")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
