"""The options of `experts`, and what is wrong with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep.experiments.knobs import NewTokens, PromptOptions
from perstep.experiments.knobs.quality import DEFAULT_TOKENS
from perstep.experiments.options import Counts


@dataclass(frozen=True, kw_only=True)
class Plan(PromptOptions):
    """The options of `perstep experts`."""

    new_tokens: NewTokens = 32
    """Tokens that every configuration generates: one prefill and N - 1 decode forwards."""

    top_k: Counts | None = None
    """Experts for each token: a list or a range. [default: 1, 2, 4 ... up to all]"""

    implementations: str | None = None
    """Implementations of the experts, by transformers' names, separated by commas.
    [default: those of eager, grouped_mm and batched_mm that run here]"""

    text: Path | None = None
    """A text file to measure quality on, including perplexity. [default: the model's own output]"""

    quality_tokens: Annotated[int, Parameter(name="--quality-tokens")] = DEFAULT_TOKENS
    """Tokens of the text to measure quality on; 0 measures no quality."""
