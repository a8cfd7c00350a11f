"""The ledger of a user's own calls, which run once and are not replayed.

Marked and plain steps took turns inside the calls (law "the observer is measured"). The shortest run of consecutive
steps with as many marked as plain ones, at least two of each, is a round (M P P M in one long call). Intervals and the
instrumentation overhead come from rounds.

Where calls repeat each other, each position has its median over calls, and a row is the mean of these (law "medians do
not add"). Where each call made one step of the kind (a prefill), a row is the median over all calls. Otherwise each
position was measured once, and a row is the mean over steps: a median over neighbouring steps would lose the rare
expensive ones. No step is left out here; bursts are counted.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._words import plural
from perstep.measure.ledger import (
    MEDIANS_MAY_EXCEED,
    OVERHEAD_INVALID,
    Ledger,
    LedgerSamples,
    check_sums,
    close_ledger,
)
from perstep.measure.pieces import RoundTotals
from perstep.measure.recorder import Steps
from perstep.stats import LedgerEstimate, ledger_estimate, paired_step_estimates, step_estimate

LOOKS = 3
"""The least number of marked measurements of a position: the median of two is their mean."""
IN_A_ROUND = 2
"""The least number of steps of either kind in a round."""
BURST = 3.0
"""A step counts as a burst if it is longer than this many times the median step."""
BURSTS_SAID = 0.05
"""A note states the bursts from this share of the time on."""


class WatchedSteps(Steps, kw_only=True, eq=False):
    """The recorded steps of one kind, in the order in which they ran; the columns of parts hold the marked ones alone.

    Attributes:
        marked: whether marks were taken in a step, shape [steps].
        calls: how many steps each call has here, in order; calls of equal shape alone may repeat each other.
        alike: the calls had one shape, so that step k of one stands for step k of another.
        forwards: forwards executed, recorded or not.
    """

    marked: NDArray[np.bool_]
    calls: list[int]
    alike: bool
    forwards: int


def build_watched_ledger(kind: str, steps: WatchedSteps, *, mark_ns: float) -> Ledger:
    """The ledger of one kind of step of watched calls.

    Per step it holds means over positions: of medians over calls where at least six calls of one shape
    made as many steps, or at least three marked ones one step each; of single values otherwise; `notes` says
    which. Without a round the overhead is None, with too few the intervals are, and an overhead above 50 % is then
    no reason to call the ledger invalid.

    Args:
        kind: `prefill` or `decode`.
        steps: at least one marked step.
        mark_ns: the cost of one mark, from `measure_mark_ns`.

    Raises:
        InvalidMeasurement: the parts and the residual do not add up to the step, or one of them is negative,
            or a step took no time on this clock.
    """
    step_ns, plain_ns = steps.step_ns[steps.marked], steps.step_ns[~steps.marked]
    samples = LedgerSamples(
        plain_ns=plain_ns,
        step_ns=step_ns,
        parts=steps.parts,
        residual_ns=steps.residual_ns,
        marks_per_step={name: count / len(step_ns) for name, count in steps.marks.items()},
    )
    check_sums(kind, samples)
    repeated = _of_one_step(steps, samples) or _over_calls(steps)
    estimate, plain = repeated or _means(samples)
    ledger = close_ledger(
        kind,
        samples,
        estimate=estimate,
        plain_ns=plain,
        rounds=_rounds(steps),
        mark_ns=mark_ns,
        forwards=steps.forwards,
    )
    notes = [*ledger.notes, _how(steps, len(step_ns), repeated=repeated is not None)]
    if repeated is None:
        notes += _bursts(step_ns)
    # A call runs once: on a disturbed machine its few steps tell little of the marks.
    few = ledger.overhead is not None and 1 + ledger.overhead > OVERHEAD_INVALID and ledger.overhead_ci_low is None
    return msgspec.structs.replace(ledger, notes=notes, invalid="" if few else ledger.invalid)


def _means(samples: LedgerSamples) -> tuple[LedgerEstimate, float | None]:
    """Each step counts once. The sums are exact here, so the residual is its own mean."""
    parts = {name: float(ns.mean()) for name, ns in samples.parts.items()}
    estimate = LedgerEstimate(float(samples.step_ns.mean()), parts, float(samples.residual_ns.mean()))
    return estimate, float(samples.plain_ns.mean()) if len(samples.plain_ns) else None


def _over_calls(steps: WatchedSteps) -> tuple[LedgerEstimate, float | None] | None:
    """The estimate over pairs of calls in which each position is marked once and plain once; None if there are none.

    It is the mean over positions of medians over calls. A call without a partner is in the totals and not in the
    estimate.
    """
    pairs = len(steps.calls) // 2
    if not steps.alike or pairs < LOOKS or len(set(steps.calls)) != 1 or steps.calls[0] == 1:
        return None
    shape = (len(steps.calls), steps.calls[0])
    marked = steps.marked.reshape(shape)
    first, second = marked[: 2 * pairs : 2], marked[1 : 2 * pairs : 2]
    if not (first ^ second).all():  # a step was dropped, or every step was marked
        return None

    def seen(ns: NDArray[np.int64], in_first: NDArray[np.bool_]) -> NDArray[np.int64]:
        by_call = ns.reshape(shape)
        return np.where(in_first, by_call[: 2 * pairs : 2], by_call[1 : 2 * pairs : 2])

    parts = {name: seen(_spread(ns, steps.marked), first) for name, ns in steps.parts.items()}
    marked_ns, plain_ns = seen(steps.step_ns, first), seen(steps.step_ns, ~first)
    shares = ledger_estimate(marked_ns, parts)
    if (
        shares.scale_factor < 1 - MEDIANS_MAY_EXCEED
    ):  # medians do not add, and over few calls they may exceed the step's
        return None
    plain, step = paired_step_estimates(plain_ns, marked_ns)
    return shares.at(step), plain


def _of_one_step(steps: WatchedSteps, samples: LedgerSamples) -> tuple[LedgerEstimate, float | None] | None:
    """The median over calls that made one step each; None where they made more, or too few were marked."""
    if set(steps.calls) != {1} or len(samples.step_ns) < LOOKS:
        return None
    estimate = ledger_estimate(samples.step_ns[:, None], {name: ns[:, None] for name, ns in samples.parts.items()})
    if estimate.scale_factor < 1 - MEDIANS_MAY_EXCEED:
        return None
    return estimate, step_estimate(samples.plain_ns[:, None]) if len(samples.plain_ns) else None


def _rounds(steps: WatchedSteps) -> RoundTotals:
    begins, end = _cut(steps.marked)

    def totals(ns: NDArray[np.int64]) -> NDArray[np.float64]:
        if not begins:
            return np.zeros(0)
        return np.asarray(np.add.reduceat(ns[:end], begins), dtype=np.float64)

    return RoundTotals(
        plain_ns=totals(np.where(steps.marked, 0, steps.step_ns)),
        step_ns=totals(np.where(steps.marked, steps.step_ns, 0)),
        parts_ns={name: totals(_spread(ns, steps.marked)) for name, ns in steps.parts.items()},
    )


def _cut(marked: NDArray[np.bool_]) -> tuple[list[int], int]:
    """Where each round begins, and where the last one ends.

    >>> _cut(np.array([1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1], bool))
    ([0, 4], 10)
    """
    begins: list[int] = []
    begin = balance = 0
    for index, is_marked in enumerate(marked.tolist(), start=1):
        balance += 1 if is_marked else -1
        if balance == 0 and index - begin >= 2 * IN_A_ROUND:
            begins.append(begin)
            begin = index
    return begins, begin


def _spread(ns: NDArray[np.int64], marked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A column of marked steps as one of all steps, 0 in the plain ones."""
    column = np.zeros(len(marked), np.int64)
    column[marked] = ns
    return column


def _how(steps: WatchedSteps, marked: int, *, repeated: bool) -> str:
    if repeated and set(steps.calls) == {1}:
        return f"Per step: the median over {plural(marked, 'marked step')}, one a call."
    if repeated:
        positions, calls = plural(steps.calls[0], "position"), plural(len(steps.calls), "call")
        return f"Per step: at each of {positions} the median over {calls} of one shape, then the mean of these."
    if marked == 1:
        return "Per step: the one marked step, which ran once; bursts are included."
    return f"Per step: the mean of {plural(marked, 'marked step')}, each of which ran once; bursts are included."


def _bursts(step_ns: NDArray[np.int64]) -> list[str]:
    above = step_ns > BURST * np.median(step_ns)
    share = float(step_ns[above].sum() / step_ns.sum())
    if share < BURSTS_SAID:
        return []
    count = f"{int(above.sum()):,} of {plural(len(step_ns), 'marked step')}"
    return [f"{count} took more than {BURST:.0f} times the median one: {share:.0%} of the time."]
