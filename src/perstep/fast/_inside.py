"""What a processor or criterion offers to a captured step.

A CUDA graph repeats launches and runs no Python. So what lies inside it keeps its state in tensors that are handed to
it, makes the next ones with tensors of fixed shapes, never waits for the device, and never looks at the text: ids come
one by one. Only objects that say `capturable = True` are taken inside. What has state on the host would be captured
without an error and be wrong at the first replay.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import torch

# B batch, T text, V logits

State = tuple[torch.Tensor, ...]
"""What one processor or criterion keeps from step to step: tensors whose first dimension is the batch."""


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
