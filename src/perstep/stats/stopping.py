"""When to stop measuring: precision reached or budget spent, never significance (law "stop on precision").

A rule that stops when a difference appears finds differences by chance. This rule receives only the width of the
interval. Even so, every look is another chance to stop on a narrow interval. Looks are therefore few, each after half
as many rounds again, and a stop on precision needs at least 20 merged rounds. No clock is read here; elapsed time is an
argument.
"""

from __future__ import annotations

from enum import StrEnum
from math import ceil

from perstep.errors import InputError

FIRST_LOOK = 20
"""The round after which the precision is looked at first."""
LOOK_GROWTH = 1.5


class Stop(StrEnum):
    """Why measuring stopped."""

    PRECISION = "precision reached"
    BUDGET = "budget spent"


def should_stop(
    half_width: float | None,
    *,
    precision: float,
    merged_rounds: int,
    elapsed_s: float,
    budget_s: float,
    min_rounds: int = FIRST_LOOK,
) -> Stop | None:
    """Whether to stop measuring, and why.

    Call it after every round with None for the half-width, so that the budget is kept; with
    the half-width only at the looks that `next_look` names.

    Args:
        half_width: half the width of the widest interval shown; None between looks, inf
            where there is no interval.
        precision: the half-width to reach, in the same unit.
        merged_rounds: number of values behind that interval (`Change.merged_rounds`).
        elapsed_s: time spent so far.
        budget_s: time that may be spent.
        min_rounds: merged rounds below which precision does not count.

    Returns:
        The reason, or None to go on.

    Raises:
        InputError: if precision or budget is not above 0.
    """
    if precision <= 0 or budget_s <= 0:
        raise InputError(f"precision {precision} and budget {budget_s} s must be above 0")
    if half_width is not None and half_width <= precision and merged_rounds >= min_rounds:
        return Stop.PRECISION
    return Stop.BUDGET if elapsed_s >= budget_s else None


def next_look(rounds: int) -> int:
    """The number of rounds at which to look at the interval next: 20, 30, 45, 68, 102, ...

    Args:
        rounds: rounds measured so far.

    Returns:
        A number above `rounds`.
    """
    look = FIRST_LOOK
    while look <= rounds:
        look = ceil(look * LOOK_GROWTH)
    return look
