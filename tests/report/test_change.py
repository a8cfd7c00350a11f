"""The record of a change: what is taken over from a computed one, and how it is shown."""

import numpy as np
import pytest

from perstep.report.change import RelativeChange, TimeChange, change_columns
from perstep.report.table import Column
from perstep.stats import RunCost, Spread, paired_change, unpaired_change, withhold


def _columns(digits: int | None) -> list[Column[RelativeChange]]:
    return change_columns(lambda row: row, digits)


def _cells(made: RelativeChange, digits: int | None) -> list[str]:
    return [column.cell(made) for column in _columns(digits) if column.header is not None]


def test_a_computed_change_is_taken_over() -> None:
    """All that a change has of the record's fields; the verdict as users see it."""
    change = paired_change([100.0] * 24, [103.0] * 24)
    made = TimeChange.of(change, ns=103.0)
    assert (made.change, made.ci_low, made.ci_high) == (change.estimate, change.ci_low, change.ci_high)
    assert (made.mde, made.reason, made.merged_by, made.ties) == (change.mde, change.reason, change.merged_by, 0)
    assert (made.ns, made.verdict, made.resolved) == (103.0, "slower", True)


def test_the_reference_has_no_change() -> None:
    """Its record holds what was measured; its cells are empty."""
    made = TimeChange.of(None, ns=5.0)
    assert (made.ns, made.change, made.verdict) == (5.0, None, "")
    assert _cells(made, 1) == ["", "", ""]


def test_a_change_between_runs_has_the_same_words() -> None:
    """`same` says its T; without the spread of runs nothing is resolved."""
    cost = RunCost(100.0, np.ones(24))
    made = RelativeChange.of(unpaired_change(cost, cost, Spread(0.001, 30)))
    assert (made.verdict, made.resolved) == ("same (within ±1 %)", True)
    assert not RelativeChange.of(unpaired_change(cost, cost, None)).resolved


@pytest.mark.parametrize(
    ("digits", "percent", "interval"),
    [
        (1, "+150.0 %", "[-3.0 %, +260.0 %]"),
        (2, "+150.00 %", "[-3.00 %, +260.00 %]"),
        (None, "+150 %", "[-3.0 %, +260 %]"),
    ],
)
def test_how_it_is_shown(digits: int | None, percent: str, interval: str) -> None:
    """With so many decimals, or with none from a doubling on."""
    made = RelativeChange(change=1.5, ci_low=-0.03, ci_high=2.6, verdict="not resolved")
    assert _cells(made, digits) == [percent, interval, "not resolved"]


def test_what_is_withheld_is_a_dash() -> None:
    """The verdict says why; what stands in the place of an interval may be given."""
    made = RelativeChange.of(withhold(paired_change([1.0] * 24, [2.0] * 24), "the machine was busy"))
    assert made.verdict == "not resolved (the machine was busy)"
    assert (made.percent(), made.interval(), made.interval(missing="none")) == ("+100.0 %", "–", "none")
    assert RelativeChange(verdict="invalid").percent() == "–"
