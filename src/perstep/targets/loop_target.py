"""A target with a decode loop in Python that lays its marks itself: all that a backend must add is the loop.

Its passes are `measure.replay`: between the readings of the clock that begin and end a step lies nothing but the loop.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import numpy as np

from perstep.errors import InputError
from perstep.measure import DecodeLoop, Mark, no_mark, record_trace, replay
from perstep.targets.reference.sample import GREEDY, Sampler
from perstep.targets.target import PLAIN, STAGES, AnyRecorder, Argument, Ids, Target, Work

Loop = TypeVar("Loop", bound=DecodeLoop)


@dataclass(eq=False)
class LoopTarget(Target, Generic[Loop]):
    """A target with a decode loop.

    Attributes:
        stages: the loop's marks at which a stage begins -> its name: `forward`, `sample` ...
    """

    discarded = "one prefill and one decode step after each switch of arms"
    cache = "allocated once for the longest call, emptied before each"
    stages: ClassVar[Mapping[str, str]]
    _loops: dict[tuple[int, Sampler], tuple[int, Loop]] = field(default_factory=dict, init=False, repr=False)

    @abstractmethod
    def open_loop(self, batch: int, positions: int, sampler: Sampler) -> Loop:
        """A loop for calls with this number of sequences and positions.

        Raises:
            InputError: it cannot choose tokens in this way, or has no room.
        """

    def record(
        self,
        prompt_BT: Ids,
        new_tokens: int,
        sampler: Sampler = GREEDY,
        *,
        extra: Mapping[str, Argument] | None = None,
        vision_tokens: int = 0,
    ) -> Work:
        """What the loop generates."""
        if extra or vision_tokens:
            raise InputError(f"{self.name} is a text model: it takes no images")
        loop = self._loop(len(prompt_BT), prompt_BT.shape[1] + new_tokens - 1, sampler)
        with np.errstate(over="ignore", invalid="ignore"):  # weights that overflow are the sampler's error to tell
            return Work(prompt_BT, record_trace(loop, prompt_BT, new_tokens), sampler)

    def replay(self, work: Work, recorder: AnyRecorder, detail: str | None, turn: int | None = None) -> int:
        """The loop, fed with the trace."""
        recorder.clear()
        marks: dict[str | None, Mark] = {PLAIN: no_mark, STAGES: self._stages_alone(recorder.mark)}
        return replay(self.loop_of(work), work.trace, recorder, marks.get(detail, recorder.mark), turn)

    def loop_of(self, work: Work) -> Loop:
        """The loop of a work's passes."""
        return self._loop(len(work.prompt_BT), work.positions, work.sampler)

    def _loop(self, batch: int, positions: int, sampler: Sampler) -> Loop:
        """One loop for all lengths, as large as the largest recorded: how a cache is laid out shows in its cost."""
        capacity, loop = self._loops.get((batch, sampler), (0, None))
        if loop is None or capacity < positions:
            loop = self.open_loop(batch, positions, sampler)
            self._loops[batch, sampler] = positions, loop
        return loop

    def _stages_alone(self, mark: Mark) -> Mark:
        stages = self.stages

        def coarse(part: str) -> None:
            stage = stages.get(part)
            if stage is not None:
                mark(stage)

        return coarse
