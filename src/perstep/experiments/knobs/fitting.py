"""Which configurations, and calls of which length, a budget holds enough rounds of.

What the options leave open gives way: the number of new tokens first, then configurations between the others. What
was asked for stays, and what it needs is said before measuring. Nothing is measured here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from perstep.experiments.planning import least_rounds, rounds_that_fit, subsets, what_would_fit
from perstep.measure import Effort
from perstep.stats import MIN_ROUNDS_FOR_VERDICT

FEWEST_TOKENS = (16, 8, 4)
"""Shorter calls, where their length is left open."""
LEAST_ARMS = 2
"""There is something to compare at least."""


@dataclass(frozen=True)
class Tried:
    """What a configuration's steps took in a short call, with all prompts together.

    Attributes:
        prefill_ns: of a prefill.
        step_ns: of a decode step.
        tokens: that a call of it generates.
    """

    prefill_ns: float
    step_ns: float
    tokens: int

    def pass_ns(self, most_tokens: int) -> float:
        """A call, and the prefill and the decode step that are run before it."""
        decoded = min(self.tokens, most_tokens) - 1
        if self.prefill_ns == inf:
            return inf
        return 2 * self.prefill_ns + (decoded + (self.tokens > 1)) * self.step_ns


@dataclass(frozen=True)
class Fit:
    """What is measured.

    Attributes:
        arms: indices of the configurations that stay.
        most_tokens: that a call generates; None where all are as they were.
        too_short: what to say before measuring, where the budget holds too few rounds; or empty.
    """

    arms: list[int]
    most_tokens: int | None = None
    too_short: str = ""


def fit(tried: Sequence[Tried], effort: Effort, *, may_shorten: bool, droppable: Sequence[int]) -> Fit:
    """What the budget holds 20 rounds of, or as many as intervals need.

    Args:
        tried: of every configuration.
        effort: with the budget.
        may_shorten: whether the number of tokens is left open.
        droppable: configurations that may be left out, the first of them first.
    """
    longest = max((one.tokens for one in tried), default=1)
    wanted = [MIN_ROUNDS_FOR_VERDICT, least_rounds(len(tried))]

    def round_ns(kept: Sequence[int], tokens: int) -> float:
        return sum(tried[arm].pass_ns(tokens) for arm in kept)

    lengths = [longest, *(n for n in FEWEST_TOKENS if n < longest)] if may_shorten else [longest]
    for rounds in wanted:
        for kept in subsets(len(tried), droppable, LEAST_ARMS):
            for tokens in lengths:
                if rounds_that_fit(round_ns(kept, tokens), effort) >= rounds:
                    return Fit(kept, None if tokens == longest else tokens)
    kept = subsets(len(tried), droppable, LEAST_ARMS)[-1]
    alike = len({one.tokens for one in tried}) == 1  # in `output` it is what varies
    shorter = [(f"-n {n}", round_ns(kept, n)) for n in (8, 4) if n < lengths[-1]][:1] if alike else []
    said = what_would_fit(round_ns(kept, lengths[-1]), effort, intervals=len(kept), shorter=shorter)
    return Fit(kept, None if lengths[-1] == longest else lengths[-1], said)
