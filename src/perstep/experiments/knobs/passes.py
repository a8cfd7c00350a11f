"""One pass: a whole generate call over a recorded trace, its stages timed inside that one call.

Stages are intervals between declared boundaries, never differences of runs (law 1): the prefill forward and each
decode forward hold the embedding, every active block, the final norm and the head; the vision tower has an interval
of its own. All configurations replay tokens, so that all generate the same number (law 3). Times are the host's; on
CUDA it waits for the device at every boundary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InvalidMeasurement
from perstep.machine import Noise
from perstep.measure import Clock, Progress, Recorder, Trace
from perstep.runs import Column
from perstep.targets import Opened

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


@dataclass(frozen=True)
class Work:
    """What a pass does.

    Attributes:
        trace: the tokens to replay.
        extra: further arguments for generate (images).
        vision_tokens: tokens of the prompt, a row, that stand for images.
    """

    trace: Trace
    extra: dict[str, Any] = field(default_factory=dict)
    vision_tokens: int = 0

    @property
    def new_tokens(self) -> int:
        """Tokens that a pass generates."""
        return int(self.trace.chosen_BN.shape[1])

    @property
    def text_tokens(self) -> int:
        """Tokens of the prompt, a row, that are text."""
        return int(self.trace.prompt_BT.shape[1]) - self.vision_tokens

    def shortened(self, new_tokens: int) -> "Work":
        """The same work, ended after so many tokens."""
        trace = self.trace
        cut = type(trace)(trace.prompt_BT, trace.chosen_BN[:, :new_tokens])  # greedy, so that its seed is no matter
        return replace(self, trace=cut)


class Runner(Protocol):
    """A model that makes passes.

    Attributes:
        opened: the model.
        config_hash: of its configuration.
        conditions: how passes are made, for the manifest.
    """

    opened: Opened
    config_hash: str
    conditions: dict[str, Any]

    def record(
        self,
        prompt_BT: NDArray[np.int64],
        new_tokens: int,
        *,
        extra: dict[str, Any] | None = None,
        vision_tokens: int = 0,
    ) -> Work:
        """What the model generates by itself, for all configurations to replay.

        Args:
            prompt_BT: token ids, [batch, T].
            new_tokens: to generate; end tokens do not end it.
            extra: further arguments for generate.
            vision_tokens: places of images in a row of the prompt.
        """
        ...

    def run(self, work: Work) -> Pass:
        """One pass; before it a prefill and a decode step that are not recorded, for the switch of configurations.

        Raises:
            InvalidMeasurement: the call did not execute one forward a token.
        """
        ...


def record_all(
    runner: Runner, prompts_BT: Sequence[NDArray[np.int64]], new_tokens: int, progress: Progress
) -> list[Work]:
    """What the model generates after each of several prompts, each [batch, T]."""
    works = []
    for number, prompt_BT in enumerate(prompts_BT):
        progress(number / len(prompts_BT), "record")
        works.append(runner.record(prompt_BT, new_tokens))
    return works


def open_runner(opened: Opened, clock: Clock) -> Runner:
    """What makes passes of an opened model."""
    if opened.backend == "numpy":
        from perstep.experiments.knobs.reference_runner import ReferenceRunner

        return ReferenceRunner(opened, clock)
    from perstep.experiments.knobs.torch_runner import TorchRunner

    return TorchRunner(opened, clock)


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
