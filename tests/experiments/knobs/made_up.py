"""A target of which it is known what its passes take, and when its memory runs out."""

from collections.abc import Callable
from typing import Any

from perstep.measure import FakeClock
from perstep.targets import Work
from perstep.targets.reference.target import ReferenceTarget


class MadeUp(ReferenceTarget):
    """Prefills of 5 µs, and forwards of as many nanoseconds as it is told.

    Args:
        clock: moved by the passes.
        name: of the model.
        forward_ns: of a work, a decode forward.
        fails: raises what ends a pass, if anything.
    """

    config_hash = "made up"  # type: ignore[assignment]

    def __init__(
        self,
        clock: FakeClock,
        name: str = "made up",
        *,
        forward_ns: Callable[[Work], int] = lambda _work: 1_000,
        fails: Callable[[Work], None] = lambda _work: None,
    ) -> None:
        super().__init__(name, None, False, {"name": name, "dtype": "float32"})  # type: ignore[arg-type]
        self._clock, self._forward_ns, self._fails = clock, forward_ns, fails

    def replay(self, work: Work, recorder: Any, detail: str | None) -> int:
        """Nothing but time passes."""
        self._fails(work)
        for position in range(work.new_tokens):
            recorder.begin("decode" if position else "prefill")
            recorder.mark("forward")
            self._clock.advance(self._forward_ns(work) if position else 5_000)
            recorder.end()
        return 0
