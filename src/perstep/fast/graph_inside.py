"""Which processors and criteria of a call are taken inside a captured step, and as what.

Those that declare it (`_inside`), and the ones of transformers that have no state or an equal among the drop-ins.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

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

from perstep.fast._inside import InsideCriterion, InsideProcessor, State, Stateless
from perstep.fast.penalties import RepetitionPenalty, SuppressTokens
from perstep.targets.transformers.protocols import Argument

_STATELESS = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)
"""Of transformers: they look at the scores alone, by tensors alone."""


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
