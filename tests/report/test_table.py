"""Tables as text, Markdown and CSV: aligned, escaped, quoted, and nothing cut off."""

import csv
import io
import re
from operator import itemgetter

from hypothesis import given
from hypothesis import strategies as st

from perstep.report import Column, Table, to_csv, to_markdown, to_text
from perstep.report.format import as_markdown, bar
from perstep.report.table import interval_columns, time_column, to_records

PARTS = [("embed", 1230.0, 0.05), ("attn.softmax", 12_340.0, 0.2), ("residual", 100.0, "")]
COLUMNS = [
    Column("part", itemgetter(0), name="part", words=True),
    time_column("", itemgetter(1), ("µs", 1e3), per="/step", name="ns_per_step"),
    Column("", itemgetter(2), bar, words=True),
]
TABLE = Table(
    title="decode: mini",
    columns=COLUMNS,
    records=PARTS,
    notes=["overhead 1.0 %"],
    rule_before=frozenset({2}),
)


def _words(*names: str) -> list[Column[list[str]]]:
    """Columns of words, by their place in a row."""
    return [Column(name, itemgetter(place), name=name, words=True) for place, name in enumerate(names)]


def test_text_is_aligned() -> None:
    """Words to the left, numbers to the right; the title above, notes below, no space at the ends."""
    assert to_text(TABLE).split("\n") == [
        "decode: mini",
        "part           µs/step",
        "─────────────────────────────",
        "embed             1.23   █",
        "attn.softmax      12.3   ████",
        "",
        "residual         0.100",
        "overhead 1.0 %",
        "",
    ]


def test_text_is_never_cut_off_or_interpreted() -> None:
    """Names of up to 10,000 characters and with any brackets are shown as they are."""
    names = ["m" * 3_000, "[bold]not bold[/bold]", ":smile:", "größer 模型"]
    text = to_text(Table("t", _words("run", "n"), [[name, "1"] for name in names]))
    for name in names:
        assert name in text
    assert "\x1b" not in text


def test_markdown_has_a_ruler_that_aligns() -> None:
    """Numbers to the right; notes are paragraphs."""
    assert to_markdown(TABLE).split("\n") == [
        "**decode: mini**",
        "",
        "| part | µs/step |  |",
        "| --- | ---: | --- |",
        "| embed | 1.23 | █ |",
        "| attn.softmax | 12.3 | ████ |",
        "| residual | 0.100 |  |",
        "",
        "overhead 1.0 %",
        "",
    ]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=4))
def test_a_markdown_row_has_its_cells_whatever_they_hold(cells: list[str]) -> None:
    """A bar inside a cell is escaped, a line end becomes a space."""
    markdown = to_markdown(Table("t", _words(*(f"c{index}" for index in range(len(cells)))), [cells]))
    row = markdown.split("\n")[4]
    assert len(re.findall(r"(?<!\\)\|", row)) == len(cells) + 1
    assert row == "| " + " | ".join(as_markdown(cell.replace("\n", " ").replace("|", r"\|")) for cell in cells) + " |"


def test_csv_is_quoted_by_rfc_4180() -> None:
    """Commas, quotes and line ends are quoted, None is an empty field, lines end in a newline alone."""
    text = to_csv(_words("part", "ns", "note"), [['say "a, b"', 1.5, None], ["two\nlines", 2, "ü"]])
    assert text == 'part,ns,note\n"say ""a, b""",1.5,\n"two\nlines",2,ü\n'


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), min_size=2, max_size=2)))
def test_csv_is_read_back_as_it_was(rows: list[list[str]]) -> None:
    """By any reader of CSV; a carriage return alone is excepted, Python's writer does not quote it."""
    text = to_csv(_words("a", "b"), rows)
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["a", "b"], *rows]


def test_a_cell_is_rounded_and_a_file_is_not() -> None:
    """The header has the unit of the cells, the name that of the values; a bar without a name is in no file."""
    assert TABLE.header == ["part", "µs/step", ""]
    assert TABLE.rows[1][:2] == ["attn.softmax", "12.3"]
    assert to_csv(COLUMNS, PARTS) == "part,ns_per_step\nembed,1230.0\nattn.softmax,12340.0\nresidual,100.0\n"
    assert to_records(COLUMNS, PARTS)[0] == {"part": "embed", "ns_per_step": 1230.0}


def test_an_interval_is_one_column_of_a_table_and_two_of_a_file() -> None:
    """A dash where it is missing, nothing where there can be none."""
    columns = interval_columns(itemgetter(0), ("µs", 1e3))
    rows = [((1_000.0, 2_500.0),), ((None, None),), ("",)]
    table = Table("t", columns, rows)
    assert table.header == ["95 % interval (µs)"]
    assert table.rows == [["[1.00, 2.50]"], ["–"], [""]]
    assert to_csv(columns, rows) == "ci_low_ns,ci_high_ns\n1000.0,2500.0\n,\n,\n"


def test_an_optional_column_is_shown_where_a_row_has_a_value() -> None:
    """Files keep it; a 0 is a value."""
    columns = [Column("n", itemgetter(0), name="n"), Column("syncs", itemgetter(1), name="syncs", optional=True)]
    assert Table("t", columns, [(1, None), (2, "")]).header == ["n"]
    assert Table("t", columns, [(1, None), (2, 0)]).rows == [["1", "–"], ["2", "0"]]
    assert to_csv(columns, [(1, None)]) == "n,syncs\n1,\n"


def test_a_list_is_items_with_spaces_in_csv() -> None:
    """So that one field holds it."""
    assert to_csv([Column(None, itemgetter(0), name="blocks")], [([0, 2],)]) == "blocks\n0 2\n"


def test_a_long_cell_hides_no_other_row() -> None:
    """A damaged run may have a name of a million characters."""
    text = to_text(
        Table(
            "t",
            [Column("a", itemgetter(0), words=True), Column("b", itemgetter(1))],
            [("x" * 1_000_000, 1), ("other", 2)],
        )
    )
    assert len(text) < 100_000
    assert [line.split()[-1] for line in text.splitlines()[-2:]] == ["1", "2"]
