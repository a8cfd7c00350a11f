"""The options of `output`, and what is wrong with them."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from perstep.experiments.knobs import PromptOptions
from perstep.experiments.options import Counts


@dataclass(frozen=True, kw_only=True)
class Plan(PromptOptions):
    """The options of `perstep output`."""

    new_tokens: Annotated[Counts, Parameter(name=["-n", "--new-tokens"], show_default=False)] = (
        1,
        2,
        4,
        8,
        16,
        32,
        64,
        128,
    )
    """Tokens to generate: a list or a range. [default: 1-128*2]"""
