"""Which arms a budget pays for: estimated from a few steps, before anything is measured.

An arm that cannot have enough rounds is left out and listed; nothing is ever extrapolated into the data. What is
slow within its cell goes first (the naive method at a large vocabulary), then whole cells, the dearest first; then
what was slow comes back, the cheapest first, as far as there is room.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MARGIN = 1.15
"""Rounds take a little longer than a few tried steps promise."""
SLOW_WITHIN_CELL = 2.0
"""From this multiple of its cell's unmasked arm on, an arm goes before whole cells do."""


@dataclass(frozen=True)
class Cost:
    """What one arm of one cell takes in a round.

    Attributes:
        cell: key of the cell.
        arm: its name.
        ns: estimated.
        reference: whether it is the arm the others are compared with.
    """

    cell: str
    arm: str
    ns: float
    reference: bool = False


def left_out(costs: Sequence[Cost], fixed_ns: float, budget_s: float, rounds: int) -> list[Cost]:
    """The arms to leave out, so that so many rounds of the others fit into the budget.

    Args:
        costs: of every arm of every cell.
        fixed_ns: what else a round takes.
        budget_s: for all rounds; may be infinite.
        rounds: how many there must be.

    Returns:
        In no order; a cell's reference goes with the whole cell. One cell with one other arm always stays.
    """
    kept, gone = list(costs), []

    def fits(more: Sequence[Cost] = ()) -> bool:
        return (sum(cost.ns for cost in [*kept, *more]) + fixed_ns) * rounds * MARGIN <= budget_s * 1e9

    reference_ns = {cost.cell: cost.ns for cost in costs if cost.reference}
    slow = [c for c in costs if not c.reference and c.ns > SLOW_WITHIN_CELL * reference_ns[c.cell]]
    for cost in sorted(slow, key=lambda c: -c.ns):
        others = [c for c in kept if not c.reference and c is not cost and c.cell == cost.cell]
        if fits():
            break
        if others:
            kept.remove(cost)
            gone.append(cost)
    while not fits() and len(cells := {c.cell for c in kept}) > 1:
        dearest = max(sorted(cells), key=lambda cell: sum(c.ns for c in kept if c.cell == cell))
        gone += [c for c in kept if c.cell == dearest]
        kept = [c for c in kept if c.cell != dearest]
    for cost in sorted(slow, key=lambda c: c.ns):
        if cost in gone and any(c.cell == cost.cell for c in kept) and fits([cost]):
            gone.remove(cost)
            kept.append(cost)
    return gone
