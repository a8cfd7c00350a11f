"""The options of `experts`, and what is wrong with them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Self

from cyclopts import Parameter

from perstep.experiments.knobs import OpenNewTokens, PromptOptions
from perstep.experiments.knobs.quality import DEFAULT_TOKENS
from perstep.experiments.options import Counts

DEFAULT_ARCH = "olmoe-1b-7b"
"""A layer of it has 64 experts, of which a token takes 8, and 1.7 GB in float32."""


@dataclass(frozen=True, kw_only=True)
class Plan(PromptOptions):
    """The options of `perstep experts`."""

    least: ClassVar[dict[str, int]] = PromptOptions.least | {"top_k": 1}

    model: Annotated[str | None, Parameter(name=["-m", "--model", "--model-path"])] = None
    """A folder with a stored mixture-of-experts model; or a hub id, the only thing fetched from a network. Several,
    separated by commas, are measured in the same rounds. [default: one layer of --arch olmoe-1b-7b]"""

    new_tokens: OpenNewTokens = None
    """Tokens that every configuration generates: one prefill and N - 1 decode forwards. [default: 32, or fewer where
    the budget does not hold enough rounds of that]"""

    top_k: Counts | None = None
    """Experts for each token: a list or a range. [default: 1, 2, 4 ... up to all]"""

    implementations: str | None = None
    """Implementations of the experts, by transformers' names, separated by commas.
    [default: those of eager, grouped_mm and batched_mm that run here]"""

    text: Path | None = None
    """A text file to measure quality on, including perplexity. [default: the model's own output]"""

    quality_tokens: Annotated[int, Parameter(name="--quality-tokens")] = DEFAULT_TOKENS
    """Tokens of the text to measure quality on; 0 measures no quality."""

    def with_model(self) -> Self:
        """The same; where no model is named, one layer of a real mixture of experts."""
        if self.model is not None or self.arch is not None:
            return self
        return replace(self, arch=DEFAULT_ARCH, layers=1 if self.layers is None else self.layers)
