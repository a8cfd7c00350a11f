"""An Instrument for the stages of a call alone: the vision tower apart from the forward, nothing else inside it."""

from perstep.targets.transformers import words
from perstep.targets.transformers._loop import Marks
from perstep.targets.transformers._modules import classify
from perstep.targets.transformers._phases import opaque
from perstep.targets.transformers.instrument import Instrument, _compiled


class StageInstrument(Instrument):
    """Records generate calls with about ten marks a step, as the detail `phases` does, and `vision` as a part.

    Then `forward` of a prefill is the language model's: embedding, blocks and head.

    Args:
        model: what `Instrument` takes.
        recorder: takes the marks.
    """

    def __init__(self, model: object, recorder: Marks) -> None:
        super().__init__(model, recorder, "phases")

    def _wrap_inside(self) -> None:
        super()._wrap_inside()
        if _compiled(self.model):
            return
        for module, part, _layer in classify(self.model):
            if part == words.VISION:
                self._inner.method(module, "forward", opaque(self._loop, words.VISION))
