"""The options of `depth`, and what is wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token

from perstep.errors import InputError
from perstep.experiments.knobs import OpenNewTokens, PromptOptions
from perstep.experiments.knobs.quality import DEFAULT_TOKENS
from perstep.experiments.options import Seconds, parse_counts

Strategy = Literal["first", "last", "uniform", "random", "importance"]


def _counts(_type: object, tokens: Sequence[Token]) -> tuple[int, ...]:
    return parse_counts(",".join(token.value for token in tokens))


def _index_sets(_type: object, tokens: Sequence[Token]) -> tuple[tuple[int, ...], ...]:
    """One set for each time the option is given; commas and ranges are taken too."""
    sets: list[list[str]] = []
    for token in tokens:
        if token.index == 0:
            sets.append([])
        sets[-1].append(token.value)
    return tuple(tuple(_indices(values)) for values in sets)


def _indices(values: Sequence[str]) -> list[int]:
    """Indices as they were written, repeated ones too: those are an error that must be named."""
    indices = []
    for text in ",".join(values).split(","):
        item = text.strip()
        if item.removeprefix("-").isdigit():
            indices.append(int(item))
        elif "-" in item:
            indices += parse_counts(item)
        else:
            raise InputError(f"{item!r} is not a block; write indices such as 0 5 10, or a range such as 0-3")
    return indices


@dataclass(frozen=True, kw_only=True)
class Plan(PromptOptions):
    """The options of `perstep depth`."""

    new_tokens: OpenNewTokens = None
    """Tokens that every configuration generates: one prefill and N - 1 decode forwards. [default: 32, or fewer where
    the budget does not hold enough rounds of that]"""

    num_active_blocks: Annotated[
        tuple[int, ...] | None,
        Parameter(name="--num-active-blocks", consume_multiple=True, converter=_counts, negative=""),
    ] = None
    """How many blocks run: `4 8 12`, `4,8,12` or a range such as 1-16. [default: every number from 1 to all]"""

    active_block_indices: Annotated[
        tuple[tuple[int, ...], ...] | None,
        Parameter(name="--active-block-indices", consume_multiple=True, converter=_index_sets, negative=""),
    ] = None
    """Exactly these blocks, counted from 0: `0 5 10 15`. Give it again for another configuration. It overrides
    --num-active-blocks."""

    strategy: Strategy = "first"
    """Which blocks run when only their number is given: first, last, uniform (evenly spread), random (drawn with
    --seed), or importance (the blocks whose removal changes the predictions most)."""

    text: Path | None = None
    """A text file to measure quality on, including perplexity. [default: mini's held-out set; otherwise the
    model's own output, without a perplexity]"""

    quality_tokens: int = DEFAULT_TOKENS
    """Tokens of the text to measure quality on; 0 measures no quality."""

    under: Seconds | None = None
    """Name the best configuration whose decode step stays within this time, e.g. 12ms."""


def check(plan: Plan) -> None:
    """What needs no model.

    Raises:
        InputError: an option is out of its range, or two exclude each other.
    """
    given = plan.active_block_indices
    if given is not None and not (given and all(given)):
        raise InputError("--active-block-indices without an index: name the blocks that run, such as 0 1 2")
    if given is None and plan.num_active_blocks is not None and not plan.num_active_blocks:
        raise InputError("--num-active-blocks without a number: give how many run, such as 4 8 12")
    by_importance = plan.strategy == "importance" and plan.active_block_indices is None
    if by_importance and plan.quality_tokens == 0:
        raise InputError("--strategy importance ranks blocks by quality: leave out --quality-tokens 0")
