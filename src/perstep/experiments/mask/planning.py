"""Which arms a budget pays for: estimated from a few steps, before anything is measured.

An arm that cannot have enough rounds is left out and listed; nothing is ever extrapolated into the data. What is
slow within its cell goes first (the naive method at a large vocabulary), then curves of fills against size, then whole
cells, the dearest first; then slow arms and curves are added again, the cheapest first, while there is time.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perstep.automata import Engine
from perstep.experiments.mask.arms import NO_MASK
from perstep.experiments.mask.cells import Cell
from perstep.experiments.planning import MARGIN, what_would_fit
from perstep.measure import Clock, Effort, Recorder

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


@dataclass(frozen=True)
class Tried:
    """What an arm's steps took when they were tried.

    Attributes:
        cell: key of the cell.
        arm: the engine's name, or that of no mask.
        step_ns: a decode step without a mask.
        fill_ns: a fill, of all rows; None for no mask.
    """

    cell: str
    arm: str
    step_ns: float
    fill_ns: float | None = None

    def cost(self, new_tokens: int) -> Cost:
        """What the arm takes in a round: two passes over this number of tokens, and for an engine its hot passes."""
        steps = 2 * (new_tokens + 4)
        if self.fill_ns is None:
            return Cost(self.cell, self.arm, steps * self.step_ns, reference=True)
        hot = new_tokens * (1 if self.fill_ns * new_tokens > SLOW_HOT_NS else 2)
        return Cost(self.cell, self.arm, steps * (self.step_ns + self.fill_ns) + hot * self.fill_ns)


def try_arms(cell: Cell, engines: Mapping[str, Engine], clock: Clock) -> list[Tried]:
    """A few steps of a cell without a mask, and a few fills of each engine."""
    recorder, loop = Recorder(clock), cell.loops[NO_MASK]
    loop.reset()
    loop.prefill(cell.trace.prompt_BT, recorder.mark)
    recorder.clear()
    for position in range(min(_TRIED_STEPS, cell.trace.chosen_BN.shape[1] - 1)):
        with recorder.step():
            loop.decode(cell.trace.chosen_BN[:, position], recorder.mark)
    step_ns = float(np.median(recorder.steps().step_ns))
    tried = [Tried(cell.key, NO_MASK, step_ns)]
    return tried + [Tried(cell.key, name, step_ns, _fill_ns(cell, engine, clock)) for name, engine in engines.items()]


@dataclass(frozen=True)
class Chosen:
    """What is measured.

    Attributes:
        new_tokens: of the texts.
        costs: of everything that was asked for, at that length.
        gone: of these, what there is no time for.
        too_short: what to say before measuring, where the budget holds too few rounds; or empty.
    """

    new_tokens: int
    costs: list[Cost]
    gone: list[Cost]
    too_short: str


def choose(
    tried: Sequence[Tried], curves: Sequence[Cost], effort: Effort, rounds: int, lengths: Sequence[int]
) -> Chosen:
    """Shorter texts, where their length is left open, before a whole cell is left out; then arms and cells.

    Args:
        tried: every arm of every cell.
        curves: what they take.
        effort: with the budget of all rounds.
        rounds: how many there must be.
        lengths: of the texts, the longest first.
    """

    def costs_at(new_tokens: int) -> list[Cost]:
        return [*(one.cost(new_tokens) for one in tried), *curves]

    def holds(costs: Sequence[Cost], gone: Sequence[Cost]) -> bool:
        kept = [cost for cost in costs if cost not in gone]
        return not any(cost.reference for cost in gone) and needed_s(kept, rounds) <= effort.budget_s

    for new_tokens in lengths:
        costs = costs_at(new_tokens)
        gone = left_out(costs, effort.budget_s, rounds)
        if holds(costs, gone):
            break
    kept = [cost for cost in costs if cost not in gone]
    names = {(cost.cell, cost.arm) for cost in kept}
    most = max(Counter(cost.cell for cost in kept if not cost.curve).values()) - 1  # intervals of a table

    def round_ns(new_tokens: int) -> float:
        return sum(cost.ns for cost in costs_at(new_tokens) if (cost.cell, cost.arm) in names)

    shorter = [(f"-n {n}", round_ns(n)) for n in (8, 4) if n < new_tokens][:1]
    said = what_would_fit(round_ns(new_tokens), effort, intervals=most, shorter=shorter)
    return Chosen(new_tokens, costs, gone, said)


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
