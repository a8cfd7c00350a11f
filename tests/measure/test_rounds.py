"""The loop over rounds: when it stops, what it numbers, and that it leaves the collector as it was."""

import gc
from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.measure import Effort, FakeClock, Resolved, WarmUp, collector_off, run_rounds, warm_up
from perstep.stats import next_look

SECOND = 1_000_000_000


class Rounds:
    """Rounds of one second on a fake clock, and what was asked of them."""

    def __init__(self, resolved: Callable[[int], Resolved] = lambda _: Resolved(inf, 0), first_round: int = 0) -> None:
        self.clock = FakeClock()
        self.kept: list[int] = []
        self.looks: list[int] = []
        self.progress: list[tuple[float, str]] = []
        self._first = first_round
        self._resolved = resolved

    def _measure(self, number: int) -> int:
        assert number == self._first + len(self.kept)
        self.clock.advance(SECOND)
        return number

    def _look(self) -> Resolved:
        self.looks.append(self._first + len(self.kept))
        return self._resolved(self.looks[-1])

    def run(self, effort: Effort) -> str:
        """Measure until the effort is spent."""
        return run_rounds(
            self._measure,
            self.kept.append,
            self._look,
            effort=effort,
            clock=self.clock,
            first_round=self._first,
            progress=lambda share, what: self.progress.append((share, what)),
        )


def test_it_stops_at_the_number_of_rounds_that_was_asked_for() -> None:
    """Rounds are numbered from 0."""
    rounds = Rounds()
    assert rounds.run(Effort(budget_s=inf, max_rounds=7)) == "rounds measured"
    assert rounds.kept == list(range(7))
    assert rounds.looks == []


def test_without_a_precision_it_does_not_even_look() -> None:
    """A number of rounds that was asked for is measured, however narrow the intervals are before."""
    rounds = Rounds(lambda n: Resolved(0.0001, n))
    assert rounds.run(Effort(precision=None, budget_s=inf, max_rounds=50)) == "rounds measured"
    assert len(rounds.kept) == 50
    assert rounds.looks == []
    assert Rounds().run(Effort(precision=None, budget_s=4.5)) == "budget spent"


def test_it_stops_when_the_budget_is_spent() -> None:
    """No round begins after the budget; the one in progress is finished and kept."""
    rounds = Rounds()
    assert rounds.run(Effort(budget_s=4.5)) == "budget spent"
    assert rounds.kept == [0, 1, 2, 3, 4]


def test_one_round_is_measured_however_small_the_budget() -> None:
    """A run without a round would say nothing."""
    rounds = Rounds()
    rounds.clock.advance(100 * SECOND)  # time before the rounds is not theirs
    assert rounds.run(Effort(budget_s=0.001)) == "budget spent"
    assert rounds.kept == [0]


def test_it_stops_on_precision_only_at_the_looks() -> None:
    """Precise from the start, it stops at 20 rounds; precise from 21 on, at 30."""
    always = Rounds(lambda n: Resolved(0.001, n))
    assert always.run(Effort(precision=0.005, budget_s=1000)) == "precision reached"
    assert always.kept == list(range(20))
    assert always.looks == [20]
    later = Rounds(lambda n: Resolved(0.001 if n >= 21 else 0.1, n))
    assert later.run(Effort(precision=0.005, budget_s=1000)) == "precision reached"
    assert len(later.kept) == 30
    assert later.looks == [20, 30]


