"""One pass: a whole generate call over a recorded trace, its stages timed inside that one call.

Stages are intervals between declared boundaries, never differences of runs (law "parts add up"): the prefill forward
and each decode forward hold the embedding, every active block, the final norm and the head; the vision tower has an
interval of its own. All configurations replay tokens, so that all generate the same number (law "arms do the same
work"). Times are the host's; on CUDA it waits for the device at every boundary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perstep.experiments.knobs.samples import Pass
from perstep.measure import Progress, Trace
from perstep.targets import Opened


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
        """The same work, ended after this number of tokens."""
        trace = self.trace
        cut = type(trace)(trace.prompt_BT, trace.chosen_BN[:, :new_tokens])  # greedy, so that its seed is no matter
        return replace(self, trace=cut)


class Runner(Protocol):
    """A model that makes passes.

    Attributes:
        opened: the model.
        config_hash: of its configuration.
        cache: what the passes have, in words.
        device_waits: where the host waits for the device, in words; or empty.
    """

    opened: Opened
    config_hash: str
    cache: str
    device_waits: str

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
