"""What a device really does in each part: torch's profiler (Kineto) around generate calls of their own.

Profiling slows the host down (2.85 times where it was measured) but no kernel, so it belongs into steps of its own, as
the counting of syncs does. Each part and each step is a `record_function` range; `measure.device_work` then says which
kernels were launched in which. The host's times in such steps mean nothing and are not kept.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from perstep._words import plural
from perstep.errors import InvalidMeasurement
from perstep.measure import RESIDUAL
from perstep.measure.device_rows import RANGE_PREFIX, STEP_PREFIX, Row
from perstep.measure.device_work import Launches, StepWork, TraceWork, attribute
from perstep.targets.transformers._wrap import Value

if TYPE_CHECKING:
    from torch.profiler import profile

OpenRange = Callable[[str], AbstractContextManager[object]]
"""Makes a range of a name, as `torch.profiler.record_function`."""


class RangeRecorder:
    """Takes marks, and lays each part and each step into a range of the profiler instead of timing it.

    Args:
        open_range: makes a range; the profiler's own by default.
    """

    mark: Callable[[str], None]

    def __init__(self, open_range: OpenRange | None = None) -> None:
        self._range = open_range or _record_function()
        self._part: AbstractContextManager[object] | None = None
        self._step: AbstractContextManager[object] | None = None
        self._kept: list[bool] = []
        self.mark = self._mark

    def begin(self, kind: str = "decode") -> None:
        """Begin a step of a kind."""
        self._kept.append(True)
        self._step = self._range(STEP_PREFIX + kind)
        self._step.__enter__()

    def _mark(self, part: str) -> None:
        self._end_part()
        if part != RESIDUAL:
            self._part = self._range(RANGE_PREFIX + part)
            self._part.__enter__()

    def end(self) -> None:
        """End the step, and the part that is open."""
        self._end_part()
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None

    def turn(self, kind: str = "decode") -> None:
        """End the step and begin the next."""
        self.end()
        self.begin(kind)

    def drop(self) -> None:
        """End the step, which is none: `kept` leaves it out."""
        self.end()
        if self._kept:
            self._kept[-1] = False

    def kept(self, work: TraceWork) -> list[StepWork]:
        """The steps of a trace that were not dropped.

        Args:
            work: of the trace that was taken while this recorder took marks.

        Raises:
            InvalidMeasurement: the trace does not hold the steps that were begun: the profiler lost some.
        """
        if len(work.steps) != len(self._kept):
            raise InvalidMeasurement(
                f"the profiler's trace holds {len(work.steps)} of {plural(len(self._kept), 'step')}; profile fewer at "
                "once"
            )
        return [step for step, kept in zip(work.steps, self._kept, strict=True) if kept]

    def _end_part(self) -> None:
        if self._part is not None:
            self._part.__exit__(None, None, None)
            self._part = None


class Profiler(Protocol):
    """What takes the rows of a trace."""

    def rows(self, call: Callable[[], None]) -> list[Row]:
        """The rows of what happened on host and device while `call` ran and the device worked it off."""
        ...


class KinetoProfiler:
    """torch's profiler on host and device.

    Args:
        device: as torch spells it, also for ROCm builds; with `cpu` there are host rows alone.
    """

    def __init__(self, device: str = "cuda") -> None:
        self._device = device
        self._on_device = device.partition(":")[0] == "cuda"

    def rows(self, call: Callable[[], None]) -> list[Row]:
        """Profile a call."""
        # Kineto writes a line on stderr whenever it begins or ends, unless asked not to before it is used first.
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")
        import torch
        from torch.profiler import ProfilerActivity, profile

        # Without the host's rows there are no ranges, and nothing could be attributed.
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_device else [])]
        if self._on_device:
            torch.cuda.synchronize(self._device)
        with profile(activities=activities) as profiled:
            call()
            if self._on_device:
                torch.cuda.synchronize(self._device)
        return kineto_rows(profiled)


def kineto_rows(profiled: "profile") -> list[Row]:
    """The rows of a finished `torch.profiler.profile`."""
    assert profiled.profiler is not None  # noqa: S101
    results: Value = profiled.profiler.kineto_results
    return [
        Row(
            event.name(),
            str(event.device_type()),
            event.start_ns(),
            event.duration_ns(),
            event.correlation_id(),
            event.linked_correlation_id(),
            event.device_index(),
            event.device_resource_id(),
            bool(event.is_user_annotation()) if hasattr(event, "is_user_annotation") else False,
        )
        for event in results.events()
    ]


def profile_steps(
    profiler: Profiler, recorder: RangeRecorder, call: Callable[[], None], seen: Sequence[Launches] = ()
) -> TraceWork:
    """The device's work in the steps that a call makes, dropped ones left out.

    Args:
        profiler: takes the rows.
        recorder: takes the marks of the call; a new one each time.
        call: makes the steps, warm.
        seen: what earlier calls of the same work launched one by one, for graphs that are replayed in this one.

    Raises:
        InvalidMeasurement: the trace does not hold the steps, or several devices worked.
    """
    work = attribute(profiler.rows(call), seen=seen)
    work.steps = recorder.kept(work)
    return work


def _record_function() -> OpenRange:
    from torch.profiler import record_function

    open_range: OpenRange = record_function
    return open_range
