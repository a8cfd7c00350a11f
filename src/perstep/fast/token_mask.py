"""Token tables as a logits processor: what the grammar forbids becomes -inf, with no wait for the host.

The mask begins after the prompt. Which row of the batch goes on from which row of the step before is read from a
hash of the ids, on the device: a new call of `generate`, and rows that beam search has reordered, are recognised
without being told. A text that was made to leave its grammar (by another processor) may only end; it never
becomes a row of -inf alone. Does not choose tokens: that is `fast.decode`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from perstep._words import plural
from perstep.automata import Row, TokenAutomaton, TokenTable, apply
from perstep.automata.rows import RowStore
from perstep.errors import InputError
from perstep.fast import _launch
from perstep.fast._inside import State
from perstep.fast._processor import Processor, signed
from perstep.fast.token_tables import DEAD, DeviceTables, check_tables, starts_of, to_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

# B batch, T length of the text, L width of the logits

__all__ = ["TokenMask"]

BUDGET_BYTES = 64 * 2**20
"""What mask rows may take as booleans; beyond it they are packed, and unpacked in every step."""

_BASE = 6364136223846793005  # of the hash, a polynomial in an odd number modulo 2**64 (Knuth's multiplier)


class TokenMask(Processor):
    """A logits processor that allows what a token table allows.

    Args:
        tables: one table, or one for each row of the batch (a schema a row); with several beams or return
            sequences, one for each prompt. A `TokenTable` is stored on the device of the logits; any other
            (what `automata.mask` chooses, a `LazyTable`) reads the ids on the host once per step, which no captured
            graph can.
        budget_bytes: limit for mask rows stored as booleans on the device.

    Raises:
        InputError: if the tables are over different vocabularies, or have no end-of-sequence id.

    Examples:
        >>> model.generate(**inputs, logits_processor=[TokenMask(table)])  # doctest: +SKIP
    """

    def __init__(self, tables: TokenAutomaton | Sequence[TokenAutomaton], *, budget_bytes: int = BUDGET_BYTES) -> None:
        self.tables: tuple[TokenAutomaton, ...] = (tables,) if isinstance(tables, TokenAutomaton) else tuple(tables)
        if not self.tables:
            raise InputError("a mask needs at least one table")
        check_tables(self.tables)
        self.vocabulary = self.tables[0].vocabulary
        self._budget_bytes = budget_bytes
        self._distinct = tuple(dict.fromkeys(self.tables))
        self._is_lazy = any(not isinstance(table, TokenTable) for table in self._distinct)
        self._on_device: DeviceTables | None = None
        self._end_row: Row | None = None
        self.reset()

    def reset(self) -> None:
        """Start over: the next call is the first after a prompt.

        Needed only if a prompt equals an earlier call's prompt plus its output, and that call stopped at the token
        limit: without it the mask continues in the state where that text stopped.
        """
        self._length = -1
        self._hash_B: torch.Tensor | None = None
        self._states_B: torch.Tensor | None = None
        self._tables_B = torch.empty(0, dtype=torch.long)
        self._starts_B: torch.Tensor | None = None
        self._host_states: list[int] = []

    @property
    def left_grammar(self) -> torch.Tensor:
        """Rows that another processor has forced out of the grammar, bool [B], after the last step."""
        if self._states_B is not None:
            return self._states_B == DEAD
        return torch.tensor([state == DEAD for state in self._host_states], dtype=torch.bool)

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [B, L] with -inf where the grammar forbids a token, in a tensor of their own.

        Raises:
            InputError: if the vocabulary is wider than the logits, the batch does not fit the tables, or a graph is
                captured with a table that is not whole.
        """
        self.check(scores.shape[0], scores.shape[1])
        if self._is_lazy and scores.is_cuda and torch.cuda.is_current_stream_capturing():
            raise InputError(self._on_the_host())
        goes_on = self._goes_on(input_ids)
        if self._is_lazy:
            return self._on_host(input_ids, scores, *self._parents(input_ids, goes_on))
        tables = self._tables_for(scores.shape[1], scores.device)
        starts_B = self._starts_B
        if starts_B is None:
            starts = torch.tensor(tables.starts, device=scores.device)
            starts_B = self._starts_B = starts[self._tables_B]
        before = None
        if goes_on and self._hash_B is not None and self._states_B is not None:
            before = self._hash_B, self._states_B
        stepped = _launch.advance_and_mask(scores, input_ids, tables, before, starts_B, self._tables_B, _BASE)
        if stepped is not None:
            masked, self._hash_B, self._states_B = stepped
            return masked
        states_B = starts_B
        parent_B, known_B = self._parents(input_ids, goes_on)
        if parent_B is not None and known_B is not None and self._states_B is not None:
            moved_B = tables.step(self._states_B[parent_B], self._tables_B, input_ids[:, -1])
            states_B = torch.where(known_B, moved_B, starts_B)
        self._states_B = states_B
        return tables.mask(states_B, scores)

    def check(self, batch: int, width: int) -> None:
        """Check that the mask fits logits [batch, width].

        Raises:
            InputError: if it does not.
        """
        if width < self.vocabulary.size:
            raise InputError(
                f"the mask is over {plural(self.vocabulary.size, 'token')}, but the model gives "
                f"{plural(width, 'logit')}: make the vocabulary from this model's tokenizer"
            )
        if batch % len(self.tables):
            raise InputError(
                f"{plural(len(self.tables), 'table does', 'tables do')} not fit a batch of {batch}: give one, or one "
                "for each row"
            )

    def table_of_row(self, row: int, batch: int) -> TokenAutomaton:
        """The table of a row of a batch."""
        return self.tables[row * len(self.tables) // batch]

    @property
    def capturable(self) -> bool:
        """Whether a captured step can hold it: whole tables it can, lazy ones are filled on the host."""
        return not self._is_lazy

    def graph_key(self) -> Hashable:
        """Its kind and its tables."""
        return TokenMask, self.tables, self._budget_bytes

    def graph_begin(self, input_ids: torch.Tensor, width: int) -> State:
        """The start state of each row and its table, both int64 [B].

        Raises:
            InputError: if the vocabulary is wider than the logits, or the batch does not fit the tables.
        """
        self.check(len(input_ids), width)
        self._assign(len(input_ids), input_ids.device)
        starts = starts_of([table for table in self._distinct if isinstance(table, TokenTable)])
        return torch.tensor(starts, device=input_ids.device)[self._tables_B], self._tables_B

    def graph_advance(self, state: State, tokens: torch.Tensor, length: torch.Tensor) -> State:  # noqa: ARG002
        """The states after one more token each."""
        assert self._on_device is not None  # noqa: S101 - since the beginning
        states, tables = state
        return self._on_device.step(states, tables, tokens), tables

    def graph_scores(self, scores: torch.Tensor, state: State, length: object) -> torch.Tensor:  # noqa: ARG002
        """The same by the states."""
        return self._tables_for(scores.shape[1], scores.device).mask(state[0], scores)

    def graph_end(self, input_ids: torch.Tensor, state: State, undone: int) -> None:  # noqa: ARG002
        """Which rows have left the grammar is asked afterwards."""
        self._states_B = state[0].clone()

    def prepare(self, width: int, device: torch.device | str = "cpu") -> TokenMask:
        """Copy the tables to a device for logits of `width`; otherwise the first step does so.

        Call it before `torch.compile(fullgraph=True)` and CUDA graphs, which cannot create tables. Returns the mask.

        Raises:
            InputError: if the vocabulary is wider than that, or a table is not whole.
        """
        self.check(len(self.tables), width)
        if self._is_lazy:
            raise InputError(self._on_the_host())
        whole = [table for table in self._distinct if isinstance(table, TokenTable)]
        self._on_device = to_device(whole, width, torch.device(device), self._budget_bytes)
        return self

    def _on_the_host(self) -> str:
        other = next(table for table in self._distinct if not isinstance(table, TokenTable))
        return (
            f"this mask is by {other.engine}, which reads the ids on the host at every step; a device's tables and a "
            "captured graph take a TokenTable alone: table.whole(), or mask(..., engine='table')"
        )

    def _tables_for(self, width: int, device: torch.device) -> DeviceTables:
        tables = self._on_device
        if tables is None or tables.width != width or tables.next_SC.device != device:
            tables = self.prepare(width, device)._on_device
        assert tables is not None  # noqa: S101 - only whole tables come here
        return tables

    def _goes_on(self, ids_BT: torch.Tensor) -> bool:
        """Whether rows may go on from those of the last step: the text is one token longer, the batch is the same."""
        batch, length = ids_BT.shape
        followed, self._length = length == self._length + 1, length
        if self._assign(batch, ids_BT.device):
            self._starts_B = None
            return False
        return followed and self._hash_B is not None

    def _parents(self, ids_BT: torch.Tensor, goes_on: bool) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Which row of the last step each row goes on from, int64 [B], and whether there is one, bool [B].

        None and None where no row can.
        """
        length = ids_BT.shape[1]
        weights_T = torch.full((length,), _BASE, device=ids_BT.device).cumprod(0)
        terms_BT = (ids_BT + 1) * weights_T
        prefix_B = terms_BT[:, :-1].sum(1)
        before, self._hash_B = self._hash_B, prefix_B + terms_BT[:, -1] if length else prefix_B
        if not goes_on or before is None:
            return None, None
        same_BB = (prefix_B[:, None] == before) & (self._tables_B[:, None] == self._tables_B)
        return same_BB.int().argmax(1), same_BB.any(1)

    def _assign(self, batch: int, device: torch.device) -> bool:
        """Give each row its table; whether that is new."""
        if len(self._tables_B) == batch and self._tables_B.device == device:
            return False
        numbers = [self._distinct.index(self.table_of_row(row, batch)) for row in range(batch)]
        self._tables_B = torch.tensor(numbers, device=device)
        return True

    # Lazy tables: rows are made on the host, so the ids are read there

    def _on_host(
        self,
        ids_BT: torch.Tensor,
        scores_BL: torch.Tensor,
        parent_B: torch.Tensor | None,
        known_B: torch.Tensor | None,
    ) -> torch.Tensor:
        batch = len(ids_BT)
        tables = [self.table_of_row(row, batch) for row in range(batch)]
        states = [table.start for table in tables]
        if parent_B is not None and known_B is not None:
            rows = zip(parent_B.tolist(), known_B.tolist(), ids_BT[:, -1].tolist(), strict=True)
            for row, (parent, is_known, token) in enumerate(rows):
                if is_known:
                    states[row] = follow(tables[row], self._host_states[parent], token)
        self._host_states = states
        masked = scores_BL.clone()
        apply(masked, [self._row(table, state) for table, state in zip(tables, states, strict=True)])
        return masked

    def _row(self, table: TokenAutomaton, state: int) -> Row:
        if state != DEAD:
            return table.row(state)
        if self._end_row is None:
            ends = np.zeros(self.vocabulary.size, np.bool_)
            ends[list(self.vocabulary.eos_ids)] = True
            self._end_row = _row_of(ends)
        return self._end_row


def _row_of(allowed: NDArray[np.bool_]) -> Row:
    return Row(len(allowed), int(allowed.sum()), lambda: allowed, RowStore())


def follow(table: TokenAutomaton, state: int, token: int) -> int:
    """The state after any id a model may emit: a finished text stays finished, whatever pads it."""
    if state in (DEAD, table.ended):
        return state
    return table.next(state, token) if 0 <= token < table.vocabulary.size else DEAD
