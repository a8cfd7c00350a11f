"""Runs of loops written by hand, as samples of a watch."""

from collections.abc import Mapping
from typing import cast

from perstep.experiments.call_recorder import CallRecorder
from perstep.machine import Noise, NoiseProbe
from perstep.measure import Clock
from perstep.report.format import plural
from perstep.targets.loops import Callee, Finished, HandLoops
from perstep.targets.transformers import CudaDevice, Detail, Device, Marks
from perstep.watching.samples import Sample


class WatchedLoops(HandLoops):
    """The loops of a watch.

    Args:
        samples: takes the runs.
        clock: the host's.
        events: where events of a device come from; None for the model's own device.
        only: the one model to record; all if None.
        detail: `phases`, `modules` or `layers`.
        every: record one block of four steps in this many.
        count: give a few steps to counting syncs.
    """

    def __init__(
        self,
        samples: list[Sample],
        clock: Clock,
        events: Device | None,
        *,
        only: Callee,
        detail: Detail,
        every: int,
        count: bool,
    ) -> None:
        super().__init__(
            self._recorder_of, self._start, self._read, self._take, only=only, detail=detail, every=every, count=count
        )
        self._samples, self._clock, self._events = samples, clock, events
        self._probe: NoiseProbe | None = None
        self._noise: Noise | None = None

    def _recorder_of(self, device: str) -> Marks:
        kind = device.split(":")[0]
        events = self._events or (CudaDevice() if kind == "cuda" else None)
        return CallRecorder(self._clock, events, kind, between=True)

    def _start(self) -> None:
        if self._probe is not None:
            self._probe.close()
        self._probe = NoiseProbe()
        self._probe.start()

    def _read(self) -> None:
        if self._probe is not None:
            self._noise = self._probe.so_far()

    def _take(self, run: Finished) -> None:
        taken = cast("CallRecorder", run.marks).take()
        if self._probe is not None:
            self._probe.close()
            self._probe = None
        if self._noise is None:
            return  # no forward: there is no run without one
        self._samples.append(
            Sample(
                site=run.site,
                model=f"{run.label} {run.path}".rstrip(),
                device=run.device,
                dtype=run.dtype,
                finished=run.finished,
                rows=run.rows,
                prompt_tokens=run.prompt_tokens,
                new_tokens=None,
                steps=run.steps,
                prefills=run.prefills,
                forwards=run.forwards,
                kinds=taken.kinds,
                notes=[*run.notes, *self.notes],
                noise=self._noise,
                syncs=taken.syncs,
                device_kinds=taken.device,
                idle_kinds=taken.idle,
                made_by="loop",
                whole=run.whole,
                compilations=run.compilations,
                breaks=run.breaks,
            )
        )


def never_repeated(once: Mapping[str, str]) -> str:
    """A sentence on lines that called a model without a next call in the same loop.

    Args:
        once: line -> the model's name.
    """
    site, model = next(iter(once.items()))
    more = f", and so did {plural(len(once) - 1, 'other line')}" if len(once) > 1 else ""
    return (
        f"{site} called {model} and not again in the same loop{more}: a step goes from one call of a model to the next,"
        " so there is none to show"
    )
