"""Tables: rows under columns, shown as text or Markdown, and written as CSV or JSON.

A column is specified once, as `Column`: what stands over it, what it says of a row, how a cell shows that, and its name
in files. Cells are made for people, with no more digits than mean something; a file has the values themselves.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter, itemgetter
from textwrap import fill
from typing import Any, Generic, Literal, TypeVar

from perstep._json import Json
from perstep._shown import html
from perstep.report.format import as_markdown, bar, interval, plural, printable, significant

Output = Literal["table", "md", "json", "csv"]
"""How a command shows its tables."""
Value = Any
"""What a column takes from a row: `form` knows its type."""
AnyRow = Any
"""A row of a table whose rows have a type of their own."""
Row = TypeVar("Row")
Holder = TypeVar("Holder")
Ends = tuple[float | None, float | None]
"""The ends of an interval; None where there are too few rounds for one."""
Unit = tuple[str, float]
"""A unit's name and its size in that of the values, as `time_unit` gives it."""

ABSENT = ""
"""The value of a row of which a column says nothing."""
MISSING = "–"
"""The cell of a value that is None: there might have been one."""
_NO_LIMIT = 100_000
_MOST_CHARACTERS = 10_000
_BELONGS = ("95 % interval", "90 % interval", "own rounds", "verdict")
_LEAST_WORDS, _GAP = 24, 3
"""Characters of a broken column of words at least, and those between two columns."""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column.

    Attributes:
        header: what stands over it, without the unit; None if only files have the column.
        value: what it says of a row, unrounded, in the unit that `name` ends with; None where it is missing, and
            `ABSENT` where there is nothing to say.
        form: a value that is not a word -> its cell.
        name: in CSV and JSON; empty if only tables have the column.
        unit: of the cells.
        words: whether it is set to the left; numbers are set to the right.
        optional: whether it is left out of a table in which no row has a value.
        absent: the cell of a row of which it has nothing to say.
        drop: when a narrow terminal leaves it out: those with 1 first, then those with 2; 0 for never.
    """

    header: str | None
    value: Callable[[Row], Value]
    form: Callable[[Value], str] = str
    name: str = ""
    unit: str = ""
    words: bool = False
    optional: bool = False
    absent: str = ABSENT
    drop: int = 0

    @property
    def heading(self) -> str:
        """The header with the unit: `95 % interval (µs)`, or `µs/step` alone."""
        return f"{self.header} ({self.unit})" if self.header and self.unit else self.header or self.unit

    def cell(self, row: Row) -> str:
        """What a table shows of a row."""
        value = self.value(row)
        if value is None:
            return MISSING
        return (value or self.absent) if isinstance(value, str) else self.form(value)


def in_files(*names: str) -> list[Column[AnyRow]]:
    """Columns that only files have: the attributes of a row with these names."""
    return [Column(None, attrgetter(name), name=name) for name in names]


def places(*names: str) -> list[Column[AnyRow]]:
    """Columns that only files have: the items of a row, under these names."""
    return [Column(None, itemgetter(place), name=name) for place, name in enumerate(names)]


def within(columns: Sequence[Column[Row]], of: Callable[[Holder], Row]) -> list[Column[Holder]]:
    """The columns of a row for what holds that row: `of` takes it out."""

    def taken(value: Callable[[Row], Value]) -> Callable[[Holder], Value]:
        return lambda holder: value(of(holder))

    return [replace(column, value=taken(column.value)) for column in columns]  # type: ignore[arg-type, misc]


def time_column(
    header: str,
    ns: Callable[[Row], float | str | None],
    unit: Unit,
    *,
    per: str = "",
    name: str = "",
    digits: int = 3,
    optional: bool = False,
    drop: int = 0,
) -> Column[Row]:
    """A column of durations, in nanoseconds in files.

    Args:
        header: what stands over it, without the unit.
        ns: the duration of a row.
        unit: of the cells.
        per: of what it is a duration, such as `/step`.
        name: in files.
        digits: significant ones of a cell.
        optional: as in `Column`.
        drop: as in `Column`.
    """
    word, size = unit
    return Column(
        header, ns, lambda value: significant(value / size, digits), name, word + per, optional=optional, drop=drop
    )


def bar_column(share: Callable[[Row], float | str]) -> Column[Row]:
    """A share as a bar, which a narrow terminal leaves out first; files have the share itself."""
    return Column("", lambda row: value if isinstance(value := share(row), float) else ABSENT, bar, words=True, drop=1)


def interval_columns(
    ends: Callable[[Row], Ends | str],
    unit: Unit = ("", 1.0),
    *,
    header: str = "95 % interval",
    names: tuple[str, str] | None = ("ci_low_ns", "ci_high_ns"),
    form: Callable[[Ends], str] | None = None,
) -> list[Column[Row]]:
    """An interval: one column of a table, two of a file.

    Args:
        ends: of the interval of a row.
        unit: of the cells.
        header: what stands over it, without the unit.
        names: of its ends in files; None if files do not have it.
        form: the ends -> the cell; three digits in the unit if None.
    """

    def end(place: int) -> Callable[[Row], float | str | None]:
        return lambda row: both if isinstance(both := ends(row), str) else both[place]

    word, size = unit
    shown: Column[Row] = Column(header, ends, form or (lambda both: interval(both[0], both[1], size)), unit=word)
    return [shown, *(Column[Row](None, end(place), name=name) for place, name in enumerate(names or ()))]


@dataclass(frozen=True, repr=False)
class Table:
    """A titled table.

    Attributes:
        title: what it shows.
        columns: those that only files have are left out when it is shown.
        records: the rows, of the kind that the columns take.
        notes: sentences under the table.
        rule_before: indices of rows above which a line is drawn.
    """

    title: str
    columns: Sequence[Column[AnyRow]]
    records: Sequence[AnyRow]
    notes: list[str] = field(default_factory=list)
    rule_before: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"<Table {self.title!r}: {plural(len(self.records), 'row')}, {plural(len(self.shown), 'column')}>"

    def _repr_html_(self) -> str | None:
        return html(self)

    @property
    def shown(self) -> list[Column[AnyRow]]:
        """The columns that it has when it is shown."""

        def is_empty(column: Column[AnyRow]) -> bool:
            return all(column.value(row) in (None, ABSENT) for row in self.records)

        visible = [column for column in self.columns if column.header is not None]
        return [column for column in visible if not (column.optional and is_empty(column))]

    @property
    def header(self) -> list[str]:
        """What stands over the columns."""
        return [column.heading for column in self.shown]

    @property
    def rows(self) -> list[list[str]]:
        """The cells, a list a row."""
        shown = self.shown
        return [[column.cell(row) for column in shown] for row in self.records]


def to_text(table: Table, width: int | None = None) -> str:
    """The table for a terminal, with aligned columns.

    Args:
        table: what is shown.
        width: characters of a line; None for as many as the content takes. Columns that may be dropped are dropped
            until the table fits. Then it is continued below itself, each piece with the first column. Only a number
            with its interval and verdict may be wider.
    """
    if width is None:
        return printable("\n".join([table.title, *_grid(table), *table.notes])) + "\n"
    left_out: list[str] = []
    needed = _needed(table)
    for rank in sorted({column.drop for column in table.shown if column.drop}):
        if needed(table.shown) > width:
            left_out += [column.heading for column in table.shown if column.drop == rank and column.heading]
            table = replace(table, columns=[column for column in table.columns if column.drop != rank])
    notes = list(table.notes)
    if left_out:
        notes.append(
            f"Left out to fit {width} characters: {', '.join(left_out)}. A wider terminal and -o md show them."
        )
    pieces = ["\n".join(_grid(piece, width)) for piece in _pieces(table, width, needed)]
    texts = [
        "\n".join(fill(printable(line), width, break_on_hyphens=False) for line in text.split("\n"))
        for text in (table.title, *notes)
    ]
    return printable("\n".join([texts[0], "\n\n".join(pieces), *texts[1:]])) + "\n"


def _pieces(table: Table, width: int, needed: Callable[[Sequence[Column[AnyRow]]], int]) -> list[Table]:
    """The columns in pieces that fit, each with the first column; an interval and a verdict stay with their number."""
    first, *others = table.shown
    groups: list[list[Column[AnyRow]]] = []
    for column in others:
        if groups and (column.header or "").startswith(_BELONGS):
            groups[-1].append(column)
        else:
            groups.append([column])
    pieces = [[first, *(groups[0] if groups else [])]]
    for group in groups[1:]:
        if needed([*pieces[-1], *group]) <= width:
            pieces[-1] += group
        else:
            pieces.append([first, *group])
    return [replace(table, columns=columns) for columns in pieces]


def _needed(table: Table) -> Callable[[Sequence[Column[AnyRow]]], int]:
    """How many characters some of the shown columns take beside one another."""
    widths = dict(zip(table.shown, _widths(table), strict=True))
    return lambda columns: sum(widths[column] for column in columns) + _GAP * (len(columns) - 1)


def _widths(table: Table) -> list[int]:
    """The characters that each shown column takes; a Chinese one counts as two."""
    from rich.cells import cell_len

    lines = [[printable(heading) for heading in table.header], *_cells(table)]
    return [max(map(cell_len, column)) for column in zip(*lines, strict=True)]


def _cells(table: Table) -> list[list[str]]:
    """The cells as a terminal shows them, a list a row."""
    return [[printable(_short(cell)) for cell in row] for row in table.rows]


def _grid(table: Table, width: int | None = None) -> list[str]:
    """Header and rows as lines; if they are wider than `width`, cells of words are broken to fit if that is enough."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=None)
    widths = _widths(table)
    broken = [width is not None and column.words for column in table.shown]
    least = [min(widest, _LEAST_WORDS) if breaks else widest for widest, breaks in zip(widths, broken, strict=True)]
    for column, widest, smallest in zip(table.shown, widths, least, strict=True):
        grid.add_column(
            printable(column.heading),
            justify="left" if column.words else "right",
            no_wrap=smallest == widest,
            overflow="fold",
            min_width=smallest,
        )
    for index, row in enumerate(_cells(table)):
        if index in table.rule_before:
            grid.add_section()
        grid.add_row(*row)
    buffer = io.StringIO()
    most = _NO_LIMIT if width is None else max(width, sum(least) + _GAP * (len(least) - 1))
    console = Console(file=buffer, width=most, color_system=None, markup=False, highlight=False, emoji=False)
    console.print(grid)
    return [line.rstrip() for line in buffer.getvalue().rstrip("\n").split("\n")]


def _short(cell: str) -> str:
    """A cell on one line; a name of a million characters would push every other row out of the table."""
    line = " ".join(cell.split("\n"))
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}…"


def to_markdown(table: Table) -> str:
    """The table for an issue, a pull request or a README."""

    def row(cells: list[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split("\n")).replace("|", "\\|") for cell in cells) + " |"

    ruler = ["---" if column.words else "---:" for column in table.shown]
    lines = [f"**{table.title}**", "", row(table.header), row(ruler), *(row(cells) for cells in table.rows)]
    for note in table.notes:
        lines += ["", note]
    return as_markdown("\n".join(lines)) + "\n"


def to_records(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> list[dict[str, Json]]:
    """Rows as JSON has them: name -> value, of the columns that have a name."""
    return [{column.name: column.value(row) for column in columns if column.name} for row in rows]


def to_csv(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> str:
    """Rows as CSV: the columns that have a name; quoted by RFC 4180, lines ended by a newline alone.

    A list is written as its items with spaces between them.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(column.name for column in columns if column.name)
    for record in to_records(columns, rows):
        writer.writerow(" ".join(map(str, one)) if isinstance(one, list) else one for one in record.values())
    return buffer.getvalue()
