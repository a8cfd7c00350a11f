"""A few steps and fills of every arm, from which is estimated what a round of it takes. None of it is data."""

from collections.abc import Mapping

import numpy as np

from perstep.automata import Engine
from perstep.experiments.mask.arms import NO_MASK
from perstep.experiments.mask.cells import Cell
from perstep.experiments.mask.planning import Cost
from perstep.measure import Clock, Recorder

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
