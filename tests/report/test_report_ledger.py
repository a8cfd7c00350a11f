"""A ledger as a table, a picture and a CSV: they add up, and equal ledgers give equal bytes."""

import csv
import io
import re
from collections.abc import Callable

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from perstep.measure import Ledger, LedgerSamples, build_ledger
from perstep.report import ledger as report_ledger
from perstep.report.ledger import BoundColumns, ledger_csv, ledger_png, ledger_table
from perstep.report.plot import draw_png, is_dark

pytestmark = pytest.mark.pictures


def made(
    kind: str,
    parts: dict[str, int],
    *,
    residual_ns: int = 900,
    rounds: int = 12,
    jitter: int = 3,
    plain_percent: int = 98,
) -> Ledger:
    """A ledger of twelve rounds, with intervals."""
    wobble = np.array([(-1) ** number * jitter for number in range(rounds)])[:, None, None]
    columns = {
        name: np.full((rounds, 2, 1), ns) + wobble * (index + 1) for index, (name, ns) in enumerate(parts.items())
    }
    residual = np.full((rounds, 2, 1), residual_ns)
    step = sum(columns.values(), start=residual)
    samples = LedgerSamples(step * plain_percent // 100, step, columns, residual, dict.fromkeys(parts, 1.0))
    return build_ledger(kind, samples, mark_ns=50)


PARTS = {"embed": 2_000, "attn.softmax": 40_000, "mlp": 70_000, "sample": 500}


def test_the_shown_column_adds_up_to_the_step() -> None:
    """Parts and residual, to the rounding of three digits."""
    table = ledger_table(made("decode", PARTS), title="t")
    assert table.header[1] == "µs/step"
    shown = {row[0]: float(row[1]) for row in table.rows}
    step = shown.pop("step (decode, instrumented)")
    headline = shown.pop("step (decode), uninstrumented")
    assert list(shown) == [*PARTS, "residual"]
    assert sum(shown.values()) == pytest.approx(step, abs=0.6)
    assert headline == pytest.approx(step * 0.98, abs=0.6)
    assert [row[2] for row in table.rows[:2]] == ["1.8 %", "35.3 %"]


def test_what_qualifies_a_ledger_stands_below_it() -> None:
    """Inflation with its interval, forwards, rounds, throughput, notes, and why it is invalid."""
    table = ledger_table(made("decode", PARTS), title="t", tokens_per_s=8_887.4)
    assert re.fullmatch(
        r"instrumentation overhead 2\.0 % \[2\.0, 2\.0\] · 1 forward a pass · 12 rounds"
        r" · 0\.8 % of all steps unattributed · 8887 tokens/s",
        table.notes[0],
    )
    assert "Marks make up more than 5% of: sample." in table.notes
    bad = made("decode", PARTS, plain_percent=50)
    assert any(note.startswith("INVALID: the instruments made the step") for note in ledger_table(bad, title="t").notes)


def test_a_ledger_without_intervals_shows_dashes() -> None:
    """Never an interval that is not one."""
    table = ledger_table(made("prefill", PARTS, rounds=3), title="t")
    assert [row[4] for row in table.rows] == ["–"] * 4 + ["", "", "–"]
    assert table.notes[0].startswith("instrumentation overhead not resolved · 1 forward a pass")


def test_the_csv_holds_the_numbers_of_the_picture() -> None:
    """A row a part and the residual, in full precision; a missing interval is empty."""
    decode, prefill = made("decode", PARTS), made("prefill", PARTS, rounds=3)
    rows = list(csv.DictReader(io.StringIO(ledger_csv([decode, prefill]))))
    assert [(row["kind"], row["part"]) for row in rows] == [
        (kind, part) for kind in ("decode", "prefill") for part in [*PARTS, "residual"]
    ]
    assert float(rows[1]["ns_per_step"]) == decode.parts["attn.softmax"].ns
    assert float(rows[1]["ci_low_ns"]) == decode.parts["attn.softmax"].ci_low
    assert sum(float(row["ns_per_step"]) for row in rows[:5]) == pytest.approx(decode.step_ns)
    assert rows[5]["ci_low_ns"] == rows[4]["ci_low_ns"] == ""


def test_equal_ledgers_give_equal_pictures() -> None:
    """Byte for byte, whatever the user has set in matplotlib; other data give another picture."""
    ledgers = [made("decode", PARTS), made("prefill", PARTS)]
    first = ledger_png(ledgers, subject="mini")
    with mpl.rc_context({"font.family": "serif", "axes.facecolor": "red", "savefig.dpi": 30, "font.size": 20}):
        settings = dict(mpl.rcParams)
        assert ledger_png(ledgers, subject="mini") == first
        assert dict(mpl.rcParams) == settings
    assert ledger_png(ledgers, subject="maxi") != first
    assert b"Software" not in first
    height, width, _ = matplotlib.image.imread(io.BytesIO(first), format="png").shape
    assert (width, height) == (1500, 735)


def test_bars_lie_end_to_end_and_fill_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the largest part to the smallest, then the residual; the axis ends in the title's first number."""
    drawn: list[tuple[list[tuple[float, float]], tuple[float, float]]] = []
    titles, last_ticks = [], []

    def look(width_in: float, height_in: float, draw: Callable[[Figure], None]) -> bytes:
        figure = Figure()
        draw(figure)
        for axes in figure.axes:
            bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches if isinstance(bar, Rectangle)]
            drawn.append((bars, axes.get_xlim()))
            titles.append(axes.get_title(loc="left"))
            last_ticks.append((axes.get_xticks()[-1], axes.get_xticklabels()[-1].get_text()))
        return b""

    monkeypatch.setattr(report_ledger, "draw_png", look)
    ledgers = [made("decode", PARTS), made("prefill", {name: 9 * ns for name, ns in PARTS.items()})]
    ledger_png(ledgers, subject="mini")
    for (bars, limits), ledger, unit in zip(drawn, ledgers, (1e3, 1e6), strict=True):
        widths = [width * unit for _, width in bars]
        assert widths == pytest.approx(
            [*sorted((part.ns for part in ledger.parts.values()), reverse=True), ledger.residual_ns]
        )
        assert [left for left, _ in bars] == pytest.approx([sum(widths[:i]) / unit for i in range(len(widths))])
        assert limits == pytest.approx((0, ledger.step_ns / unit))
    assert titles == [
        "mini: an instrumented decode step takes 113 µs, 111 µs without instruments; largest part mlp",
        "mini: an instrumented prefill step takes 1.01 ms, 993 µs without instruments; largest part mlp",
    ]
    assert last_ticks == [(pytest.approx(113.4), "113"), (pytest.approx(1.0134), "1.01")]


