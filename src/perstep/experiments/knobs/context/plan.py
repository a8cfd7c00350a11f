"""The options of `context`, and what is wrong with them."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from perstep.experiments.knobs import KnobOptions, OpenNewTokens
from perstep.experiments.options import Counts

DEFAULT_LENGTHS = (64, 128, 256, 512, 1024)


@dataclass(frozen=True, kw_only=True)
class Plan(KnobOptions):
    """The options of `perstep context`."""

    prompt_tokens: Annotated[Counts | None, Parameter(name=["-p", "--prompt-tokens"])] = None
    """Text tokens of the prompt: a list or a range. [default: 64-1024*2 as far as the model's context goes; 64 where
    images are varied]"""

    new_tokens: OpenNewTokens = None
    """Tokens that every configuration generates: one prefill and N - 1 decode forwards. [default: 32, or fewer where
    the budget does not hold enough rounds of that]"""

    images: Counts | None = None
    """Images in front of the text, for a vision-language model: a list or a range. [default: 1 where --image-size is
    given, otherwise none]"""

    image_size: Counts | None = None
    """Pixels a side of each image: a list or a range, for models that take any size or cut images into tiles."""
