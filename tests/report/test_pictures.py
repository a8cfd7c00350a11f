"""Pictures: nothing that is written is cut off or runs out of its bar, and a part has one colour everywhere."""

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from perstep.experiments import pipeline, registry
from perstep.measure import Ledger, LedgerSamples, build_ledger
from perstep.report.ledger import ledger_png
from perstep.report.panels import Panel, Series, grid_png
from perstep.report.plot import part_colour
from perstep.theory.parts import PARTS

GOLDEN = Path(__file__).parents[1] / "golden"
LONG = "LlamaForConditionalGenerationWithVisionTower of some_package/modelling_file.py:1234"

pytestmark = pytest.mark.pictures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that was saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **options: Any) -> None:
        save(self, *args, **options)
        figures.append(self)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def cut_off(figure: Figure) -> list[str]:
    """The sides of the picture beyond which something is drawn, by more than a hundredth of an inch."""
    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    beyond = {"left": -drawn.x0, "right": drawn.x1 - width, "below": -drawn.y0, "above": drawn.y1 - height}
    return [side for side, inches in beyond.items() if inches > 0.01]


def out_of_their_bar(figure: Figure) -> list[str]:
    """The words inside axes that reach above or below them."""
    found = []
    for ax in figure.axes:
        inside = ax.get_window_extent().padded(2.0)
        found += [
            t.get_text() for t in ax.texts if t.get_rotation() == 90 and not _within(t.get_window_extent(), inside)
        ]
    return found


def _within(box: Any, outer: Any) -> bool:
    return bool(outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1)


def a_ledger(parts: dict[str, int]) -> Ledger:
    """Ten rounds of one step."""
    columns = {name: np.full((10, 2, 1), ns) for name, ns in parts.items()}
    residual = np.full((10, 2, 1), 500)
    step = sum(columns.values(), start=residual)
    return build_ledger("decode", LedgerSamples(step, step, columns, residual, dict.fromkeys(parts, 1.0)), mark_ns=50)


@pytest.mark.parametrize("name", registry.EXPERIMENTS)
def test_nothing_is_cut_off_in_a_stored_run(name: str, tmp_path: Path, drawn: list[Figure]) -> None:
    """Titles, legends, labels and ticks of every picture of every experiment."""
    run = tmp_path / name
    shutil.copytree(GOLDEN / name, run)
    pipeline.rebuild(run)
    assert len(drawn) == len(list(run.glob("*.png")))
    assert [words for figure in drawn for words in cut_off(figure) + out_of_their_bar(figure)] == []


def test_nothing_is_cut_off_where_names_are_long(drawn: list[Figure]) -> None:
    """A part whose name does not fit into its place stands below the bar; titles are broken into lines."""
    names = {
        "logits/RepetitionPenaltyLogitsProcessor": 9_000,
        "stop/StopStringCriteriaOfSomebody": 2_000,
        "mlp": 80_000,
    }
    ledger_png([a_ledger(names)], subject=LONG)
    series = [Series(LONG, [1.0, 2.0], [1.0, 2.0])]
    grid_png(f"{LONG}: {LONG} takes twice as long", [[Panel("one", "x", "y", series)]])
    assert [words for figure in drawn for words in cut_off(figure) + out_of_their_bar(figure)] == []
    below = drawn[0].axes[0].get_xlabel()
    assert all(name in " ".join(below.split()) for name in names if name != "mlp")


def test_a_part_has_one_colour_in_every_picture() -> None:
    """Not that of its rank: two ledgers in which the order differs are read side by side."""
    assert part_colour("mlp") == part_colour("mlp")
    assert len({part_colour(part) for part in PARTS}) == len(PARTS)
    assert all(part_colour(one) != part_colour(other) for one, other in pairwise(PARTS))
    assert part_colour("logits/Mine") == part_colour("logits/Mine") != part_colour("logits/Yours")
