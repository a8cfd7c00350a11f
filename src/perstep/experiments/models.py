"""The options that name a model, shared by every command that measures one, and opening what they name."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from perstep.experiments.options import RunOptions
from perstep.targets import Target, open_model
from perstep.targets.target import Backend


@dataclass(frozen=True, kw_only=True)
class ModelOptions(RunOptions):
    """Which model to measure, besides how to measure."""

    model: Annotated[str | None, Parameter(name=["-m", "--model"])] = None
    """`mini`, the built-in model; a folder with a stored model; or a hub id, the only thing fetched from a network.
    [default: mini]"""

    arch: str | None = None
    """A real architecture with random weights instead: a name such as smollm2-135m, or a config.json."""

    layers: int | None = None
    """Number of leading decoder layers of --arch to keep."""

    backend: Backend | None = None
    """What runs the model: perstep's own NumPy decoder (`mini` and other Llama-family folders), or transformers on
    torch. [default: numpy for mini, torch for everything else]"""

    dtype: str | None = None
    """Data type of the weights: float32, bfloat16 or float16. [default: as stored; float32 for --arch]"""

    device: str = "cpu"
    """Where a transformers model runs: cpu, or cuda."""

    def open(self) -> Target:
        """The model that the options name, which then runs with as many threads as they say.

        Raises:
            InputError: options that exclude each other, or nothing can be loaded from there.
        """
        target = open_model(
            self.model,
            arch=self.arch,
            layers=self.layers,
            backend=self.backend,
            dtype=self.dtype,
            device=self.device,
            seed=self.seed,
        )
        target.limit_threads(self.threads)
        return target
