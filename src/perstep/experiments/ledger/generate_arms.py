"""The two arms of `ledger` for transformers models: real `model.generate(...)` calls over one trace.

The plain arm takes the duration of each step and wraps only what tells steps apart; the marked arm has an
Instrument at the asked detail. Both replay the same tokens (`targets.transformers.replay`). What a device does is seen
in profiled steps of their own (`profile.py`); with `--device-detail stream` each arm has a second ledger, of
time on the device's stream (law "clocks are never mixed"). Syncs are counted in a pass of their own.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments.bounds import config_of, shape_of
from perstep.experiments.device.machine import ceilings_of
from perstep.experiments.ledger.arms import check_fits, prompt_length
from perstep.experiments.ledger.device.bounds import bounded_by
from perstep.experiments.ledger.device.samples import ProfiledRound
from perstep.experiments.ledger.profile import ProfiledSteps
from perstep.experiments.ledger.samples import KINDS, Conditions, Pass, stored
from perstep.experiments.sync_counts import SyncCounts, sync_counts
from perstep.measure import Clock, Recorder, Steps
from perstep.targets import Opened
from perstep.targets.reference.memory import refuse_if_too_large
from perstep.targets.transformers import (
    BOUNDARIES,
    RANDOM_WEIGHTS,
    Detail,
    DeviceRecorder,
    Instrument,
    SyncRecorder,
    config_hash,
    device_of,
    silent,
)
from perstep.targets.transformers.device_check import refuse_if_no_room, refuse_if_spread
from perstep.targets.transformers.replay import GenerateTrace, Replay, record
from perstep.targets.transformers.words import PLAIN
from perstep.theory import kv_bytes

if TYPE_CHECKING:
    from perstep.experiments.ledger.plan import Plan

DEFAULT_DETAIL: Detail = "modules"
COUNTED_TOKENS = 9
"""Syncs are counted in one prefill and at most this number minus one decode steps."""


class GenerateArms:
    """A transformers model.

    Raises:
        InputError: prompt and new tokens do not fit into context or memory, or the call cannot be replayed.
    """

    def __init__(self, plan: "Plan", opened: Opened, clock: Clock) -> None:
        import torch

        refuse_if_spread(opened.model)
        self._torch, self._model = torch, opened.model
        self._device = device_of(self._model)
        self.prompt_BT = _prompt(plan, opened)
        self._inputs = _inputs(self._model, self.prompt_BT)
        self._options = generate_options(self._model, plan.temperature, plan.top_k, plan.top_p)
        self._detail: Detail = plan.detail or DEFAULT_DETAIL
        with silent():
            try:
                self._trace = record(self._model, self._inputs, plan.new_tokens, seed=plan.seed, **self._options)
            except torch.OutOfMemoryError as error:
                raise InputError(f"the device has too little memory: {str(error).splitlines()[0]}") from error
            except ValueError as error:
                raise InputError(f"generate refuses this model: {str(error).splitlines()[0]}") from error
        self._replay = Replay(self._model, self.trace)
        self._on_stream = plan.device_detail == "stream"
        self._recorders = {arm: self._recorder(clock) for arm in ("plain", "marked")}
        self._instruments = {
            "plain": Instrument(self._model, self._recorders["plain"], plain=True),
            "marked": Instrument(self._model, self._recorders["marked"], self._detail),
        }
        self._profiled: ProfiledSteps | None = None
        if self._device is not None and not self._on_stream:
            self._profiled = ProfiledSteps(self._model, self._trace, self._detail, self._generate)
        self._opened = opened
        self._rng = torch.get_rng_state()
        self.config_hash = config_hash(self._model)
        self.dtype = str(opened.facts["dtype"])
        self.boundaries = dict(BOUNDARIES)
        self.conditions: Callable[..., Conditions] = self._conditions(opened)

    @property
    def trace(self) -> GenerateTrace:
        """What both arms replay."""
        return self._trace

    def run(self, arm: str) -> Pass:
        """Replay the trace in one generate call, after a short one that is thrown away."""
        recorder, new_tokens = self._recorders[arm], self.trace.chosen_BN.shape[1]
        with silent(), self._instruments[arm]:
            self._warm_caches()
            recorder.clear()
            with self._replay:
                self._generate(new_tokens)
        [made] = self._replay.calls
        self._replay.clear()
        if made.forwards != new_tokens:
            raise InvalidMeasurement(f"a replay of {new_tokens} tokens made {made.forwards} forwards, not as many")
        return _pass(arm, recorder, made.differing)

    def profile(self) -> ProfiledRound | None:
        """What the device does in the first steps of the trace; None without one."""
        return None if self._profiled is None else self._profiled.measure()

    def device_conditions(self) -> dict[str, Any]:
        """The device's ceilings, measured now, and what its bounds are made of."""
        if self._profiled is None:
            return {}
        self.profile()  # the first one loads the profiler's library
        ceilings = ceilings_of(self._opened, rows=self.prompt_BT.shape[0])
        return {"device_ceilings": ceilings, "device_bounds": bounded_by(self._opened)}

    def finish(self) -> None:
        """Check that torch's random generator is as before.

        Raises:
            InvalidMeasurement: it is not.
        """
        if not self._torch.equal(self._rng, self._torch.get_rng_state()):
            raise InvalidMeasurement("torch's random generator is not as it was before measuring")

    def _recorder(self, clock: Clock) -> Any:
        if self._device is None or not self._on_stream:
            return Recorder(clock)
        return DeviceRecorder(self._device, clock)

    def _generate(self, new_tokens: int) -> None:
        self._model.generate(**self._inputs, max_new_tokens=new_tokens, **self._options)

    def _warm_caches(self) -> None:
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with self._torch.random.fork_rng(devices=devices):
            self._generate(min(2, self.trace.chosen_BN.shape[1]))

    def _conditions(self, opened: Opened) -> Callable[..., Conditions]:
        backends = self._torch.backends if self._model.device.type == "cuda" else None
        return partial(
            Conditions,
            discarded="a generate call of two tokens after each switch of arms",
            end_tokens="looked for at each step, but do not end the trace",
            detail=self._detail,
            generate={name: value for name, value in self._options.items() if name != "pad_token_id"},
            notes=self._instruments["marked"].notes + ([RANDOM_WEIGHTS] if opened.random_weights else []),
            syncs=self._count_syncs(),
            tf32=backends and backends.cuda.matmul.allow_tf32,
            cudnn_benchmark=backends and backends.cudnn.benchmark,
        )

    def _count_syncs(self) -> dict[str, SyncCounts]:
        """The syncs by kind of step, in one replay of the beginning of the trace."""
        beginning = GenerateTrace(self.trace.prompt_BT, self.trace.chosen_BN[:, :COUNTED_TOKENS], seed=self.trace.seed)
        recorder = SyncRecorder(self._model.device.type)
        instrument = Instrument(self._model, recorder, self._detail)
        with silent(), recorder, instrument, Replay(self._model, beginning):
            self._generate(beginning.chosen_BN.shape[1])
        return {kind: sync_counts(recorder.syncs(kind)) for kind in recorder.kinds}