def test_merged_rounds_count_for_precision() -> None:
    """A narrow interval over fewer than 20 merged rounds does not stop it."""
    rounds = Rounds(lambda n: Resolved(0.001, n // 4))
    assert rounds.run(Effort(precision=0.005, budget_s=1000)) == "precision reached"
    assert len(rounds.kept) == rounds.looks[-1] >= 80


def test_it_never_stops_on_significance() -> None:
    """A difference of any size with a wide interval goes on until the budget: it is not even handed in."""
    assert set(Resolved.__dataclass_fields__) == {"half_width", "merged_rounds"}
    rounds = Rounds(lambda n: Resolved(0.006, n))
    assert rounds.run(Effort(precision=0.005, budget_s=99.5)) == "budget spent"
    assert len(rounds.kept) == 100
    assert rounds.looks == [20, 30, 45, 68]


def test_the_budget_holds_at_a_look_too() -> None:
    """Where both would end it, precision is what is told."""
    both = Rounds(lambda n: Resolved(0.001, n))
    assert both.run(Effort(precision=0.005, budget_s=20)) == "precision reached"
    spent = Rounds(lambda n: Resolved(0.1, n))
    assert spent.run(Effort(precision=0.005, budget_s=20)) == "budget spent"
    assert len(spent.kept) == 20


@pytest.mark.parametrize("first_round", [5, 20, 21, 29, 30])
def test_a_resumed_run_goes_on_numbering_and_looking(first_round: int) -> None:
    """It looks where it would have looked anyway, at once if the look is due."""
    rounds = Rounds(lambda _: Resolved(0.1, 0), first_round)
    rounds.run(Effort(budget_s=inf, max_rounds=50))
    assert rounds.kept == list(range(first_round, 50))
    assert rounds.looks == [look for look in (20, 30, 45) if look >= first_round]


def test_a_resumed_run_that_is_precise_measures_nothing_more() -> None:
    """So does one that has its rounds."""
    precise = Rounds(lambda n: Resolved(0.001, n), first_round=30)
    assert precise.run(Effort(precision=0.005)) == "precision reached"
    assert precise.kept == []
    full = Rounds(first_round=10)
    assert full.run(Effort(max_rounds=10)) == "rounds measured"
    assert full.kept == []


def test_each_sample_is_kept_before_the_next_is_measured() -> None:
    """An exception loses the round in progress and nothing else."""
    kept: list[int] = []

    def measure(number: int) -> int:
        if number == 3:
            raise KeyboardInterrupt
        return number

    with pytest.raises(KeyboardInterrupt):
        run_rounds(measure, kept.append, lambda: Resolved(inf, 0), effort=Effort(), clock=FakeClock())
    assert kept == [0, 1, 2]


def test_progress_is_a_share_that_grows_to_one() -> None:
    """By budget, by rounds and by what the half-width has still to shrink, whichever is furthest."""
    rounds = Rounds()
    rounds.run(Effort(budget_s=10))
    assert [share for share, _ in rounds.progress] == [number / 10 for number in range(10)]
    assert rounds.progress[3][1] == "round 4"
    counted = Rounds()
    counted.run(Effort(budget_s=inf, max_rounds=4))
    assert [share for share, _ in counted.progress] == [0, 0.25, 0.5, 0.75]
    shrinking = Rounds(lambda n: Resolved(0.01, n))
    shrinking.run(Effort(precision=0.005, budget_s=1e6, max_rounds=31))
    assert shrinking.progress[25][0] == max((0.005 / 0.01) ** 2, 25 / 31)
    assert shrinking.progress[20][0] == max((0.005 / 0.01) ** 2, 20 / 31)


@pytest.mark.parametrize(
    "effort",
    [
        {"budget_s": 0.0},
        {"budget_s": nan},
        {"precision": 0.0},
        {"precision": 2.0},
        {"precision": nan},
        {"max_rounds": 0},
    ],
)
def test_an_effort_out_of_range_is_refused(effort: dict[str, Any]) -> None:
    """By the name of what is wrong, before anything is measured."""
    with pytest.raises(InputError, match=next(iter(effort)).removeprefix("max_")[:6]):
        Effort(**effort)


def test_looks_are_half_as_many_rounds_again() -> None:
    """The rule of docs/statistics.md, so that few looks share the error."""
    looks = [next_look(0)]
    while looks[-1] < 100:
        looks.append(next_look(looks[-1]))
    assert looks == [20, 30, 45, 68, 102]


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_off_inside_and_as_it_was_after(was_on: bool) -> None:
    """After exceptions too; garbage from before is collected first, outside of any step."""
    before = gc.isenabled()
    try:
        (gc.enable if was_on else gc.disable)()
        collections = gc.get_stats()[2]["collections"]
        with collector_off():
            assert not gc.isenabled()
            assert gc.get_stats()[2]["collections"] == collections + 1
        assert gc.isenabled() is was_on
        with pytest.raises(KeyboardInterrupt), collector_off():
            raise KeyboardInterrupt
        assert gc.isenabled() is was_on
    finally:
        (gc.enable if before else gc.disable)()


def warm(durations_ns: Callable[[int], int], *, limit_s: float, max_rounds: int = 100) -> WarmUp:
    """Warm up with rounds of these durations."""
    clock = FakeClock()
    rounds = 0

    def one_round() -> None:
        nonlocal rounds
        clock.advance(durations_ns(rounds))
        rounds += 1

    found = warm_up(one_round, clock, limit_s=limit_s, max_rounds=max_rounds)
    assert found.rounds == rounds
    return found


def test_warm_up_ends_when_two_windows_of_four_agree() -> None:
    """At once where rounds are equal; after the slow ones where they are not."""
    assert warm(lambda _: 1_000, limit_s=1.0) == WarmUp(
        8,
        True,
        "medians of two successive windows of 4 rounds agree, within 1.0 s",
        warm(lambda _: 1, limit_s=1.0).reason,
    )
    slow_start = warm(lambda number: 9_000 if number < 4 else 1_000, limit_s=1.0)
    assert (slow_start.rounds, slow_start.steady) == (12, True)


def test_warm_up_ends_at_its_limit_and_says_that_nothing_was_steady() -> None:
    """Rounds that double in length never settle; time or number ends them."""
    late = warm(lambda number: SECOND * 2**number, limit_s=10)
    assert (late.rounds, late.steady) == (4, False)
    many = warm(lambda number: 2 ** (number // 4), limit_s=inf, max_rounds=16)
    assert (many.rounds, many.steady) == (16, False)
    once = warm(lambda _: SECOND, limit_s=0.5)
    assert (once.rounds, once.steady) == (1, False)