def test_names_are_drawn_as_they_are() -> None:
    """Dollar signs are no formula, a script that the font lacks is no warning, one part is enough."""
    ledger = made("decode", {"logits/$x_{$": 50_000, "模型": 40_000, "größer": 100})
    assert ledger_png([ledger], subject="$\\frac$ 模型").startswith(b"\x89PNG")
    assert ledger_png([made("decode", {"mlp": 1_000})], subject="").startswith(b"\x89PNG")


def test_a_part_without_time_and_a_residual_of_nothing_are_drawn() -> None:
    """Bars of no width."""
    assert ledger_png([made("decode", {"mlp": 1_000, "stop": 0}, residual_ns=0, jitter=0)], subject="m")


def test_ink_is_white_on_dark_colours() -> None:
    """So that a name inside a bar can be read."""
    assert is_dark("#1f3b5c")
    assert not is_dark("#f3d7a2")
    assert draw_png(1, 1, lambda figure: figure.text(0.5, 0.5, "x") and None) == draw_png(
        1, 1, lambda figure: figure.text(0.5, 0.5, "x") and None
    )


def test_bounds_are_columns_of_their_own() -> None:
    """Beside what was measured, never in it: a part without a formula has none, the step's stands in the headline."""
    ledger = made("decode", {"mlp": 40_000, "stop/X": 10_000})
    plain = ledger_table(ledger, title="t")
    bounds = BoundColumns({"mlp": 20_000.0}, {"mlp": "bandwidth@4 MB"}, 25_000.0)
    table = ledger_table(ledger, title="t", bounds=bounds)
    assert table.header == [*plain.header, "bound (µs)", "measured/bound", "bound by"]
    assert [row[:5] for row in table.rows] == plain.rows
    assert [row[5:] for row in table.rows] == [
        ["20.0", "2.00", "bandwidth@4 MB"],
        ["", "", ""],
        ["", "", ""],
        ["", "", ""],
        ["25.0", "2.00", ""],
    ]
    assert table.shown[-1].words


def test_a_withdrawn_bound_is_a_reason_and_no_number() -> None:
    """In the table and in the CSV, of a part and of the step; what is said of the bounds stands below."""
    ledger = made("decode", {"mlp": 40_000, "lm_head": 10_000})
    bounds = BoundColumns(
        {"mlp": None, "lm_head": 5_000.0}, {"mlp": "not judged", "lm_head": "call overhead"}, None, ["So."]
    )
    table = ledger_table(ledger, title="t", bounds=bounds)
    assert [row[5:] for row in table.rows] == [
        ["", "", "not judged"],
        ["5.00", "2.00", "call overhead"],
        ["", "", ""],
        ["", "", ""],
        ["", "", ""],
    ]
    assert table.notes[1] == "So."
    rows = list(csv.DictReader(io.StringIO(ledger_csv([ledger], {"decode": bounds}))))
    assert [(row["bound_ns"], row["bound_by"]) for row in rows] == [
        ("", "not judged"),
        ("5000.0", "call overhead"),
        ("", ""),
    ]


def test_where_all_bounds_are_withdrawn_a_note_is_left_of_them() -> None:
    """No empty columns; the CSV keeps the reason."""
    ledger = made("decode", {"mlp": 40_000})
    bounds = BoundColumns({"mlp": None}, {"mlp": "not judged"}, None, ["Not judged: so."])
    table, plain = ledger_table(ledger, title="t", bounds=bounds), ledger_table(ledger, title="t")
    assert (table.header, table.rows) == (plain.header, plain.rows)
    assert "Not judged: so." in table.notes
    assert "not judged" in ledger_csv([ledger], {"decode": bounds})


def test_the_csv_has_bounds_where_there_are_any() -> None:
    """Runs without ceilings keep the columns that they had."""
    ledger = made("decode", {"mlp": 40_000, "stop/X": 10_000})
    bounds = {"decode": BoundColumns({"mlp": 20_000.0}, {"mlp": "call overhead"}, 25_000.0)}
    rows = list(csv.DictReader(io.StringIO(ledger_csv([ledger], bounds))))
    assert [row["bound_ns"] for row in rows] == ["20000.0", "", ""]
    assert "bound_ns" not in ledger_csv([ledger])
