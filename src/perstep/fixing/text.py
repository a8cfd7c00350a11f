"""A Python source with replacements that are made all at once, so that the places of the syntax tree stay true."""

import ast
import io
import tokenize
from collections.abc import Iterable


class Text:
    """A source and what is to change in it.

    Args:
        source: Python source, whose syntax tree gives the places.
    """

    def __init__(self, source: str) -> None:
        self._data = source.encode()  # the syntax tree counts bytes
        self._starts = [0]
        for line in self._data.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._changes: list[tuple[int, int, str]] = []
        self._grown: set[int] = set()  # places behind which arguments were added

    def indent(self, statement: ast.stmt) -> str | None:
        """The white space before a statement on its line; None if something else stands there."""
        before = self._data[self._at(statement.lineno, 0) : self._at(statement.lineno, statement.col_offset)].decode()
        return None if before.strip() else before

    def of(self, node: ast.expr) -> str:
        """An expression as it is written, on one line where it may be."""
        start, end = self._span(node)
        written = self._data[start:end].decode()
        return ast.unparse(node) if "\n" in written else written

    def replace(self, node: ast.expr, new: str) -> None:
        """Put `new` where an expression stands."""
        self._changes.append((*self._span(node), new))

    def before(self, node: ast.expr | ast.stmt, new: str) -> None:
        """Put `new` before an expression or a statement."""
        start = self._span(node)[0]
        self._changes.append((start, start, new))

    def after(self, node: ast.expr, new: str) -> None:
        """Put `new` behind an expression."""
        end = self._span(node)[1]
        self._changes.append((end, end, new))

    def add_argument(self, call: ast.Call, new: str) -> None:
        """Put an argument behind the last one of a call: on a line of its own where that one has its own."""
        start, end = self._span(call)
        last, comma = _last_token(self._data[start : end - 1].decode())
        place = start + last
        more = place in self._grown
        self._grown.add(place)
        line = self._data[place:end].split(b"\n")[0]
        indent = self._indent(call)
        if indent is None or place + len(line) >= end:  # one line, or the bracket stands on the last one
            inline = " " if indent is None else f"\n{indent}"
            opened = not call.args and not call.keywords and not more
            self._changes.append((place, place, new if opened else f"{'' if comma and not more else ','}{inline}{new}"))
            return
        if not comma and not more:
            self._changes.append((place, place, ","))
        behind = place + len(line.rstrip(b"\r"))
        returned = "\r" if line.endswith(b"\r") else ""
        before = "," if more and not comma else ""
        self._changes.append((behind, behind, f"{before}{returned}\n{indent}{new}{',' if comma else ''}"))

    def _indent(self, call: ast.Call) -> str | None:
        """What stands before the last argument of a call on its line, if that is white space alone."""
        places = [(one.lineno, one.col_offset) for one in call.args]
        places += [(one.lineno, one.col_offset) for one in call.keywords]
        line, column = max(places, default=(call.lineno, 0))
        before = self._data[self._at(line, 0) : self._at(line, column)].decode()
        return None if before.strip() or line == call.lineno else before

    def result(self) -> str:
        """The source with all changes; those at one place stand in the order in which they were made."""
        pieces, at = [], 0
        for start, end, new in sorted(self._changes, key=lambda change: change[:2]):
            pieces += [self._data[at:start].decode(), new]
            at = end
        return "".join([*pieces, self._data[at:].decode()])

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _at(self, line: int | None, column: int | None) -> int:
        return self._starts[(line or 1) - 1] + (column or 0)


def _last_token(call: str) -> tuple[int, bool]:
    """Where the last token of a call without its bracket ends, in bytes, and whether it is a comma."""
    skipped = (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.ENDMARKER)
    last, lines = ((1, 0), ""), call.splitlines(keepends=True)
    try:
        for token in tokenize.generate_tokens(io.StringIO(call).readline):
            if token.type not in skipped:
                last = token.end, token.string
    except tokenize.TokenError:
        pass  # the bracket that is left out
    (row, column), text = last
    return len("".join([*lines[: row - 1], lines[row - 1][:column]]).encode()), text == ","


def with_imports(source: str, names: Iterable[str] = ("perstep", "transformers")) -> str:
    """The source with `import perstep` and `import transformers` where they are used and not imported.

    They stand before the first import of torch or transformers (what is set before that must still count), else before
    the first import, after the docstring and after those of `__future__`.
    """
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
    }
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    missing = [name for name in names if name in used - imported]
    if not missing:
        return source
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    plain = [node for node in imports if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")]
    heavy = [node for node in plain if _roots(node) & {"torch", "transformers"}]
    lines = source.split("\n")
    end = "\r" if lines[0].endswith("\r") else ""
    first = (heavy or plain)[:1]
    at = first[0].lineno - 1 if first else _behind_beginning(tree, imports)
    lines[at:at] = [f"import {name}{end}" for name in missing]
    return "\n".join(lines)


def _roots(node: ast.Import | ast.ImportFrom) -> set[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return {name.split(".")[0] for name in names}


def _behind_beginning(tree: ast.Module, imports: list[ast.Import | ast.ImportFrom]) -> int:
    """The line behind the docstring and the imports of `__future__` of a source that has no others."""
    if imports:
        return imports[-1].end_lineno or 1
    has_docstring = ast.get_docstring(tree, clean=False) is not None
    return tree.body[0].end_lineno or 1 if has_docstring and tree.body else 0
