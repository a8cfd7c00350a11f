"""Tables: made once, shown as text, Markdown or CSV.

Cells are strings, ready to read; numbers for machines are in `results.json`.
"""

import csv
import io
from dataclasses import dataclass, field
from typing import Literal

from perstep.report.format import as_markdown, printable

Output = Literal["table", "md", "json", "csv"]

_NO_LIMIT = 100_000
_MOST_CHARACTERS = 10_000


@dataclass(frozen=True)
class Table:
    """A titled table.

    Attributes:
        title: what it shows, with units where all columns share one.
        header: column names.
        rows: cells, one list a row.
        text_columns: indices of columns that are words, set to the left; all others to the right.
        notes: sentences under the table.
        rule_before: indices of rows above which a line is drawn.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    text_columns: frozenset[int] = frozenset({0})
    notes: list[str] = field(default_factory=list)
    rule_before: frozenset[int] = frozenset()


def to_text(table: Table) -> str:
    """The table for a terminal: columns aligned, as wide as their content."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=None)
    for column, name in enumerate(table.header):
        grid.add_column(printable(name), justify="left" if column in table.text_columns else "right", no_wrap=True)
    for index, row in enumerate(table.rows):
        if index in table.rule_before:
            grid.add_section()
        grid.add_row(*(printable(_short(cell)) for cell in row))
    buffer = io.StringIO()
    console = Console(file=buffer, width=_NO_LIMIT, color_system=None, markup=False, highlight=False, emoji=False)
    console.print(grid)
    lines = [table.title, *(line.rstrip() for line in buffer.getvalue().rstrip("\n").split("\n"))]
    return printable("\n".join([*lines, *table.notes])) + "\n"


def _short(cell: str) -> str:
    """A cell on one line; a name of a million characters would push every other row out of the table."""
    line = " ".join(cell.split("\n"))
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}…"


def to_markdown(table: Table) -> str:
    """The table for an issue, a pull request or a README."""

    def row(cells: list[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split("\n")).replace("|", "\\|") for cell in cells) + " |"

    ruler = ["---" if column in table.text_columns else "---:" for column in range(len(table.header))]
    lines = [f"**{table.title}**", "", row(table.header), row(ruler), *(row(cells) for cells in table.rows)]
    for note in table.notes:
        lines += ["", note]
    return as_markdown("\n".join(lines)) + "\n"


def to_csv(header: list[str], rows: list[list[object]]) -> str:
    """Rows as CSV, quoted by RFC 4180, lines ended by a newline alone."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()
