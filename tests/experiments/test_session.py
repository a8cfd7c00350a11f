"""How any session is run: rounds are kept one by one, resumed, ended for a reason, and the state is checked."""

from math import inf
from typing import Any

import pytest

from perstep.errors import InvalidMeasurement
from perstep.experiments.conditions import BaseWorkload, Model
from perstep.experiments.options import RunOptions
from perstep.experiments.session import RoundSession, describe, measure_rounds
from perstep.measure import Effort, FakeClock, Resolved
from perstep.runs import Manifest


def nobody(_share: float, _what: str) -> None:
    """Nobody looks."""


class Numbers(RoundSession):
    """Rounds that are their own numbers; each takes a second."""

    def __init__(self, clock: FakeClock, effort: Effort) -> None:
        super().__init__(effort, 7, clock)
        self.manifest = Manifest(experiment="numbers", plan={})
        self.told: list[str] = []
        self._fake = clock

    def measure_round(self, number: int) -> int:
        """The number."""
        self._fake.advance(10**9)
        self.told.append(f"round {number}")
        return number

    def resolved(self, samples: Any) -> Resolved:
        """Never."""
        return Resolved(inf, len(samples))

    def finish(self) -> None:
        """Said after the last round."""
        self.told.append("finish")


def test_a_round_is_stored_before_the_next_begins_and_the_state_is_checked_last() -> None:
    """A run that is resumed goes on with the next number; the manifest says why it ended."""
    clock = FakeClock()
    session, samples = Numbers(clock, Effort(None, inf, 4)), [0, 1]
    measure_rounds(session, samples, clock=clock, progress=nobody, keep=lambda one: session.told.append(f"kept {one}"))
    assert session.told == ["round 2", "kept 2", "round 3", "kept 3", "finish"]
    assert samples == [0, 1, 2, 3]
    assert session.manifest.conditions == {"ended_by": "rounds measured"}


def test_a_state_that_is_not_as_before_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After it is known why measuring ended."""

    def moved(_session: Numbers) -> None:
        raise InvalidMeasurement("moved")

    monkeypatch.setattr(Numbers, "finish", moved)
    clock = FakeClock()
    session = Numbers(clock, Effort(None, inf, 1))
    with pytest.raises(InvalidMeasurement, match="moved"):
        measure_rounds(session, [], clock=clock, progress=nobody)
    assert "ended_by" in session.manifest.conditions


def test_orders_are_drawn_by_seed_and_stream() -> None:
    """Round 3 of a resumed run is round 3 of the run before; other streams are others."""
    one, other = (Numbers(FakeClock(), Effort()) for _ in range(2))
    drawn = one._drawn(1, 3).permutation(100).tolist()
    assert other._drawn(1, 3).permutation(100).tolist() == drawn
    assert other._drawn(1, 4).permutation(100).tolist() != drawn


@pytest.mark.parametrize(("budget_s", "limit"), [(20.0, "2.0"), (900.0, "6.0"), (0.1, "0.5")])
def test_a_warm_up_takes_a_share_of_the_budget(budget_s: float, limit: str) -> None:
    """Of a long one no more than that of a minute, and half a second at least."""
    clock = FakeClock(tick_ns=10**6)
    session = Numbers(clock, Effort(budget_s=budget_s))
    warm = session._warm(lambda: None, share=0.1, most_s=60.0, least_s=0.5)
    assert warm.rule.endswith(f"within {limit} s")


def test_a_manifest_says_plan_seed_and_machine() -> None:
    """A plan of options has a seed; a plain one has none."""
    of = {"workload": BaseWorkload(threads=1), "model": Model(name="a"), "conditions": {"order": "none"}}
    made = describe("numbers", RunOptions(seed=5, budget=3.0), **of, warnings=["mine"])  # type: ignore[arg-type]
    assert (made.experiment, made.seed, made.plan["budget"]) == ("numbers", 5, 3.0)
    assert (made.workload, made.model, made.conditions) == ({"threads": 1}, {"name": "a"}, {"order": "none"})
    assert made.warnings[0] == "mine"
    assert made.machine["cpu"]
    assert describe("numbers", {"script": "x"}, **of).seed == 0  # type: ignore[arg-type]
