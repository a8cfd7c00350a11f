"""How long the calls of an ablation are and how many turns make a round, so that the budget holds enough rounds.

A round is a whole balanced block of turns. Where too few of these fit, a round is a row of one, the next row the next
round; and where the number of tokens was left open, calls become shorter. Nothing is measured here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from perstep.experiments.planning import rounds_that_fit, what_would_fit
from perstep.measure import Effort
from perstep.stats import MIN_MERGED_ROUNDS, MIN_ROUNDS_FOR_VERDICT

LONG_NS = 20_000_000
"""A step that lasts longer reads far more memory than any cache holds: nothing is run before a turn and thrown away."""
FEWEST_TOKENS = (16, 8, 4, 3)
"""Shorter calls, where their length is left open; the last have a prefill and two decode steps."""


@dataclass(frozen=True)
class Tried:
    """What a few calls took.

    Attributes:
        first_ns: a call of one token.
        step_ns: each further token.
    """

    first_ns: float
    step_ns: float

    @property
    def discards(self) -> bool:
        """Whether a call of one token is thrown away before each turn."""
        return self.step_ns <= LONG_NS

    def turn_ns(self, tokens: int) -> float:
        """A call with what is thrown away before it."""
        return self.first_ns * (2 if self.discards else 1) + (tokens - 1) * self.step_ns


@dataclass(frozen=True)
class Turns:
    """How a round is made.

    Attributes:
        repeats: turns of a cell with each call.
        most_tokens: of a call; None where all are as they were.
        too_short: what to say before measuring, where the budget holds too few rounds; or empty.
    """

    repeats: int
    most_tokens: int | None = None
    too_short: str = ""


def fit_turns(
    tried: Tried, effort: Effort, *, tokens: Sequence[int], cells: int, marked: int, block: int, may_shorten: bool
) -> Turns:
    """What the budget holds 20 rounds of, or as many as intervals need.

    Args:
        tried: what calls take.
        effort: with the budget.
        tokens: of each call.
        cells: that take turns.
        marked: passes over the calls in a round besides.
        block: turns of a cell with each call in a whole balanced block.
        may_shorten: whether the number of tokens is left open.
    """
    longest = max(tokens)

    def round_ns(repeats: int, most: int) -> float:
        return (repeats * cells + marked) * sum(tried.turn_ns(min(count, most)) for count in tokens)

    lengths = [longest, *(n for n in FEWEST_TOKENS if n < longest)] if may_shorten else [longest]
    repeated = list(dict.fromkeys((block, 1)))
    for rounds in (MIN_ROUNDS_FOR_VERDICT, MIN_MERGED_ROUNDS):
        for most in lengths:
            for repeats in repeated:
                if rounds_that_fit(round_ns(repeats, most), effort) >= rounds:
                    return Turns(repeats, None if most == longest else most)
    shortest = lengths[-1]
    fewer = [n for n in FEWEST_TOKENS if n < shortest and not may_shorten]
    said = what_would_fit(
        round_ns(1, shortest),
        effort,
        least=MIN_MERGED_ROUNDS,
        shorter=[(f"-n {n}", round_ns(1, n)) for n in fewer[-2:-1] or fewer],
    )
    return Turns(1, None if shortest == longest else shortest, said)
