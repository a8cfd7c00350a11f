"""Nothing in the package is unused, and no function is longer than a screen."""

import ast
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 60

BY_NAME = {
    "__getattr__": "Python calls it",
    "__dir__": "Python calls it",
    "build_memo": "named in automata.engines.ENGINES",
    "build_lazy": "named in automata.engines.ENGINES",
    "Axes": "named in quoted annotations",
}
"""Used where vulture cannot see it."""


def test_nothing_is_unused() -> None:
    """Functions, classes, methods, properties and imports; fields of structs are used by who reads a run.

    Commands are used by the table in `cli/app.py`, which names them.
    """
    vulture = Vulture()
    vulture.scavenge([str(ROOT / folder) for folder in ("src", "tests", "benchmarks", "docs", "training")])
    found = [
        f"{item.filename.relative_to(ROOT)}:{item.first_lineno} {item.typ} {item.name}"
        for item in vulture.get_unused_code(min_confidence=60)
        if ROOT / "src" in item.filename.parents
        and item.typ not in ("variable", "attribute")
        and item.name not in BY_NAME
        and item.filename.parent.name != "cli"
    ]
    assert found == []


def test_no_function_is_longer_than_a_screen() -> None:
    """Its docstring included."""
    long = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_LINES:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert long == []
