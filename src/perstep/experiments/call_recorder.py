"""The recorder of watched calls: in which order marked and plain steps came, device time, and syncs.

Syncs are counted in steps of their own, whose durations are thrown away. On a device every step is recorded
on both clocks. What is taken from here after a call is a sample; what it means is found in `watch.py`.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from perstep.experiments.sync_counts import SyncCounts, sync_counts
from perstep.measure import RESIDUAL, Clock, Recorder, Steps
from perstep.runs import Column
from perstep.targets.interrupts import uninterrupted
from perstep.targets.transformers import Device, DeviceRecorder, SyncRecorder
from perstep.targets.transformers.syncs import no_modes
from perstep.targets.transformers.words import COUNTED, DECODE, PLAIN

_TURN = threading.Lock()
"""Held by the one recorder that counts: what CUDA reports, it reports to the whole process."""

_LYING: list[SyncRecorder] = []
"""Those whose modes lie below one of the program's, or in another thread."""


def leave_modes() -> None:
    """Take away what sees operators and could not be taken away before."""
    _LYING[:] = [syncs for syncs in _LYING if not syncs.leave()]


class CallSteps(Steps, kw_only=True, eq=False):
    """The recorded steps of one kind in one call.

    `step_ns` and `marked` (1 or 0) hold all steps in their order, the other columns the marked ones alone.
    """

    marked: Column


@dataclass(frozen=True)
class Taken:
    """What one call left behind, by kind of step.

    Attributes:
        kinds: host time.
        device: device time, where there is a device.
        idle: at most how long the device waited for the host, likewise.
        syncs: what was counted.
    """

    kinds: dict[str, CallSteps]
    device: dict[str, CallSteps] = field(default_factory=dict)
    idle: dict[str, CallSteps] = field(default_factory=dict)
    syncs: dict[str, SyncCounts] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps that were recorded in any way."""
        timed = sum(len(steps.step_ns) for steps in self.kinds.values())
        return timed + sum(counts.steps for counts in self.syncs.values())


class CallRecorder:
    """Takes the marks of an Instrument that alternates and counts.

    Args:
        clock: the host's.
        device: where events come from; None where the host does all the work.
        device_type: of the tensors whose reads are syncs, as torch spells it.
        between: a step begins and ends in the middle of a program, not inside generate: no syncs are counted in one
            that begins inside a mode of torch, whose end could come first.

    Attributes:
        mark: the recorder's own, so that a mark costs what it costs there.
        turn: likewise; no step in which syncs are counted begins or ends by it.
    """

    mark: Callable[[str], None]
    turn: Callable[[str], None]

    def __init__(self, clock: Clock, device: Device | None, device_type: str, *, between: bool = False) -> None:
        self._recorder: Recorder | DeviceRecorder
        if device is None:
            self._recorder = self._host = Recorder(clock)
        else:
            self._recorder = DeviceRecorder(device, clock)
            self._host = self._recorder.host
        self.mark = self._recorder.mark
        self.turn = self._recorder.turn
        self._device_type, self._between = device_type, between
        self._counting = self._open = False
        self._syncs = self._new_syncs()

    @property
    def is_open(self) -> bool:
        """Whether a step is being timed, or its syncs counted."""
        return self._open

    def begin(self, kind: str = DECODE) -> None:
        """Begin a step; in one of a counted kind, begin to count."""
        if kind.endswith(COUNTED):
            self._start_counting(kind.removesuffix(COUNTED))
        self._recorder.begin(kind)
        self._open = True

    def end(self) -> None:
        """End the step."""
        self._recorder.end()  # reads the clock first
        self._open = False
        if self._counting:
            self._syncs.end()
            self._stop_counting()

    def drop(self) -> None:
        """Forget the open step."""
        self._recorder.drop()
        self._open = False
        self._syncs.drop()
        self._stop_counting()

    def take(self) -> Taken:
        """The steps of a call, forgotten afterwards. Waits for the device."""
        if self._between and not self._syncs.leave():
            _LYING.append(self._syncs)
        counted = {kind: sync_counts(self._syncs.syncs(kind)) for kind in self._syncs.kinds}
        if isinstance(self._recorder, DeviceRecorder):
            device, idle = self._in_order(self._recorder.device), self._in_order(self._recorder.idle)
            taken = Taken(self._in_order(self._host.steps), device, idle, counted)
        else:
            taken = Taken(self._in_order(self._host.steps), syncs=counted)
        self._recorder.clear()
        self._syncs = self._new_syncs()
        return taken

    def _in_order(self, steps_of: Callable[[str], Steps]) -> dict[str, CallSteps]:
        orders: dict[str, list[bool]] = {}
        for recorded in self._host.sequence:
            if not recorded.endswith(COUNTED):
                kind = recorded.removesuffix(PLAIN)
                orders.setdefault(kind, []).append(kind == recorded)
        by_kind = {}
        for kind, order in orders.items():
            steps, marked = steps_of(kind), np.array(order, bool)
            step_ns = np.zeros(len(order), np.int64)
            step_ns[marked], step_ns[~marked] = steps.step_ns, steps_of(kind + PLAIN).step_ns
            by_kind[kind] = CallSteps(
                step_ns, steps.parts, steps.residual_ns, steps.marks, marked=marked.astype(np.int64)
            )
        return by_kind

    def _new_syncs(self) -> SyncRecorder:
        return SyncRecorder(self._device_type, part=lambda: self._host.part or RESIDUAL)

    @uninterrupted(undo="_stop_counting")
    def _start_counting(self, kind: str) -> None:
        if self._between and not (self._syncs.leave() and no_modes()):
            return
        if _TURN.acquire(blocking=False):
            self._counting = True
            self._syncs.__enter__()
            self._syncs.begin(kind)

    @uninterrupted()
    def _stop_counting(self) -> None:
        if self._counting:
            self._counting = False
            if self._between:
                self._syncs.leave()
            else:
                self._syncs.__exit__(None, None, None)
            _TURN.release()
