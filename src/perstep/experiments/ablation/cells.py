"""Which combinations of parts are measured, and what their costs say (law "interactions are shown").

Up to four parts all 2^k combinations, so that effects, interactions and Shapley shares exist; above that all,
none, each left out and each alone, and a part has one cost only where the two ways agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.report.change import RelativeChange
from perstep.stats import (
    MAX_FACTORIAL_PARTS,
    Effect,
    Factorial,
    OneAtATime,
    factorial_effects,
    one_at_a_time,
    paired_change,
    withhold,
)

ALL, NONE = "all", "none"
_DRAWS = 20_261_122
"""Seed of the resampling: the same samples give the same intervals."""


@dataclass(frozen=True)
class Design:
    """The cells of an ablation.

    Attributes:
        names: of the parts.
        cells: label -> the parts present.
        factorial: whether they are all combinations.
    """

    names: tuple[str, ...]
    cells: dict[str, frozenset[str]]
    factorial: bool

    def without(self, name: str) -> str:
        """The label of the cell that lacks this part alone."""
        return self._label(frozenset(self.names) - {name})

    def only(self, name: str) -> str:
        """The label of the cell that has this part alone."""
        return self._label(frozenset({name}))

    def _label(self, present: frozenset[str]) -> str:
        return next(label for label, cell in self.cells.items() if cell == present)


def design(names: Sequence[str]) -> Design:
    """The cells for these parts: `all` first, then those that lack one, `none` last."""
    every = frozenset(names)
    factorial = len(names) <= MAX_FACTORIAL_PARTS
    if factorial:
        subsets = [frozenset(n for i, n in enumerate(names) if not bits >> i & 1) for bits in range(2 ** len(names))]
    else:
        subsets = [every, frozenset(), *(every - {n} for n in names), *(frozenset({n}) for n in names)]
    subsets.sort(key=lambda present: -len(present))
    return Design(tuple(names), {_label(every, cell, names): cell for cell in subsets}, factorial)


def _label(every: frozenset[str], present: frozenset[str], names: Sequence[str]) -> str:
    if present == every:
        return ALL
    if not present:
        return NONE
    if len(every - present) == 1:
        return f"without {next(iter(every - present))}"
    return "only " + " + ".join(name for name in names if name in present)


class Cell(RelativeChange, frozen=True, kw_only=True):
    """One combination of parts, and its change against the cell `all`.

    Attributes:
        parts: those present.
        ns_per_step: a whole call over its forwards, median over rounds paired with the cell `all`.
    """

    parts: list[str]
    ns_per_step: float


class PartEffects(msgspec.Struct, kw_only=True):
    """What a part costs, in nanoseconds a step.

    Attributes:
        leave_one_out: time saved by taking it away, all others present.
        add_one_in: what adding it costs, no other present.
        effect: mean change when it is added, over all combinations of the others; None above four parts.
        shapley: its fair part of the whole; above four parts its cost where both ways agree, else None.
        share: the same as a fraction of the step with all parts.
        reason: why there is no share; empty otherwise.
    """

    leave_one_out: Effect
    add_one_in: Effect
    effect: Effect | None
    shapley: Effect | None
    share: Effect | None
    reason: str = ""


class Effects(msgspec.Struct, kw_only=True):
    """What all parts cost.

    Attributes:
        cells: by label.
        total: all parts together, all present minus none, in nanoseconds a step.
        parts: by name.
        interaction: `a*b` -> what a and b cost together beyond the sum of their single costs; below 0 they
            share work. Empty above four parts.
        unattributed: what of the total no part's cost holds (0 with a factorial).
        rounds: measured.
        merged_by: adjacent rounds made one before resampling.
        reason: why there are no intervals; empty otherwise.
    """

    cells: dict[str, Cell]
    total: Effect
    parts: dict[str, PartEffects]
    interaction: dict[str, Effect]
    unattributed: float
    rounds: int
    merged_by: int
    reason: str


def effects(plan: Design, costs_ns: dict[str, NDArray[np.float64]], busy: str = "") -> Effects:
    """What the cells' costs say: a pure function.

    Args:
        plan: the cells.
        costs_ns: by label, [rounds] nanoseconds a step.
        busy: why wall time gives no verdict; empty where it does.
    """
    rng = np.random.default_rng(_DRAWS)
    every = costs_ns[ALL]
    if plan.factorial:
        by_parts = {present: label for label, present in plan.cells.items()}
        bits = [frozenset(n for i, n in enumerate(plan.names) if b >> i & 1) for b in range(2 ** len(plan.names))]
        result = _from_factorial(factorial_effects(np.stack([costs_ns[by_parts[b]] for b in bits], 1), plan.names, rng))
    else:
        without = np.stack([costs_ns[plan.without(name)] for name in plan.names], 1)
        only = np.stack([costs_ns[plan.only(name)] for name in plan.names], 1)
        result = _from_single(one_at_a_time(every, costs_ns[NONE], without, only, plan.names, rng))
    comparisons = len(costs_ns) - 1
    for label, cost in costs_ns.items():
        # Paired with `all`, as the effects are, so that the columns of a table agree.
        ns = float(np.median(cost / every) * np.median(every))
        change = None if label == ALL else withhold(paired_change(every, cost, comparisons=comparisons), busy)
        present = [name for name in plan.names if name in plan.cells[label]]
        result.cells[label] = Cell.of(change, parts=present, ns_per_step=ns)
    return result


def _from_factorial(f: Factorial) -> Effects:
    parts = {
        name: PartEffects(
            leave_one_out=f.leave_one_out[name],
            add_one_in=f.add_one_in[name],
            effect=f.effect[name],
            shapley=f.shapley[name],
            share=f.shapley_share[name],
        )
        for name in f.names
    }
    interaction = {"*".join(names): effect for names, effect in f.interaction.items()}
    return Effects(
        cells={},
        total=f.total,
        parts=parts,
        interaction=interaction,
        unattributed=0.0,
        rounds=f.rounds,
        merged_by=f.merged_by,
        reason=f.reason,
    )


def _from_single(o: OneAtATime) -> Effects:
    parts = {
        name: PartEffects(
            leave_one_out=part.leave_one_out,
            add_one_in=part.add_one_in,
            effect=None,
            shapley=part.cost,
            share=part.share,
            reason=part.reason,
        )
        for name, part in o.parts.items()
    }
    reason = "" if o.total.ci_low is not None else "too few independent rounds for intervals"
    return Effects(
        cells={},
        total=o.total,
        parts=parts,
        interaction={},
        unattributed=o.unattributed.estimate,
        rounds=o.rounds,
        merged_by=o.merged_by,
        reason=reason,
    )
