"""The lines of a script that change, as a unified diff. Nothing is ever written to the script.

The generate call is found in the syntax tree by its line; a processor is replaced where the call lists it itself. What
is put together elsewhere (a variable, a function, `**kwargs`) is left to the person: then there is no diff.
"""

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perstep.experiments.fix.capture import REMOVED


@dataclass
class Edit:
    """What changes in one generate call.

    Attributes:
        line: of the call.
        lengths: how many processors and criteria the call had, by argument.
        replaced: argument -> place in its list -> what stands there from now on.
        added: argument -> what follows in its list.
        settings: arguments that change, or are REMOVED.
    """

    line: int
    lengths: Mapping[str, int]
    replaced: dict[str, dict[int, str]] = field(default_factory=dict)
    added: dict[str, list[str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def diff(path: Path, edits: Sequence[Edit]) -> str | None:
    """The unified diff that makes these edits; None where the script is not written so that they can be made."""
    before = after = path.read_text(encoding="utf-8")
    for edit in sorted(edits, key=lambda one: -one.line):  # from the end, so that lines before stay where they are
        edited = _edited(after, edit)
        if edited is None:
            return None
        after = edited
    old, new = before.splitlines(keepends=True), _with_imports(after).splitlines(keepends=True)
    name = path.as_posix().lstrip("/")
    return "".join(difflib.unified_diff(old, new, f"a/{name}", f"b/{name}"))


def _edited(source: str, edit: Edit) -> str | None:
    call = _call_at(ast.parse(source), edit.line)
    if call is None:
        return None
    text = _Text(source)
    keywords = {one.arg: one for one in call.keywords if one.arg}
    for argument in sorted({*edit.replaced, *edit.added}):
        replaced, added = edit.replaced.get(argument, {}), edit.added.get(argument, [])
        if argument not in keywords:
            if replaced:
                return None
            text.insert(_end_of_arguments(call), f", {argument}=[{', '.join(added)}]")
            continue
        items = _items(keywords[argument].value)
        if items is None or len(items.elts) != edit.lengths[argument]:
            return None
        for index, new in replaced.items():
            text.replace(items.elts[index], new)
        if added and items.elts:
            last = items.elts[-1]
            text.insert((last.end_lineno, last.end_col_offset), f", {', '.join(added)}")
        elif added:
            text.replace(items, f"[{', '.join(added)}]")
    for name, value in edit.settings.items():
        if name in keywords:
            text.replace(keywords[name].value, "None" if value is REMOVED else repr(value))
        elif value is not REMOVED:
            text.insert(_end_of_arguments(call), f", {name}={value!r}")
    return text.result()


def _call_at(tree: ast.AST, line: int) -> ast.Call | None:
    """The innermost call of something named generate, or of anything, that covers the line."""
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "generate"
    ]
    return min(found, key=lambda node: (node.end_lineno or 0) - node.lineno, default=None)


def _items(value: ast.expr) -> ast.List | None:
    """The list that an argument is written as, in `LogitsProcessorList([...])` too; None if it is not."""
    if isinstance(value, ast.Call) and len(value.args) == 1:
        value = value.args[0]
    starred = isinstance(value, ast.List) and any(isinstance(one, ast.Starred) for one in value.elts)
    return value if isinstance(value, ast.List) and not starred else None


def _end_of_arguments(call: ast.Call) -> tuple[int | None, int | None]:
    """Where the last argument of a call ends."""
    ends = [(node.end_lineno, node.end_col_offset) for node in [*call.args, *(one.value for one in call.keywords)]]
    return max(
        ends, key=lambda end: (end[0] or 0, end[1] or 0), default=(call.end_lineno, (call.end_col_offset or 1) - 1)
    )


class _Text:
    """A source with replacements, made all at once so that places stay true."""

    def __init__(self, source: str) -> None:
        self._data = source.encode()  # the syntax tree counts bytes
        lines = source.encode().splitlines(keepends=True)
        self._starts = [sum(map(len, lines[:index])) for index in range(len(lines) + 1)]
        self._changes: list[tuple[int, int, str]] = []

    def _at(self, line: int | None, column: int | None) -> int:
        return self._starts[(line or 1) - 1] + (column or 0)

    def replace(self, node: ast.expr, new: str) -> None:
        """Put `new` where an expression stands."""
        start, end = self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)
        self._changes.append((start, end, new))

    def insert(self, place: tuple[int | None, int | None], new: str) -> None:
        """Put `new` at a place, which is a line and a column in bytes."""
        at = self._at(*place)
        self._changes.append((at, at, new))

    def result(self) -> str:
        """The source with all changes."""
        data = self._data
        for start, end, new in sorted(self._changes, key=lambda change: change[:2])[::-1]:
            data = data[:start] + new.encode() + data[end:]
        return data.decode()


def _with_imports(source: str) -> str:
    """The source with `import perstep` and `import transformers` before its first import, where they are needed."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
    }
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    missing = [name for name in ("perstep", "transformers") if name in names - imported]
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    plain = [node for node in imports if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")]
    if not missing:
        return source
    lines = source.splitlines(keepends=True)
    at = plain[0].lineno - 1 if plain else (imports[-1].end_lineno or 1 if imports else 0)
    lines[at:at] = [f"import {name}\n" for name in missing]
    return "".join(lines)
