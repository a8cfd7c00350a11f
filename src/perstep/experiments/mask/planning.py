"""Which arms a budget pays for: estimated from a few steps, before anything is measured.

An arm that cannot have enough rounds is left out and listed; nothing is ever extrapolated into the data. What is
slow within its cell goes first (the naive method at a large vocabulary), then curves of fills against size, then whole
cells, the dearest first; then slow arms and curves are added again, the cheapest first, while there is time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perstep.automata import Engine
from perstep.experiments.mask.arms import NO_MASK
from perstep.experiments.mask.cells import Cell
from perstep.measure import Clock, Recorder

MARGIN = 1.15
"""Rounds take a little longer than a few tried steps promise."""
SLOW_WITHIN_CELL = 2.0
"""From this multiple of its cell's unmasked arm on, an arm goes before whole cells do."""


@dataclass(frozen=True)
class Cost:
    """What one arm of one cell takes in a round, or one curve.

    Attributes:
        cell: key of the cell; of a curve its own.
        arm: the engine's name.
        ns: estimated.
        reference: whether it is the arm the others are compared with.
        curve: whether it is a curve of fills against the vocabulary's size.
    """

    cell: str
    arm: str
    ns: float
    reference: bool = False
    curve: bool = False


def needed_s(costs: Sequence[Cost], rounds: int) -> float:
    """The seconds that a number of rounds of these takes."""
    return sum(cost.ns for cost in costs) * rounds * MARGIN / 1e9


def left_out(costs: Sequence[Cost], budget_s: float, rounds: int) -> list[Cost]:
    """The arms to leave out, so that enough rounds of the others fit into the budget.

    Args:
        costs: of every arm of every cell, and of every curve.
        budget_s: for all rounds; may be infinite.
        rounds: how many there must be.

    Returns:
        In no order; a cell's reference goes with the whole cell. One cell with one other arm always stays.
    """
    kept, gone = list(costs), []

    def fits(more: Sequence[Cost] = ()) -> bool:
        return needed_s([*kept, *more], rounds) <= budget_s

    reference_ns = {cost.cell: cost.ns for cost in costs if cost.reference}
    engines = [c for c in costs if not (c.reference or c.curve)]
    slow = [c for c in engines if c.ns > SLOW_WITHIN_CELL * reference_ns[c.cell]]
    curves = [c for c in costs if c.curve]
    for cost in sorted(slow, key=lambda c: -c.ns):
        others = [c for c in kept if not c.reference and c is not cost and c.cell == cost.cell]
        if fits():
            break
        if others:
            kept.remove(cost)
            gone.append(cost)
    for cost in sorted(curves, key=lambda c: -c.ns):
        if not fits():
            kept.remove(cost)
            gone.append(cost)
    while not fits() and len(cells := {c.cell for c in kept if not c.curve}) > 1:
        dearest = max(sorted(cells), key=lambda cell: sum(c.ns for c in kept if c.cell == cell))
        gone += [c for c in kept if c.cell == dearest]
        kept = [c for c in kept if c.cell != dearest]
    for cost in sorted([*slow, *curves], key=lambda c: c.ns):
        if cost in gone and (cost.curve or any(c.cell == cost.cell for c in kept)) and fits([cost]):
            gone.remove(cost)
            kept.append(cost)
    return gone


_TRIED_STEPS = 3
_TRIED_FILLS = 4
SLOW_HOT_NS = 20_000_000
"""A hot pass that takes longer than this is not run twice to be hot: what it touches is beyond the caches anyway."""


def try_arms(cell: Cell, engines: Mapping[str, Engine], clock: Clock) -> list[Cost]:
    """What each arm takes in a round: two passes, and for an engine its hot passes."""
    recorder, loop = Recorder(clock), cell.loops[NO_MASK]
    new_tokens = cell.trace.chosen_BN.shape[1]
    loop.reset()
    loop.prefill(cell.trace.prompt_BT, recorder.mark)
    recorder.clear()
    for position in range(min(_TRIED_STEPS, new_tokens - 1)):
        with recorder.step():
            loop.decode(cell.trace.chosen_BN[:, position], recorder.mark)
    step_ns = float(np.median(recorder.steps().step_ns))
    steps = 2 * (new_tokens + 4)
    costs = [Cost(cell.key, NO_MASK, steps * step_ns, reference=True)]
    for name, engine in engines.items():
        fill_ns = _fill_ns(cell, engine, clock)
        hot = new_tokens * (1 if fill_ns * new_tokens > SLOW_HOT_NS else 2)
        costs.append(Cost(cell.key, name, steps * (step_ns + fill_ns) + hot * fill_ns))
    return costs


def _fill_ns(cell: Cell, engine: Engine, clock: Clock) -> float:
    """The mean of a few fills along the first row, times the batch; but for the naive one of a second walk."""
    row = cell.trace.chosen_BN[0].tolist()
    places = set(np.linspace(0, len(row) - 1, _TRIED_FILLS).round().astype(int).tolist())
    for _ in range(1 if engine.name == "naive" else 2):
        times = []
        engine.reset()
        for position, token in enumerate(row):
            if position in places:
                begun_ns = clock.now()
                engine.fill()
                times.append(clock.now() - begun_ns)
            engine.accept(token)
            if token in cell.vocab.vocabulary.eos_ids:
                engine.reset()
    engine.reset()
    return float(np.mean(times)) * cell.batch
