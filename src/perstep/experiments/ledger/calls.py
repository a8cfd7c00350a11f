"""How the ledger's rounds are made so that the budget holds enough of them.

Where 20 rounds of whole passes fit, a round is a balanced block of passes. Where steps are too long for that, marked
and plain steps take turns inside calls, and a round is a piece of two calls (`measure.in_pieces`). Nothing is measured
here.
"""

from math import ceil

import msgspec

from perstep._words import plural
from perstep.experiments.planning import MARGIN, least_rounds, rounds_that_fit, span
from perstep.measure import Effort
from perstep.stats import MIN_ROUNDS_FOR_VERDICT

PASSES = 4
"""Of a balanced block of two arms."""
CEILING_ROUNDS = 4
"""A run times the ceilings at least so often: bounds need three rounds that nothing disturbed."""
MOST_PROFILED = 13
PARTS = 16
"""About as many intervals as a ledger of modules shows."""
LEAST_TOKENS = 3
"""A prefill and the two decode steps of the least piece."""


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured at a time where marked and plain steps take turns.

    Attributes:
        new_tokens: of the pair of calls: one prefill and the decode steps after it.
        prefills: further pairs of calls that end with the prefill.
        sweeps: how often the ceilings are timed.
        profiled_tokens: that are generated under the profiler, on a device.
        wanted_s: what 20 rounds take.
        too_short: what to say before measuring, where the budget holds too few rounds; or empty.
    """

    new_tokens: int
    prefills: int
    sweeps: int
    profiled_tokens: int
    wanted_s: float = 0.0
    too_short: str = ""


def plan_calls(prefill_ns: float, step_ns: float, new_tokens: int, effort: Effort) -> Calls | None:
    """How long the calls are and what goes with them; None where whole passes fit.

    Args:
        prefill_ns: what a prefill takes.
        step_ns: what a decode step takes.
        new_tokens: of the trace.
        effort: with the budget.
    """
    before_ns = prefill_ns + (step_ns if new_tokens > 1 else 0)  # what is run and not recorded

    def pair_ns(tokens: int) -> float:
        return 2 * (before_ns + prefill_ns + (tokens - 1) * step_ns)

    if rounds_that_fit(PASSES / 2 * pair_ns(new_tokens), effort) >= MIN_ROUNDS_FOR_VERDICT:
        return None
    budget_ns = effort.budget_s * 1e9 / MARGIN
    steps = int((budget_ns / 2 - before_ns - prefill_ns) // step_ns) if step_ns else 0
    tokens = min(new_tokens, max(1 + steps, LEAST_TOKENS))
    pairs = max(int(budget_ns // pair_ns(tokens)), 1)
    left = int((budget_ns / pairs - pair_ns(tokens)) // (4 * prefill_ns)) if prefill_ns else 0
    enough = min(new_tokens, 1 + 2 * MIN_ROUNDS_FOR_VERDICT)
    wanted_s = ceil(MIN_ROUNDS_FOR_VERDICT / _pieces(enough)) * pair_ns(enough) * MARGIN / 1e9
    rounds = pairs * _pieces(tokens) if pair_ns(tokens) <= effort.budget_s * 1e9 else 0
    return Calls(
        new_tokens=tokens,
        prefills=max(min(ceil(MIN_ROUNDS_FOR_VERDICT / pairs) - 1, left), 0),
        sweeps=ceil(CEILING_ROUNDS / pairs),
        profiled_tokens=min(max(6, 1 + ceil(MIN_ROUNDS_FOR_VERDICT / pairs)), MOST_PROFILED, tokens),
        wanted_s=wanted_s,
        too_short="" if rounds >= least_rounds(PARTS) else _too_short(rounds, wanted_s, effort),
    )


def _pieces(tokens: int) -> int:
    """The most rounds in a pair of calls."""
    return max((tokens - 1) // 2, 1)


def _too_short(rounds: int, wanted_s: float, effort: Effort) -> str:
    return (
        f"the budget of {span(effort.budget_s)} holds {plural(rounds, 'round')}, and intervals need "
        f"{least_rounds(PARTS)}; {MIN_ROUNDS_FOR_VERDICT} rounds need {span(wanted_s)}: give --budget {ceil(wanted_s)}s"
    )
