"""Imports have no cycle, those for types and those in functions included."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from tests.sources import tree_of

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
        found = imported(tree_of(path))
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


ROOMS = sorted(path.parent for path in SOURCE.rglob("__init__.py"))


def private_imports(source: Path) -> list[str]:
    """Each import of a private module (`_x.py`) of another folder, as `file: module`."""
    graph = imports_of(source)
    paths = modules(source)
    return [
        f"{paths[name].relative_to(source)}: {other}"
        for name, found in graph.items()
        for other in found
        if other.rpartition(".")[2].startswith("_")
        and other.count(".") > 1  # perstep._version, _json and _words are for all
        and paths[name].parent != paths[other].parent
    ]


def test_a_private_module_is_imported_in_its_own_folder_alone() -> None:
    """Other rooms take its names from the folder's `__init__`."""
    assert private_imports(SOURCE) == []


def test_an_import_of_a_private_module_is_found(tmp_path: Path) -> None:
    """Its own folder may import it, another one may not."""
    for folder in ("one/deep", "two"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "one" / "__init__.py").touch()
    (tmp_path / "one" / "deep" / "_inner.py").write_text("x = 1\n")
    (tmp_path / "one" / "deep" / "beside.py").write_text("from one.deep._inner import x\n")
    (tmp_path / "two" / "other.py").write_text("def later():\n    from one.deep import _inner\n")
    assert private_imports(tmp_path) == ["two/other.py: one.deep._inner"]


def is_documented(tree: ast.Module, name: str) -> bool:
    """Whether a module says what one of its names is: a docstring, or for a value the text below it."""
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name and ast.get_docstring(node):
            return True
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return False


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(SOURCE)))
def test_every_name_that_a_room_hands_on_is_documented(room: Path) -> None:
    """Those of `__init__`, the lazy ones of `perstep` and `perstep.fast` included."""
    undocumented = []
    for module, name in imported(tree_of(room / "__init__.py")):
        home = SOURCE.joinpath(*module.split("."))
        path = home.with_suffix(".py") if home.with_suffix(".py").exists() else home / "__init__.py"
        if module.startswith("perstep") and name != "__version__" and path.exists():
            tree = tree_of(path)
            handed_on = any(alias == name for _, alias in imported(tree))
            if not handed_on and not is_documented(tree, name):
                undocumented.append(f"{module}.{name}")
    assert undocumented == []


def bare_any(tree: ast.Module) -> list[int]:
    """The lines in which `Any` is used, but for `Name = Any` with a text below it."""
    reasoned = {
        id(node.value)
        for node, after in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(node, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    quoted = [
        ast.parse(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant) and _is_type(node.value)
    ]
    return [
        getattr(node, "lineno", 0)
        for part in (tree, *quoted)
        for node in ast.walk(part)
        if isinstance(node, ast.Name) and node.id == "Any" and id(node) not in reasoned
    ]


def _is_type(value: object) -> bool:
    """Whether a text may be a quoted annotation with `Any` in it."""
    if not isinstance(value, str) or "Any" not in value or "\n" in value:
        return False
    try:
        return len(ast.parse(value).body) == 1
    except SyntaxError:
        return False


def test_any_has_a_name_and_a_reason() -> None:
    """`Any` stands only behind a name of its own, with the reason below it."""
    found = {
        str(path.relative_to(SOURCE)): lines
        for path in (SOURCE / "perstep").rglob("*.py")
        if (lines := bare_any(tree_of(path)))
    }
    assert found == {}


def test_a_bare_any_is_found() -> None:
    """In a signature, in quotes, and as a name without a reason."""
    text = 'Good = Any\n"""Why."""\nBad = Any\ndef f(x: Any, y: Good) -> "list[Any]": ...\n'
    assert sorted(bare_any(ast.parse(text))) == [1, 3, 4]
