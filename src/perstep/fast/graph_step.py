"""One decode step with everything in fixed places: forward, processors, choice, stop flags, ids, positions.

A CUDA graph of it needs no Python and no launch of its own from the host. On other devices the same function runs as it
is, which is how its meaning is tested. Whatever comes from the host is copied into the buffers before a call; nothing
in a step waits for the device or looks at a value.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from perstep.fast._inside import InsideCriterion, InsideProcessor, State
from perstep.fast.decode_inputs import DecodingModel
from perstep.fast.graph_cache import SlotCache
from perstep.fast.noise import gumbel
from perstep.targets.transformers.protocols import Argument

# B batch, S slots, V logits, E end ids


@dataclass(frozen=True)
class Begin:
    """Where a call stands behind its prefill.

    Attributes:
        ids_BT: the text so far.
        mask_BT: the attention mask of what the cache holds; None without one.
        positions: of the next token, [B, 1] or [3, B, 1]; None where the model counts by itself.
        keys_B: what the noise of each row begins with; None for greedy choices.
        ends_E: ids that end a text; None without any.
        pad: what finished rows go on with; None where they are not padded.
        states: of each processor, then of each criterion.
    """

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor | None
    positions: torch.Tensor | None
    keys_B: torch.Tensor | None
    ends_E: torch.Tensor | None
    pad: torch.Tensor | None
    states: Sequence[State]


class Step:
    """A decode step over fixed slots.

    Args:
        slots: the cache.
        begin: of the first call; those that come later have tensors of the same shapes, apart from the text.
        processors: what is inside of them; None if they are called between forward and choice.
        criteria: what is inside of them.
        others: further arguments of the forward, none of them a tensor.
        width: of the logits.

    Attributes:
        scores_BV: what the choice is made from where processors are called outside, float32.
        tokens_B1: the last tokens.
        going_B: which rows go on, bool.
        going: whether any does, bool [].
    """

    def __init__(
        self,
        slots: SlotCache,
        begin: Begin,
        processors: Sequence[InsideProcessor] | None,
        criteria: Sequence[InsideCriterion],
        others: dict[str, Argument],
        width: int,
    ) -> None:
        batch, device = len(begin.ids_BT), begin.ids_BT.device
        self.slots, self._others = slots, others
        self.is_split = processors is None
        # Copies of their own: what a user's object holds may be replaced, and a graph holds addresses.
        self._processors = [copy.copy(one) for one in processors or ()]
        self._criteria = [copy.copy(one) for one in criteria]
        self.scores_BV = torch.empty(batch, width if self.is_split else 0, device=device)
        self.tokens_B1 = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        self.going_B = torch.ones(batch, dtype=torch.bool, device=device)
        self.going = torch.ones((), dtype=torch.bool, device=device)
        self._ids_BS = torch.zeros(batch, slots.slots, dtype=torch.int64, device=device)
        self._length = torch.zeros((), dtype=torch.int64, device=device)
        self._mask_BS = None if begin.mask_BT is None else begin.mask_BT.new_ones(batch, slots.slots)
        self._positions, self._keys_B, self._ends_E, self._pad = (
            None if one is None else one.clone() for one in (begin.positions, begin.keys_B, begin.ends_E, begin.pad)
        )
        self._states = [tuple(one.clone() for one in state) for state in begin.states]

    def start(self, begin: Begin) -> None:
        """Put everything where a call begins; the slots are filled apart from this."""
        length = begin.ids_BT.shape[1]
        self._ids_BS[:, :length].copy_(begin.ids_BT)
        self._length.fill_(length)
        if self._mask_BS is not None and begin.mask_BT is not None:
            self._mask_BS.fill_(1)[:, : begin.mask_BT.shape[1]].copy_(begin.mask_BT)
        self.going_B.fill_(True)
        self.going.fill_(True)
        for mine, given in (
            (self._positions, begin.positions),
            (self._keys_B, begin.keys_B),
            (self._ends_E, begin.ends_E),
            (self._pad, begin.pad),
        ):
            if mine is not None and given is not None:
                mine.copy_(given)
        for state, given_state in zip(self._states, begin.states, strict=True):
            _put(state, given_state)

    def forward(self, model: DecodingModel) -> torch.Tensor:
        """The logits [B, V] behind the last tokens, in float32; then the next slot and position are theirs."""
        inputs = model.prepare_inputs_for_generation(
            self.tokens_B1,
            next_sequence_length=1,
            past_key_values=self.slots.cache,
            attention_mask=self._mask_BS,
            position_ids=self._positions,
            use_cache=True,
            **self._others,
        )
        logits_BV = model(**inputs, return_dict=True).logits[:, -1].float()
        self.slots.place.add_(1)
        if self._positions is not None:
            self._positions.add_(1)
        return logits_BV

    def choose(self, scores_BV: torch.Tensor) -> None:
        """The next token of each row, and what follows from it; the scores may be written over."""
        for processor, state in zip(self._processors, self._states, strict=False):
            scores_BV = processor.graph_scores(scores_BV, state, self._length)
        if self._keys_B is not None:
            scores_BV = scores_BV.double() + gumbel(self._keys_B, self._length, scores_BV.shape[1])
        tokens_B = scores_BV.argmax(dim=-1)
        if self._pad is not None:
            tokens_B = torch.where(self.going_B, tokens_B, self._pad)
        self.tokens_B1.copy_(tokens_B[:, None])
        self._ids_BS.scatter_(1, self._length.expand(len(tokens_B), 1), self.tokens_B1)
        self._length.add_(1)
        for inside, state in zip((*self._processors, *self._criteria), self._states, strict=True):
            _put(state, inside.graph_advance(state, tokens_B, self._length))
        if self._ends_E is not None:
            self.going_B.logical_and_((tokens_B[:, None] != self._ends_E).all(dim=1))
        for criterion, state in zip(self._criteria, self._states[len(self._processors) :], strict=True):
            self.going_B.logical_and_(~criterion.graph_stops(state))
        self.going.copy_(self.going_B.any())

    def whole(self, model: DecodingModel) -> None:
        """Forward and choice."""
        self.choose(self.forward(model))

    def first_half(self, model: DecodingModel) -> None:
        """The forward alone, its logits where processors take them."""
        self.scores_BV.copy_(self.forward(model))

    def second_half(self, _model: DecodingModel) -> None:
        """The choice alone."""
        self.choose(self.scores_BV)

    def halves(self) -> list[Callable[[DecodingModel], None]]:
        """What a step consists of; between two of them processors are called."""
        return [self.first_half, self.second_half] if self.is_split else [self.whole]

    def text(self, length: int) -> torch.Tensor:
        """The text of this length, int64 [B, length], in memory of its own."""
        return self._ids_BS[:, :length].clone()

    def states(self) -> list[State]:
        """Of each processor, then of each criterion."""
        return self._states

    @property
    def nbytes(self) -> int:
        """What the buffers take, without the slots."""
        own = (self.scores_BV, self._ids_BS, self._mask_BS, *(one for state in self._states for one in state))
        return sum(one.nbytes for one in own if one is not None)


def _put(state: State, values: State) -> None:
    """Write into the tensors of a state, where they are not written already."""
    for mine, given in zip(state, values, strict=True):
        if mine is not given:
            mine.copy_(given)
