"""Passes of a transformers model: unchanged `generate` calls, their stages told apart by an Instrument.

A call is made twice: the first, of two tokens, is not recorded. On CUDA the host waits for the device at each
boundary, so that an interval holds the device's work and not only its launch; that wait is part of the stage.
"""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InvalidMeasurement
from perstep.experiments.knobs.runners import Work
from perstep.experiments.knobs.samples import Pass, pass_of
from perstep.measure import Clock, Recorder
from perstep.targets import Opened
from perstep.targets.transformers import GenerateTrace, Replay, StageInstrument, config_hash, record


class TorchRunner:
    """A transformers model that makes passes; `runners.Runner`."""

    def __init__(self, opened: Opened, clock: Clock) -> None:
        self.opened = opened
        self.config_hash = config_hash(opened.model)
        self.cache, self.device_waits = "dynamic, a new one each call", ""
        self._model = opened.model
        self._clock = _DeviceClock(clock) if opened.model.device.type == "cuda" else clock
        if opened.model.device.type == "cuda":
            self.device_waits = "at every boundary of a stage"

    def record(
        self,
        prompt_BT: NDArray[np.int64],
        new_tokens: int,
        *,
        extra: dict[str, Any] | None = None,
        vision_tokens: int = 0,
    ) -> Work:
        """What the model generates greedily."""
        trace = record(self._model, self._inputs(prompt_BT, extra or {}), new_tokens, **self._options())
        return Work(trace, extra or {}, vision_tokens)

    def run(self, work: Work) -> Pass:
        """One recorded call over the trace."""
        inputs = self._inputs(work.trace.prompt_BT, work.extra)
        self._model.generate(**inputs, max_new_tokens=min(2, work.new_tokens), **self._options())
        recorder, trace = Recorder(self._clock), cast("GenerateTrace", work.trace)
        with StageInstrument(self._model, recorder), Replay(self._model, trace) as replayed:
            self._model.generate(**inputs, max_new_tokens=work.new_tokens, **self._options())
        call = replayed.calls[0]
        if call.forwards != work.new_tokens:
            raise InvalidMeasurement(f"{work.new_tokens} tokens took {call.forwards} forwards; one each was expected")
        return pass_of(recorder, work.new_tokens, call.differing)

    def _inputs(self, prompt_BT: NDArray[np.int64], extra: dict[str, Any]) -> dict[str, Any]:
        import torch

        ids = torch.as_tensor(prompt_BT, device=self._model.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **extra}

    def _options(self) -> dict[str, Any]:
        config = self._model.generation_config
        pad = config.pad_token_id  # given, so that generate does not warn of choosing one itself
        return {"do_sample": False, "num_beams": 1, "pad_token_id": 0 if pad is None else pad}


class _DeviceClock:
    """A host clock that is read once the device has done everything queued before."""

    def __init__(self, clock: Clock) -> None:
        import torch

        self._now, self._synchronize = clock.now, torch.cuda.synchronize

    def now(self) -> int:
        """Nanoseconds of the host."""
        self._synchronize()
        return self._now()
