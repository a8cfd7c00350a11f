"""The options of `ledger`, and what is wrong with them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from perstep.errors import InputError
from perstep.experiments.ledger.device.show import DeviceDetail, check_detail
from perstep.experiments.models import ModelOptions
from perstep.targets import Sampler


@dataclass(frozen=True, kw_only=True)
class Plan(ModelOptions):
    """The options of `perstep ledger`."""

    prompt_tokens: Annotated[int | None, Parameter(name=["-p", "--prompt-tokens"])] = None
    """Length of the prompt in tokens. [default: 64]"""

    prompt: str | None = None
    """A text to begin with, instead of --prompt-tokens of the model's own kind."""

    new_tokens: Annotated[int, Parameter(name=["-n", "--new-tokens"])] = 64
    """Tokens to generate: one prefill and N - 1 decode steps."""

    batch: Annotated[int, Parameter(name=["-b", "--batch"])] = 1
    """Sequences decoded side by side."""

    temperature: float = 0.0
    """0 chooses the most probable token; above 0 tokens are sampled."""

    top_k: int = 0
    """Sample from the k most probable tokens; 0 for all."""

    top_p: float = 1.0
    """Sample from the most probable tokens whose probabilities reach this sum."""

    detail: Literal["phases", "modules", "layers"] | None = None
    """How far to look inside the forward of a transformers model: as a whole, by type of module, or by layer.
    [default: modules]"""

    device_detail: DeviceDetail | None = None
    """On a device: the kernels' time by part; under each part its kernels; or, in place of both, time on the device's
    stream, waiting included, which is no measure of work. [default: parts]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        Sampler(self.temperature, self.top_k, self.top_p, self.seed)  # refuses what is out of range


def check(plan: Plan) -> None:
    """What needs no model.

    Raises:
        InputError: an option is out of its range, or two exclude each other.
    """
    if plan.prompt is not None and plan.prompt_tokens is not None:
        raise InputError("--prompt and --prompt-tokens exclude each other; give one of them")
    check_detail(plan.device, plan.device_detail)
