"""How a knob's findings are shown: lines in words, panels of stages."""

from typing import Any

import pytest

from perstep.experiments.knobs.latency_model import StageCurve, StageFit
from perstep.experiments.knobs.show import fit_note, stage_panels

CURVE = StageCurve(coefficients_ms=[1.5, -0.25, 2e-5], heldout_error=0.01)


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        ({"points": 1, "reason": "a line needs two values of the knob"}, "prefill: no line: a line needs two values"),
        ({"slope_ms": -0.25, "points": 2}, "2130 ms - 0.250 ms x tokens: 2 points fix a line and cannot judge it"),
        (
            {"slope_ms": 0.25, "points": 3},
            "2130 ms + 0.250 ms x tokens (R² 0.5000, too few points for a held-out error)",
        ),
        ({"slope_ms": 0.25, "points": 4, "heldout_error": 0.031}, "(R² 0.5000, held-out error at most 3.1%)"),
        (
            {"slope_ms": 0.25, "points": 5, "heldout_error": 1.5, "curve": CURVE},
            "+ 0.0000200 ms x (tokens)^2 (held-out error at most 1.0%; of a line held-out error at most 150.0%)",
        ),
    ],
)
def test_a_line_says_what_its_points_support(fit: dict[str, Any], words: str) -> None:
    """A slope with its sign; no R² where a line cannot miss; no exponent."""
    line = {} if "slope_ms" not in fit else {"intercept_ms": 2130.4, "r_squared": 0.5}
    assert words in fit_note("prefill", StageFit(**line, **fit), "tokens")


class Row:
    """What a panel asks of a configuration."""

    decode_ms = None

    def __init__(self, knob: float, prefill_ms: float | None, group: str | None) -> None:
        self.knob, self.prefill_ms, self.experts_implementation = knob, prefill_ms, group


class Found:
    """What a panel asks of findings."""

    def __init__(self, *rows: Row) -> None:
        self.summary, self.fits = rows, dict[str, StageFit]()


@pytest.mark.parametrize(
    ("rows", "log_y"),
    [
        ((Row(1, 1, "eager"), Row(8, 50, "batched_mm")), True),
        ((Row(1, 1, "eager"), Row(8, 15, "batched_mm")), False),
        ((Row(1, 1, None), Row(8, 50, None)), False),
        ((Row(1, None, "eager"), Row(8, None, "batched_mm")), False),
    ],
)
def test_groups_that_lie_far_apart_can_all_be_read(rows: tuple[Row, ...], log_y: bool) -> None:
    """On a logarithmic axis; one series, however steep, and series without a point keep a linear one from zero."""
    (panel,) = stage_panels(Found(*rows), "k")  # type: ignore[arg-type]
    assert panel.log_y == log_y
    assert [series.name for series in panel.series] == list(
        dict.fromkeys("measured" if row.experts_implementation is None else row.experts_implementation for row in rows)
    )
