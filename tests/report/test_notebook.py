"""What a notebook shows of a value, and the short text of each."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from tests.report.test_page import EVIL, GOLDEN, Reader, ledger_samples

import perstep
from perstep.measure import FakeClock, Ledger, LedgerSamples, build_ledger
from perstep.report import Column, Table
from perstep.report.notebook import Picture, _Meter, html, meter
from perstep.runs import read_samples
from perstep.watching.samples import Sample
from perstep.watching.session import Watch


def ledger(part: str = "mlp") -> Ledger:
    """A ledger of 30 rounds with two parts."""
    return build_ledger("decode", ledger_samples(30, part), mark_ns=10.0)


def comparison() -> perstep.Comparison:
    """Two arms on a fake clock: the second takes twice as long."""
    clock = FakeClock()
    arms = {"old": lambda: clock.advance(1_000), "new": lambda: clock.advance(2_000)}
    return perstep.compare(arms, rounds=20, clock=clock)


@pytest.mark.parametrize("what", ["ledger", "table", "comparison", "suggestions"])
def test_a_value_shows_itself_in_html(what: str) -> None:
    """A whole piece with its own style and no script; every cell of its tables can be read."""
    values = {
        "ledger": ledger,
        "table": lambda: Table("a title", [Column("n", lambda row: row, words=True)], ["x", "y"], ["a note"]),
        "comparison": comparison,
        "suggestions": lambda: perstep.suggest(ledger("logits/TopPLogitsWarper")),
    }
    words = {
        "ledger": ["mlp", "6.04 µs", "residual", "instrumentation overhead"],
        "table": ["a title", "x", "y", "a note"],
        "comparison": ["old", "new", "slower", "+100.00 %"],
        "suggestions": ["perstep.fast.TopP", "logits/TopPLogitsWarper"],
    }[what]
    made = values[what]()._repr_html_()
    assert made is not None
    read = Reader(made)
    assert (read.wrong, read.open) == ([], [])
    assert [tag for tag, _ in read.elements if tag in ("script", "link", "iframe", "img")] == []
    assert all(word in made.replace("&quot;", '"').replace("\xa0", " ") for word in words), made


def test_watched_calls_show_their_tables_and_their_picture() -> None:
    """Of a stored run's calls; without a call there is nothing to draw."""
    watch = Watch()
    assert (repr(watch), watch._repr_html_()) == ("<Watch: 0 calls of 0 lines>", None)
    with pytest.raises(perstep.InputError, match="generate"):
        watch.plot()
    watch.samples, watch._mark_ns = read_samples(GOLDEN / "watch", Sample)[0], 80.0
    assert repr(watch) == "<Watch: 3 calls of 1 line>"
    assert "logits/TopPLogitsWarper" in str(watch._repr_html_())
    assert watch.plot()._repr_png_().startswith(b"\x89PNG")


def test_names_in_a_notebook_are_text() -> None:
    """A part that is a script shows as it is written."""
    made = ledger(EVIL)._repr_html_()
    assert made is not None
    assert "<script" not in made
    assert "<img" not in made


def test_a_short_text_says_what_a_value_is() -> None:
    """One line of at most 200 characters."""
    table = Table("a title", [Column("n", str, words=True)], ["x"])
    texts = [repr(ledger()), repr(comparison()), repr(table), repr(Picture(b"x"))]
    assert texts[0].startswith("<Ledger of decode: ")
    assert texts[1] == "<Comparison with old, 20 rounds: new slower>"
    assert texts[2] == "<Table 'a title': 1 row, 1 column>"
    assert all("\n" not in text and len(text) <= 200 for text in texts)


def test_what_nobody_shows_shows_itself() -> None:
    """`html` is None, so that the notebook falls back to the text."""
    assert html(3) is None


def test_a_picture_can_be_saved(tmp_path: Path) -> None:
    """As the bytes that a notebook shows."""
    Picture(b"\x89PNG").save(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == Picture(b"\x89PNG")._repr_png_()


def test_progress_is_a_line_in_a_notebook_and_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a caller gives goes first."""
    stream = io.StringIO()
    shown = _Meter(stream.write)
    for share, what in ((0.0, "round 1"), (0.5, "round 10"), (0.5, "round 10"), (1.0, "done")):
        shown(share, what)
    lines = stream.getvalue().split("\r")[1:]
    assert [line.rstrip() for line in lines] == [
        "  0 % |                    | round 1",
        " 50 % |██████████          | round 10",
        "100 % |████████████████████| done",
    ]
    assert stream.getvalue().endswith("\n")

    def mine(_share: float, _what: str) -> None:
        pass

    assert meter(mine) is mine
    assert not isinstance(meter(None), _Meter)
    monkeypatch.setitem(__import__("sys").modules, "ipykernel", json)
    assert isinstance(meter(None), _Meter)


def test_an_invalid_ledger_says_so_in_its_short_text() -> None:
    """Whoever prints a list of ledgers sees it."""
    slow = ledger_samples(30)
    invalid = LedgerSamples(slow.step_ns // 3, slow.step_ns, slow.parts, slow.residual_ns, slow.marks_per_step)
    assert repr(build_ledger("decode", invalid, mark_ns=10.0)).endswith("INVALID>")
    assert np.all(slow.step_ns > 0)
