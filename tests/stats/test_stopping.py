"""When measuring stops: on precision or budget."""

import numpy as np
import pytest

from perstep import stats
from perstep.errors import InputError
from perstep.stats import Stop


def stop(half_width: float | None, merged_rounds: int = 20, elapsed_s: float = 1.0) -> Stop | None:
    """At a precision of 0.5 % and a budget of ten seconds."""
    return stats.should_stop(
        half_width, precision=0.005, merged_rounds=merged_rounds, elapsed_s=elapsed_s, budget_s=10.0
    )


def test_it_stops_when_the_interval_is_narrow_enough() -> None:
    """From twenty merged rounds on, at the precision exactly."""
    assert stop(0.005) is Stop.PRECISION
    assert stop(0.0051) is None
    assert stop(0.001, merged_rounds=19) is None


def test_it_stops_when_the_budget_is_spent() -> None:
    """However few the rounds, and whether or not the interval was looked at."""
    assert stop(None, merged_rounds=0, elapsed_s=10.0) is Stop.BUDGET
    assert stop(np.inf, elapsed_s=11.0) is Stop.BUDGET
    assert stop(None, elapsed_s=9.9) is None


def test_precision_is_named_before_the_budget() -> None:
    """Where both are reached at once."""
    assert stop(0.001, elapsed_s=12.0) is Stop.PRECISION


def test_it_cannot_see_the_change() -> None:
    """The rule has no argument from which a difference, and so significance, could be read."""
    names = stats.should_stop.__kwdefaults__.keys() | set(stats.should_stop.__annotations__)
    assert names == {"half_width", "precision", "merged_rounds", "elapsed_s", "budget_s", "min_rounds", "return"}


def test_looks_are_half_as_many_rounds_again_apart() -> None:
    """20, 30, 45, ...: each look is another chance to stop on a narrow interval."""
    looks = [0]
    while looks[-1] < 1000:
        looks.append(stats.next_look(looks[-1]))
    assert looks == [0, 20, 30, 45, 68, 102, 153, 230, 345, 518, 777, 1166]
    assert stats.next_look(21) == 30


@pytest.mark.parametrize(("precision", "budget_s"), [(0.0, 1.0), (0.01, 0.0), (-1.0, 1.0)])
def test_nothing_can_be_reached_without_precision_and_budget(precision: float, budget_s: float) -> None:
    """Both are above 0."""
    with pytest.raises(InputError):
        stats.should_stop(0.1, precision=precision, merged_rounds=20, elapsed_s=0.0, budget_s=budget_s)
