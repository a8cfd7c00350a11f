"""Passes of the reference decoder: its decode loop, with marks at the boundaries of the stages alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.knobs.runners import Work
from perstep.experiments.knobs.samples import FORWARD, Pass, pass_of
from perstep.measure import Clock, Recorder, record_trace, replay
from perstep.targets import Opened
from perstep.targets.reference import GREEDY
from perstep.targets.reference.loop import ReferenceLoop

_STAGES = {"embed": FORWARD, "sample": "sample", "stop": "stop"}
"""The decoder's marks at which a stage begins -> its name."""


class ReferenceRunner:
    """A reference decoder that makes passes; `runners.Runner`."""

    def __init__(self, opened: Opened, clock: Clock) -> None:
        self.opened = opened
        self.config_hash = opened.model.config_hash
        self.cache, self.device_waits = "allocated once for the longest call, emptied before each", ""
        self._clock = clock
        self._loops: dict[int, ReferenceLoop] = {}

    def record(
        self,
        prompt_BT: NDArray[np.int64],
        new_tokens: int,
        *,
        extra: dict[str, Any] | None = None,
        vision_tokens: int = 0,
    ) -> Work:
        """What the decoder generates greedily."""
        if extra or vision_tokens:
            raise InputError(f"{self.opened.name} is a text model: it takes no images")
        loop = self._loop(prompt_BT.shape[0], prompt_BT.shape[1] + new_tokens - 1)
        with np.errstate(over="ignore", invalid="ignore"):  # weights that overflow are the sampler's error to tell
            return Work(record_trace(loop, prompt_BT, new_tokens))

    def run(self, work: Work) -> Pass:
        """One replay of the trace."""
        batch, prompt_tokens = work.trace.prompt_BT.shape
        recorder = Recorder(self._clock)
        recorder.mark = _stages_alone(recorder.mark)
        loop = self._loop(batch, prompt_tokens + work.new_tokens - 1)
        differing = replay(loop, work.trace, recorder, marked=True)
        return pass_of(recorder, work.new_tokens, differing)

    def _loop(self, batch: int, positions: int) -> ReferenceLoop:
        """One loop for all lengths, as large as the largest recorded: how a cache is laid out shows in its cost."""
        held = self._loops.get(batch)
        if held is None or held.cache.capacity < positions:
            self._loops[batch] = ReferenceLoop(self.opened.model, batch, positions, GREEDY)
        return self._loops[batch]


def _stages_alone(mark: Callable[[str], None]) -> Callable[[str], None]:
    def coarse(part: str) -> None:
        stage = _STAGES.get(part)
        if stage is not None:
            mark(stage)

    return coarse
