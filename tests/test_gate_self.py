"""`make gate-self`: what decides whether perstep itself costs more than it did."""

import runpy
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def gate() -> dict[str, Any]:
    """The names in the script; nothing is measured."""
    return runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "gate_self.py"), run_name="gate_self")


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        ([1.00, 1.02, 1.05, 1.01, 1.03], "not risen"),
        ([1.20, 1.30, 1.25, 1.22, 1.15], "not risen"),  # one of them is within a tenth of the largest before
        ([1.20, 1.30, 1.25, 1.22, 1.17], "risen"),
        ([1.90, None, 1.90, 1.90, None], "not resolved (2 of 5 processes without an interval)"),
    ],
)
def test_a_cost_has_risen_where_every_process_says_so(
    gate: dict[str, Any], now: list[float | None], verdict: str
) -> None:
    """The smallest ratio now against the largest before, and 10 %."""
    assert gate["judged"]([1.00, 1.06, 1.01, 1.02, 1.03], now) == verdict


def test_another_processor_is_not_judged(gate: dict[str, Any]) -> None:
    """Ratios carry over from run to run, not from machine to machine."""
    baseline = {"processor": "A", "ratios": {"mark": [1.0] * 5}}
    assert gate["compared"](baseline, {"mark": [2.0] * 5}, "B") == {"mark": "not judged (the baseline is of A)"}
    assert gate["compared"](baseline, {"mark": [2.0] * 5}, "A") == {"mark": "risen"}


@pytest.mark.real_clock
def test_every_cost_can_be_called(gate: dict[str, Any]) -> None:
    """Both sides of each that needs no model and no new process, once."""
    for name in ("mark", "TokenMask step"):
        if name == "TokenMask step":
            pytest.importorskip("torch")
        for call in gate["COSTS"][name]():
            call()
