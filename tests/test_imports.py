"""Imports have no cycle, those for types and those in functions included."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"


def modules(source: Path) -> dict[str, Path]:
    """Every module by name; a package is its `__init__`."""
    names = {path: ".".join(path.relative_to(source).with_suffix("").parts) for path in source.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Module and name of each import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def imports_of(source: Path) -> dict[str, set[str]]:
    """What each module imports of the others; a name that a package hands on counts as the package."""
    known = modules(source)
    graph = {}
    for name, path in known.items():
        found = imported(ast.parse(path.read_text(encoding="utf-8")))
        named = {f"{module}.{what}" if f"{module}.{what}" in known else module for module, what in found}
        graph[name] = (named & known.keys()) - {name}
    return graph


def test_no_module_imports_itself_by_a_detour() -> None:
    """The message names the detour."""
    graph = imports_of(SOURCE)
    assert len(graph) > 300
    tuple(TopologicalSorter(graph).static_order())


def test_a_cycle_is_found_wherever_it_hides(tmp_path: Path) -> None:
    """One import for types, one in a function."""
    (tmp_path / "one.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from two import Two\n")
    (tmp_path / "two.py").write_text("def later():\n    import one\n")
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(imports_of(tmp_path)).static_order())
