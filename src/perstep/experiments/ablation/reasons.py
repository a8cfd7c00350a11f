"""Whether taking a part away saves what is spent inside it, and why not, in plain sentences.

The difference is looked for where it can be: in waits for a device that a part only moves, at the compiler's
boundary, and in other parts whose work changes. Where none of them accounts for it, that is said.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._words import plural, short
from perstep.experiments.ablation.samples import ColdCell
from perstep.report.format import duration, interval, significant, time_unit
from perstep.stats import Effect, ledger_estimate, merge_until_independent, merged_interval, round_slowdown

TOLERANCE = 0.01
"""Of the step: smaller differences are none, whatever the intervals."""
NOTABLE = 0.005
"""Of the step: another part that changes by less is not named."""


@dataclass(frozen=True)
class Spent:
    """Steps of marked calls.

    Attributes:
        step_ns: [rounds, steps].
        parts: the same for each part, the residual among them.
    """

    step_ns: NDArray[np.int64]
    parts: Mapping[str, NDArray[np.int64]]


class Elsewhere(msgspec.Struct, kw_only=True):
    """Another part whose time in place differs with all parts and without any.

    Attributes:
        part: its name in a ledger.
        ns: how much longer it takes a step when all parts are present.
    """

    part: str
    ns: Effect

    def sentence(self) -> str:
        """The finding in words."""
        more = "more" if self.ns.estimate > 0 else "less"
        return f"`{self.part}` itself takes {duration(abs(self.ns.estimate))} {more} a step when the parts are present"


def elsewhere(with_all: Spent, without: Spent, own: Collection[str]) -> list[Elsewhere]:
    """Other parts that clearly take another time, the largest change first."""
    names = [name for name in with_all.parts if name in without.parts and name not in own]
    step_ns = ledger_estimate(with_all.step_ns, with_all.parts).step_ns
    changes = [Elsewhere(part=name, ns=_change(name, with_all, without, len(names))) for name in names]
    clear = [
        change
        for change in changes
        if change.ns.ci_low is not None
        and change.ns.ci_high is not None
        and (change.ns.ci_low > 0 or change.ns.ci_high < 0)
        and abs(change.ns.estimate) > NOTABLE * step_ns
    ]
    return sorted(clear, key=lambda change: -abs(change.ns.estimate))


def _change(name: str, with_all: Spent, without: Spent, comparisons: int) -> Effect:
    """Nanoseconds a step, the median of the rounds' differences normalised by round speed."""
    totals = np.stack([_per_step(name, with_all), _per_step(name, without)], axis=1)
    merged = merge_until_independent(totals, lambda t: t[:, 0] - t[:, 1], comparisons=comparisons)
    ends = merged_interval(merged, comparisons=comparisons)
    estimate = float(np.median(totals[:, 0] - totals[:, 1]))
    return Effect(estimate, None if ends is None else ends.low, None if ends is None else ends.high)


def _per_step(name: str, spent: Spent) -> NDArray[np.float64]:
    per_step: NDArray[np.float64] = spent.parts[name].mean(axis=1) / round_slowdown(spent.step_ns)
    return per_step


def agreement(
    name: str,
    taken_away: Effect,
    in_place: Effect,
    *,
    step_ns: float,
    syncs: float,
    cold: Mapping[str, ColdCell] | None,
    without: str,
    others: Sequence[Elsewhere],
) -> tuple[bool | None, str]:
    """Whether the two agree (None: the intervals do not tell), and a sentence.

    Args:
        name: of the part.
        taken_away: time saved by leaving it out, nanoseconds a step.
        in_place: what is spent in it.
        step_ns: with all parts.
        syncs: waits for the device that it causes in a step; 0 on a CPU, where nothing waits.
        cold: cell -> what was compiled, or None.
        without: the label of the cell that lacks it.
        others: parts whose work changes.
    """
    unit, size = time_unit([in_place.estimate, taken_away.estimate])
    figures = (
        f"`{name}`: in place {_shown(in_place, size)} {unit} a step, taking it away saves "
        f"{_shown(taken_away, size)} {unit}"
    )
    ends = (taken_away.ci_low, taken_away.ci_high, in_place.ci_low, in_place.ci_high)
    if None in ends:
        return None, f"{figures}. There are too few rounds to tell whether they agree."
    low, high, placed_low, placed_high = (end for end in ends if end is not None)
    gap = taken_away.estimate - in_place.estimate
    if abs(gap) <= TOLERANCE * step_ns or (low <= placed_high and placed_low <= high):
        return True, f"{figures}. They agree."
    more = "more" if gap > 0 else "less"
    why = _why(gap, syncs, cold, without, others)
    return False, f"{figures}: {duration(abs(gap))} {more} than is spent in it. {why}"


def _shown(effect: Effect, size: float) -> str:
    has_interval = effect.ci_low is not None and effect.ci_high is not None
    ends = f" {interval(effect.ci_low, effect.ci_high, size)}" if has_interval else ""
    return f"{significant(effect.estimate / size)}{ends}"


def _why(
    gap: float, syncs: float, cold: Mapping[str, ColdCell] | None, without: str, others: Sequence[Elsewhere]
) -> str:
    if syncs and gap < 0:
        return (
            f"It waits for the device {short(syncs, 3)} times a step (a hidden sync): its time in place includes work "
            "that was queued before it; without it another part waits for that work."
        )
    if cold is not None and cold["all"].graphs != cold[without].graphs:
        return (
            f"The compile boundary moves with it: {plural(cold['all'].graphs, 'graph')} with all parts, "
            f"{cold[without].graphs} without it."
        )
    same_way = [other for other in others if (other.ns.estimate > 0) == (gap > 0)]
    if same_way:
        return f"The cost of other parts changes: {same_way[0].sentence()}."
    return "No sync, no compile boundary and no other part's work accounts for it."
