"""The profiled steps of `ledger` on a device: the beginning of the trace, once a round, in a generate call of its own.

Both arms' steps stay as they are; a profiled step's own duration is never kept.
"""

from collections.abc import Callable
from typing import Any

from perstep.errors import InputError
from perstep.experiments.ledger.device.samples import ProfiledRound, profiled_round
from perstep.targets.transformers import Detail, Instrument, silent
from perstep.targets.transformers.device_profile import KinetoProfiler, Profiler, RangeRecorder, profile_steps
from perstep.targets.transformers.replay import GenerateTrace, Replay

PROFILED_TOKENS = 6
"""A round has one prefill and at most this number minus one decode steps: some 40,000 rows of a trace at 30 layers."""


class ProfiledSteps:
    """Profiles the beginning of a trace.

    Args:
        model: a transformers model.
        trace: what is replayed.
        detail: how far the forward is looked into: the parts are those of the host's ledger.
        generate: makes a call of this number of new tokens.
        profiler: takes the rows.
    """

    def __init__(
        self,
        model: Any,
        trace: GenerateTrace,
        detail: Detail,
        generate: Callable[[int], None],
        profiler: Profiler | None = None,
    ) -> None:
        beginning = GenerateTrace(trace.prompt_BT, trace.chosen_BN[:, :PROFILED_TOKENS], seed=trace.seed)
        self._model, self._detail, self._generate = model, detail, generate
        self._new_tokens = beginning.chosen_BN.shape[1]
        self._replay = Replay(model, beginning)
        self._profiler = profiler or KinetoProfiler(str(model.device))

    def measure(self) -> ProfiledRound:
        """One profiled call; its kernels are warm, since the round's other passes have run them.

        Raises:
            InputError: the profiler sees no kernels here.
        """
        recorder = RangeRecorder()
        with silent(), Instrument(self._model, recorder, self._detail), self._replay:
            work = profile_steps(self._profiler, recorder, lambda: self._generate(self._new_tokens))
        [made] = self._replay.calls
        self._replay.clear()
        if not work.counts.kernels:
            raise InputError(
                "torch's profiler sees no kernel on this device, so none can be attributed: give --device-detail stream"
            )
        return profiled_round(work, made.differing)
