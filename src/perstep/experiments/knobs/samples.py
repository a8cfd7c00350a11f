"""The samples of the knobs: the passes of a round."""

import msgspec
import numpy as np

from perstep.errors import InvalidMeasurement
from perstep.machine import Noise
from perstep.measure import Recorder
from perstep.runs import Column

FORWARD, VISION = "forward", "vision"

BOUNDARIES = {
    "T_LLM_prefill": "the forward over the prompt: embedding, every active block, final norm and head; without vision",
    "T_LLM_decode": "all decode forwards of the call together, each with embedding, every active block, final norm "
    "and head",
    "T_LLM_decode_per_forward": "T_LLM_decode over the decode forwards that were executed: N - 1 for N tokens",
    "T_vision_total": "vision tower and projector, once a call; 0 for a text model",
    "T_total": "the whole call, from its beginning to the last stop check: besides the stages above preparation, "
    "sampling, stop checks and the loop's own work",
}


class Pass(msgspec.Struct, omit_defaults=True, eq=False):
    """One generate call in one configuration; integers in nanoseconds.

    Attributes:
        arm: index of the configuration.
        prefill_ns: the forward over the prompt.
        vision_ns: vision tower and projector.
        decode_ns: each decode forward, [forwards].
        step_ns: each whole decode step, [forwards].
        total_ns: the whole call.
        differing: tokens that this configuration would have chosen otherwise than the trace.
        failed: what ended it instead (out of memory), or empty.
        prompt: index of the prompt.
    """

    arm: int
    prefill_ns: int = 0
    vision_ns: int = 0
    decode_ns: Column | None = None
    step_ns: Column | None = None
    total_ns: int = 0
    differing: int = 0
    failed: str = ""
    prompt: int = 0


class Sample(msgspec.Struct):
    """One round: every configuration once with every prompt, prompt after prompt."""

    round: int
    passes: list[Pass]
    noise: Noise


def pass_of(recorder: Recorder, new_tokens: int, differing: int) -> Pass:
    """A recorded call as a pass.

    Raises:
        InvalidMeasurement: it did not execute one forward a token.
    """
    prefill, decode = recorder.steps("prefill"), recorder.steps("decode")
    if len(prefill.step_ns) != 1 or len(decode.step_ns) != new_tokens - 1:
        raise InvalidMeasurement(
            f"a call for {new_tokens} tokens made {len(prefill.step_ns)} prefills and {len(decode.step_ns)} decode"
            " steps; one prefill and a decode step for every further token were expected"
        )
    nothing = np.zeros(1, np.int64)
    return Pass(
        arm=-1,
        prefill_ns=int(prefill.parts[FORWARD][0]),
        vision_ns=int(prefill.parts.get(VISION, nothing)[0]),
        decode_ns=decode.parts[FORWARD] if new_tokens > 1 else np.zeros(0, np.int64),
        step_ns=decode.step_ns,
        total_ns=int(prefill.step_ns.sum() + decode.step_ns.sum()),
        differing=differing,
    )
