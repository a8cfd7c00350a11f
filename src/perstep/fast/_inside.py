"""What a processor or criterion offers to a captured step, and the ones of transformers that are taken inside as well.

A CUDA graph repeats launches and runs no Python. So what lies inside it keeps its state in tensors that are handed to
it, makes the next ones with tensors of fixed shapes, never waits for the device, and never looks at the text: ids come
one by one. Only objects that say `capturable = True` are taken inside. What has state on the host would be captured
without an error and be wrong at the first replay.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from perstep.targets.transformers.protocols import Argument

# B batch, T text, V logits

State = tuple[torch.Tensor, ...]
"""What one processor or criterion keeps from step to step: tensors whose first dimension is the batch."""

_STATELESS = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)
"""Of transformers: they look at the scores alone, by tensors alone."""


class Inside(Protocol):
    """What every object with `capturable = True` has.

    Attributes:
        capturable: whether this one, with what it was given, can be inside.
    """

    @property
    def capturable(self) -> bool: ...

    def graph_key(self) -> Hashable:
        """What two objects that do the same have in common: one graph serves both."""
        ...

    def graph_begin(self, ids_BT: torch.Tensor, width: int) -> State:
        """The state behind a prompt [B, T], for logits of `width`; it may wait for the device."""
        ...

    def graph_advance(self, state: State, tokens_B: torch.Tensor, length: torch.Tensor) -> State:
        """The state after one more token a row; `length` is that of the text with it, int64 []."""
        ...

    def graph_end(self, ids_BT: torch.Tensor, state: State, undone: int) -> None:
        """The call is over: the text, and the state after it and `undone` tokens more."""
        ...


class InsideProcessor(Inside, Protocol):
    """A logits processor."""

    def graph_scores(self, scores_BV: torch.Tensor, state: State, length: torch.Tensor) -> torch.Tensor:
        """The scores behind a text of this length, int64 []; what is given may be written over."""
        ...


class InsideCriterion(Inside, Protocol):
    """A stopping criterion."""

    def graph_stops(self, state: State) -> torch.Tensor:
        """Whether the last token has stopped each row, bool [B]."""
        ...


class Stateless:
    """What a processor without state need not say."""

    capturable = True

    def graph_begin(self, ids_BT: torch.Tensor, width: int) -> State:  # noqa: ARG002
        """Nothing."""
        return ()

    def graph_advance(self, state: State, tokens_B: torch.Tensor, length: torch.Tensor) -> State:  # noqa: ARG002
        """The same."""
        return state

    def graph_end(self, ids_BT: torch.Tensor, state: State, undone: int) -> None:
        """Nothing is kept."""


@dataclass(frozen=True, eq=False)
class _Known(Stateless):
    """A processor of transformers that has no state."""

    processor: LogitsProcessor

    def graph_key(self) -> Hashable:
        """Its kind and its settings."""
        return type(self.processor), tuple(sorted(vars(self.processor).items()))

    def graph_scores(self, scores_BV: torch.Tensor, state: State, length: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Its own scores."""
        scores: torch.Tensor = self.processor(None, scores_BV)
        return scores


def processor_inside(processor: Argument) -> InsideProcessor | None:
    """The processor as a captured step takes it; None if it has to stay outside."""
    from perstep.fast.penalties import RepetitionPenalty, SuppressTokens

    kind = type(processor)
    if kind in _STATELESS:
        return _Known(processor)
    if kind is SuppressTokensLogitsProcessor:
        return SuppressTokens(processor.suppress_tokens.tolist())
    if kind is RepetitionPenaltyLogitsProcessor and not getattr(processor, "logits_indices", None):
        ignored = processor.prompt_ignore_length
        lengths = ignored.flatten().tolist() if isinstance(ignored, torch.Tensor) else ignored
        return RepetitionPenalty(processor.penalty, lengths or 0)
    inside: InsideProcessor | None = processor if _offers(processor, "graph_scores") else None
    return inside


def criterion_inside(criterion: Argument) -> InsideCriterion | None:
    """The criterion as a captured step takes it; None if it has to stay outside."""
    inside: InsideCriterion | None = criterion if _offers(criterion, "graph_stops") else None
    return inside


def _offers(thing: Argument, own: str) -> bool:
    """Whether it declares that it can be captured, itself and not by inheritance alone, and has what that takes.

    A subclass that overrides the call does something else than what its base captures.
    """
    if getattr(thing, "capturable", False) is not True:
        return False
    kinds = type(thing).__mro__
    declares = next((place for place, kind in enumerate(kinds) if own in vars(kind)), len(kinds) + 1)
    calls = next((place for place, kind in enumerate(kinds) if "__call__" in vars(kind)), len(kinds))
    return declares <= calls