def _pass(arm: str, recorder: Any, differing: int) -> Pass:
    marked = arm == "marked"

    def taken(steps: Any) -> dict[str, Steps]:
        host = recorder if isinstance(recorder, Recorder) else recorder.host
        found = {kind: kind if marked else kind + PLAIN for kind in reversed(KINDS)}
        return {kind: stored(steps(name), marked=marked) for kind, name in found.items() if name in host.kinds}

    if isinstance(recorder, Recorder):
        return Pass(arm, differing, taken(recorder.steps))
    idle = taken(recorder.idle) if marked else {}
    return Pass(arm, differing, taken(recorder.host.steps), taken(recorder.device), idle)


def generate_options(model: Any, temperature: float, top_k: int, top_p: float) -> dict[str, Any]:
    """The arguments of generate for a way to choose tokens; nothing of the model's own defaults for it is left.

    Args:
        model: whose generate.
        temperature: 0 for greedy search.
        top_k: 0 for all tokens.
        top_p: 1 for all tokens.
    """
    pad = model.generation_config.pad_token_id
    options: dict[str, Any] = {"use_cache": True, "pad_token_id": 0 if pad is None else pad}
    given = (model.generation_config.decoder_start_token_id, model.generation_config.bos_token_id)
    if model.config.is_encoder_decoder and given == (None, None):  # a config.json may leave it out
        options["decoder_start_token_id"] = options["pad_token_id"]  # as T5 begins
    if temperature == 0:
        return {**options, "do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    return {**options, "do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}


def _inputs(model: Any, prompt_BT: NDArray[np.int64]) -> dict[str, Any]:
    import torch

    ids = torch.as_tensor(prompt_BT, device=model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _prompt(plan: "Plan", opened: Opened) -> NDArray[np.int64]:
    """The prompt, once it is known to fit, with what is generated after it, into context and memory."""
    num_tokens, facts = prompt_length(plan, opened), opened.facts
    if facts["max_positions"] is not None and not opened.model.config.is_encoder_decoder:
        check_fits(num_tokens, plan.new_tokens, facts["max_positions"])
    if facts["device"] == "cpu":
        # A lower bound: the hidden states of the prefill and the logits of a step, in the weights' dtype.
        width = num_tokens * (facts["hidden"] or 1) + (facts["vocab"] or 1)
        refuse_if_too_large(
            f"a prefill of {plan.batch} x {num_tokens} tokens", plan.batch * width * opened.model.dtype.itemsize
        )
    else:
        _check_device_memory(plan, opened, num_tokens)
    return opened.prompt(text=plan.prompt, num_tokens=num_tokens, batch=plan.batch, seed=plan.seed)


def _check_device_memory(plan: "Plan", opened: Opened, num_tokens: int) -> None:
    """A lower bound of what generating takes on a device: the prefill's hidden states, a step's logits, the cache."""
    facts, dtype = opened.facts, opened.model.dtype
    needed = plan.batch * (num_tokens * (facts["hidden"] or 1) + (facts["vocab"] or 1)) * dtype.itemsize
    shape, spelt = shape_of(config_of(opened)), str(dtype).removeprefix("torch.")
    if shape is not None:
        needed += kv_bytes(shape, num_tokens + plan.new_tokens - 1, batch=plan.batch, dtype=spelt).used
    what = f"a prefill of {plan.batch} x {num_tokens} tokens and the cache of {plan.new_tokens} more"
    refuse_if_no_room(what, needed, facts["device"], "give a smaller --batch or --prompt-tokens")
