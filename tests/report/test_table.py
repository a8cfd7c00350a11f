"""Tables as text, Markdown and CSV: aligned, escaped, quoted, and nothing cut off."""

import csv
import io
import re

from hypothesis import given
from hypothesis import strategies as st

from perstep.report import Table, to_csv, to_markdown, to_text
from perstep.report.format import as_markdown

TABLE = Table(
    title="decode: mini",
    header=["part", "µs/step", ""],
    rows=[["embed", "1.23", "█"], ["attn.softmax", "12.3", "████"], ["residual", "0.100", ""]],
    text_columns=frozenset({0, 2}),
    notes=["overhead 1.0 %"],
    rule_before=frozenset({2}),
)


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
    text = to_text(Table("t", ["run", "n"], [[name, "1"] for name in names]))
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
    markdown = to_markdown(Table("t", [f"c{index}" for index in range(len(cells))], [cells]))
    row = markdown.split("\n")[4]
    assert len(re.findall(r"(?<!\\)\|", row)) == len(cells) + 1
    assert row == "| " + " | ".join(as_markdown(cell.replace("\n", " ").replace("|", r"\|")) for cell in cells) + " |"


def test_csv_is_quoted_by_rfc_4180() -> None:
    """Commas, quotes and line ends are quoted, None is an empty field, lines end in a newline alone."""
    text = to_csv(["part", "ns", "note"], [['say "a, b"', 1.5, None], ["two\nlines", 2, "ü"]])
    assert text == 'part,ns,note\n"say ""a, b""",1.5,\n"two\nlines",2,ü\n'


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), min_size=2, max_size=2)))
def test_csv_is_read_back_as_it_was(rows: list[list[str]]) -> None:
    """By any reader of CSV; a carriage return alone is excepted, Python's writer does not quote it."""
    text = to_csv(["a", "b"], [list(row) for row in rows])
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["a", "b"], *rows]


def test_a_long_cell_hides_no_other_row() -> None:
    """A damaged run may have a name of a million characters."""
    text = to_text(Table("t", ["a", "b"], [["x" * 1_000_000, "1"], ["other", "2"]]))
    assert len(text) < 100_000
    assert [line.split()[-1] for line in text.splitlines()[-2:]] == ["1", "2"]
