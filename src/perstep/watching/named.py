"""Steps and parts that a watched program names itself: `perstep.step()` and `perstep.part(name)`.

Steps with marks and steps without take turns, as everywhere in a watch. While such a step is open no loop is looked for
inside it: the program has said what its parts are.
"""

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from perstep.experiments.call_recorder import CallRecorder
from perstep.machine import NoiseProbe
from perstep.measure import Clock, activate, deactivate
from perstep.targets.transformers import Schedule, line_of, user_frame
from perstep.targets.transformers.words import PLAIN, PREFILL
from perstep.watching.samples import KINDS, Sample


class NamedSteps:
    """Takes the steps of a program, from one thread at a time; one sample a line that begins them.

    Args:
        samples: takes what was recorded.
        clock: the host's.
        unseen: makes a block in which no loop is looked for.
        every: record one block of four steps in this many.
    """

    def __init__(
        self, samples: list[Sample], clock: Clock, unseen: Callable[[], AbstractContextManager[None]], every: int
    ) -> None:
        self._samples, self._clock, self.unseen = samples, clock, unseen
        self._schedule = Schedule(alternate=True, every=every)
        self._sites: dict[str, _Site] = {}
        self._open: _Site | None = None
        self._thread = 0

    def __enter__(self) -> None:
        self._sites.clear()
        activate(self, any_thread=True)

    def __exit__(self, *exception: object) -> None:
        deactivate(self)
        for name, site in self._sites.items():
            self._samples.append(site.sample(name))

    @property
    def stepping(self) -> bool:
        """Whether this thread has a step open in which marks are taken."""
        return self._open is not None and self._open.marked and self._thread == threading.get_ident()

    @property
    def part(self) -> str | None:
        """The part that it is in."""
        return None if self._open is None else self._open.part

    def mark(self, part: str) -> None:
        """End the part before, and begin this one."""
        if self._open is not None:
            self._open.part = part
            self._open.recorder.mark(part)

    def step(self, kind: str = "decode") -> AbstractContextManager[object]:
        """A block that is one step."""
        frame = user_frame(sys._getframe(1))
        return _Step(self, "unknown" if frame is None else line_of(frame), kind)

    def begin(self, name: str, kind: str) -> bool:
        """Begin a step, unless one is open; whether it is recorded."""
        if self._open is not None:
            return False
        site = self._sites.get(name)
        if site is None:
            site = self._sites[name] = _Site(self._clock)
        mode = self._schedule.mode(0, site.count(kind))
        site.marked, recorded = mode.looked_into, mode.timed
        if recorded:
            self._open, self._thread = site, threading.get_ident()
            site.part = None
            site.recorder.begin(kind if site.marked else kind + PLAIN)
        return recorded

    def end(self, *, dropped: bool) -> None:
        """End the open step, or forget it."""
        site, self._open = self._open, None
        if site is not None:
            (site.recorder.drop if dropped else site.recorder.end)()


class _Site:
    """The steps that begin at one line."""

    def __init__(self, clock: Clock) -> None:
        self.recorder = CallRecorder(clock, None, "cpu")
        self.steps = self.prefills = self._begun = 0
        self.marked = False
        self.part: str | None = None
        self._others: set[str] = set()
        self._probe = NoiseProbe()
        self._probe.start()

    def count(self, kind: str) -> int:
        """One step more of a kind; its number, from 1."""
        self._begun += 1
        self.steps += kind in KINDS
        self.prefills += kind == PREFILL
        if kind not in KINDS:
            self._others.add(kind)
        return self._begun

    def sample(self, name: str) -> Sample:
        """What was recorded."""
        others = (
            f"Steps of the kind {', '.join(sorted(self._others))} are not shown: a watch shows {' and '.join(KINDS)}."
        )
        noise = self._probe.stop()
        self._probe.close()
        return Sample(
            site=name,
            model="named steps",
            device="cpu",
            dtype="",
            finished=True,
            rows=None,
            prompt_tokens=None,
            new_tokens=None,
            steps=self.steps,
            prefills=self.prefills,
            forwards=self.steps,
            kinds=self.recorder.take().kinds,
            notes=[others] if self._others else [],
            noise=noise,
            made_by="steps",
        )


class _Step:
    """One step as a block."""

    def __init__(self, steps: NamedSteps, site: str, kind: str) -> None:
        self._steps, self._site, self._kind = steps, site, kind
        self._unseen = steps.unseen()
        self._recorded = False

    def __enter__(self) -> None:
        self._unseen.__enter__()
        self._recorded = self._steps.begin(self._site, self._kind)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._recorded:
            self._steps.end(dropped=kind is not None)
        self._unseen.__exit__(kind, error, where)
