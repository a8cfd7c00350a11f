"""The two arms of `ledger` behind one protocol, and those of the reference decoder.

`session.py` knows neither the NumPy decoder nor transformers: it is given something loaded, with a recorded trace, that
one arm or the other replays (law "arms do the same work"). Those of transformers models are in `generate_arms.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments.ledger.device.samples import ProfiledRound
from perstep.experiments.ledger.samples import Conditions, Pass, stored
from perstep.measure import Clock, Recorder, Trace, record_trace, replay
from perstep.targets import Opened
from perstep.targets.reference import BOUNDARIES, Reference, Sampler
from perstep.targets.reference.loop import ReferenceLoop
from perstep.targets.reference.memory import refuse_if_too_large

if TYPE_CHECKING:
    from perstep.experiments.ledger.plan import Plan

DEFAULT_PROMPT_TOKENS = 64


class Arms(Protocol):
    """A loaded target and its recorded trace.

    Attributes:
        prompt_BT: what was given to the model; with an encoder, to that.
        config_hash: of the model's configuration.
        dtype: of its weights.
        boundaries: part -> what lies inside it.
        conditions: the manifest's, in which stands already how the steps are made.
    """

    prompt_BT: NDArray[np.int64]
    config_hash: str
    dtype: str
    boundaries: dict[str, str]
    conditions: Callable[..., Conditions]

    @property
    def trace(self) -> Trace:
        """What both arms replay."""
        ...

    def run(self, arm: str) -> Pass:
        """Replay the trace once, after a prefill and a decode step that are thrown away."""
        ...

    def profile(self) -> ProfiledRound | None:
        """What a device does in the first steps of the trace, in a replay of its own; None without a device."""
        ...

    def device_conditions(self) -> dict[str, Any]:
        """The ceilings of the device, measured now, for the manifest; nothing without a device."""
        ...

    def finish(self) -> None:
        """Check that the trace left its state (law "the state is as before"); raises InvalidMeasurement if not."""
        ...


class ReferenceArms:
    """The NumPy decoder.

    Raises:
        InputError: an option that it does not have, or prompt and new tokens do not fit into context or memory.
    """

    def __init__(self, plan: "Plan", opened: Opened, clock: Clock) -> None:
        if plan.detail is not None:
            raise InputError("--detail goes with transformers models; the NumPy decoder always shows every part")
        model: Reference = opened.model
        sampler = Sampler(plan.temperature, plan.top_k, plan.top_p, plan.seed)
        prompt_BT = _prompt(plan, opened, model)
        self.prompt_BT = prompt_BT
        self._clock = clock
        self._positions = prompt_BT.shape[1] + plan.new_tokens - 1
        self._loop = ReferenceLoop(model, plan.batch, self._positions, sampler)
        with np.errstate(over="ignore", invalid="ignore"):  # weights that overflow are the sampler's error to tell
            self._trace = record_trace(self._loop, prompt_BT, plan.new_tokens)
        self.config_hash, self.dtype = model.config_hash, model.config.dtype
        self.boundaries = BOUNDARIES
        self.conditions: Callable[..., Conditions] = partial(
            Conditions,
            discarded="one prefill and one decode step after each switch of arms",
            end_tokens="looked for at each step, but do not end the trace",
        )

    @property
    def trace(self) -> Trace:
        """What both arms replay."""
        return self._trace

    def run(self, arm: str) -> Pass:
        """Replay the trace once."""
        recorder, marked = Recorder(self._clock), arm == "marked"
        differing = replay(self._loop, self._trace, recorder, marked=marked)
        return Pass(arm, differing, {kind: stored(recorder.steps(kind), marked=marked) for kind in recorder.kinds})

    def profile(self) -> None:
        """There is no device."""

    def device_conditions(self) -> dict[str, Any]:
        """There is no device."""
        return {}

    def finish(self) -> None:
        """Check that the cache is where the trace leaves it.

        Raises:
            InvalidMeasurement: it is not.
        """
        held = self._loop.cache.current_length()
        if held != self._positions:
            raise InvalidMeasurement(f"the KV cache holds {held} positions after the last pass, not {self._positions}")


def _prompt(plan: "Plan", opened: Opened, model: Reference) -> NDArray[np.int64]:
    """The prompt, once it is known to fit, with what is generated after it, into context and memory."""
    num_tokens = prompt_length(plan, opened)
    check_fits(num_tokens, plan.new_tokens, model.config.max_positions)
    scores_bytes = 4 * plan.batch * model.config.heads * num_tokens**2
    refuse_if_too_large(f"a prefill of {plan.batch} x {num_tokens} tokens", scores_bytes)
    return opened.prompt(text=plan.prompt, num_tokens=num_tokens, batch=plan.batch, seed=plan.seed)


def prompt_length(plan: "Plan", opened: Opened) -> int:
    """The tokens of the prompt.

    Raises:
        InputError: a text without a tokenizer to read it.
    """
    if plan.prompt is not None:
        return len(opened.encode(plan.prompt))
    return plan.prompt_tokens or DEFAULT_PROMPT_TOKENS


def check_fits(prompt_tokens: int, new_tokens: int, positions: int) -> None:
    """Check that prompt and new tokens fit into the model's context.

    Raises:
        InputError: they do not.
    """
    if prompt_tokens > positions:
        raise InputError(f"a prompt of {prompt_tokens} tokens is longer than the model's context of {positions}")
    if prompt_tokens + new_tokens - 1 > positions:
        raise InputError(
            f"a prompt of {prompt_tokens} and --new-tokens {new_tokens} overflow the model's context of {positions};"
            f" at most {positions - prompt_tokens + 1} new tokens fit"
        )
