"""Token tables as tensors: the states, the class map and the mask rows live where the logits are.

A step is then two look-ups by tensors, with no copy, no wait for the host and no branch on a value, so that it
runs inside `torch.compile` and CUDA graphs. Several tables over one vocabulary are numbered one after the other,
so that every row of a batch may have its own. What a text that left its grammar may do is decided here: end.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perstep.automata import TokenAutomaton, TokenTable, Vocabulary

# B batch, S states of all tables, C token classes of the largest, R mask rows, V vocabulary, L width of the logits

DEAD = 0
"""The state of a text that left its grammar, in every table and in all of them together."""


@dataclass(frozen=True)
class DeviceTables:
    """Token tables on one device, for logits of one width.

    Attributes:
        next_SC: the state after a token class, int32 [states * classes]; dead and ended states keep to themselves.
        class_KV: the class of a token in each table, int32 [tables * (tokens + 1)]; the last is of ids beyond.
        row_S: the mask row of each state, int32 [states].
        forbidden_RL: what a row forbids, bool [rows, logits]; or, beyond the budget, the packed bits of what it
            allows, int32 [rows, words].
        starts: the start state of each table.
        num_tokens: of the vocabulary.
        width: of the logits.
    """

    next_SC: torch.Tensor
    class_KV: torch.Tensor
    row_S: torch.Tensor
    forbidden_RL: torch.Tensor
    starts: tuple[int, ...]
    num_classes: int
    num_tokens: int
    width: int

    def step(self, states_B: torch.Tensor, tables_B: torch.Tensor, tokens_B: torch.Tensor) -> torch.Tensor:
        """The states [B] after one token a row; dead where it was not allowed."""
        beyond = self.num_tokens
        known_B = torch.where((tokens_B < 0) | (tokens_B > beyond), beyond, tokens_B)
        class_B = self.class_KV[tables_B * (beyond + 1) + known_B]
        return self.next_SC[states_B * self.num_classes + class_B].long()

    def forbidden(self, states_B: torch.Tensor) -> torch.Tensor:
        """What a state forbids, bool [B, L]."""
        rows_B = self.row_S[states_B]
        if self.forbidden_RL.dtype == torch.bool:
            return self.forbidden_RL[rows_B]
        words = self.forbidden_RL[rows_B]
        bits = (words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=words.device)) & 1
        return bits.flatten(1)[:, : self.width] == 0

    def mask(self, states_B: torch.Tensor, scores_BL: torch.Tensor) -> torch.Tensor:
        """The scores with -inf where a state forbids a token, in a tensor of their own."""
        return scores_BL.masked_fill(self.forbidden(states_B), -torch.inf)


def starts_of(tables: Sequence[TokenTable]) -> tuple[int, ...]:
    """The start state of each table, with the states of all numbered one table after the other."""
    offsets = accumulate((table.ended for table in tables), initial=0)
    return tuple(table.start + offset for table, offset in zip(tables, offsets, strict=False))


def to_device(tables: Sequence[TokenTable], width: int, device: torch.device, budget_bytes: int) -> DeviceTables:
    """The tables as tensors on `device` for logits of `width`; rows as booleans while they fit into the budget."""
    vocabulary = tables[0].vocabulary
    num_classes = max(table.transitions.shape[1] for table in tables)
    num_states = 1 + sum(table.ended for table in tables)
    next_SC = np.zeros((num_states, num_classes), np.int32)
    class_KV = np.zeros((len(tables), vocabulary.size + 1), np.int32)
    row_S = np.zeros(num_states, np.int32)
    bits_RW = [_packed(_ways_out(vocabulary), width)]
    starts, num_rows = starts_of(tables), 1
    for number, table in enumerate(tables):
        offset = starts[number] - table.start
        live = slice(offset + 1, offset + table.ended + 1)
        targets = table.transitions[1:].astype(np.int32)
        next_SC[live, : targets.shape[1]] = np.where(targets == 0, DEAD, targets + offset)
        next_SC[offset + table.ended] = offset + table.ended
        class_KV[number, :-1] = table.class_of_token
        rows = table.bits_by_row()
        bits_RW.append(_widened(rows, width))
        row_S[live] = table.row_of[1:] + num_rows
        num_rows += len(rows)
    bits = np.concatenate(bits_RW)
    forbidden: torch.Tensor
    if num_rows * width <= budget_bytes:
        allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little", count=width)
        forbidden = torch.from_numpy(allowed == 0)
    else:
        forbidden = torch.from_numpy(bits)
    return DeviceTables(
        torch.from_numpy(next_SC.reshape(-1)).to(device),
        torch.from_numpy(class_KV.reshape(-1)).to(device),
        torch.from_numpy(row_S).to(device),
        forbidden.to(device),
        starts,
        num_classes,
        vocabulary.size,
        width,
    )


def _ways_out(vocabulary: Vocabulary) -> NDArray[np.bool_]:
    """What a text that left its grammar may still do, bool [tokens]: end."""
    allowed = np.zeros(vocabulary.size, np.bool_)
    allowed[list(vocabulary.eos_ids)] = True
    return allowed


def _packed(allowed: NDArray[np.bool_], width: int) -> NDArray[np.int32]:
    from perstep.automata import pack_bits

    return _widened(pack_bits(allowed)[None], width)


def _widened(bits_RW: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    """Packed bits for logits of `width`, which may be wider than the vocabulary: the rest is never allowed."""
    words = np.zeros((len(bits_RW), -(-width // 32)), np.int32)
    words[:, : bits_RW.shape[1]] = bits_RW
    return words


def check_tables(tables: Sequence[TokenAutomaton]) -> None:
    """See that the tables go together and that no state of theirs forbids every token.

    Raises:
        InputError: if they are over different vocabularies, or a complete text could not end.
    """
    first = tables[0].vocabulary
    for table in tables[1:]:
        if table.vocabulary is not first and table.vocabulary.hash != first.hash:
            raise InputError("the tables of a mask must be over one vocabulary; these are over different ones")
    if not first.eos_ids:
        raise InputError(
            "the vocabulary has no end-of-sequence id, so a complete text could not end: "
            "make it with eos_ids (Vocabulary(tokens, eos_ids=[2]))"
        )
