"""Valid UTF-8, token by token, for byte vocabularies and byte-level BPE alike: a logits processor.

Strict: what is generated after a valid prompt is valid, orphan bytes and all that `bytes.decode` refuses included, and
it ends only between characters. The state is settled by the last three tokens (`_reading`); the mask is one
`minimum` with a row of a table, which costs a tenth of `masked_fill`. It does not repair a prompt.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from perstep._words import plural
from perstep.automata import Vocabulary, compile, utf8  # noqa: A004 - the word of the glossary
from perstep.errors import InputError
from perstep.fast._inside import State, Stateless
from perstep.fast._processor import Processor, signed
from perstep.fast._reading import FEW_ROWS, Reading, on_host

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from perstep.automata import Dfa

__all__ = ["Utf8"]

_BYTES = 3  # of one character, before its last: what an unfinished one can have
_SPARSE_ABOVE = 4096  # logits so wide that reading a whole row of a mask costs more than listing its exceptions


class Utf8(Stateless, Processor):
    """Allows a token if and only if the text can still become valid UTF-8 after it.

    The prompt counts too: it may end inside a character. Invalid bytes in it are skipped as with `errors="replace"`,
    and so is a token that something else has forced: after it the text continues at a character boundary, and a row
    always has an allowed token. Ids without text (special ones, padding) end the character before them. End-of-sequence
    ids are allowed between characters only. Allowed logits keep their value; all others become -inf, including columns
    beyond the vocabulary.

    It keeps no state between steps, so one object works for any number of calls, reordered beams and batches of any
    size. On a device no step waits for the host.

    Args:
        vocab: a `perstep.automata.Vocabulary`, a tokenizer, or the bytes of every token.
        max_length: the length of `input_ids` at which generation ends (prompt and new tokens; with `inputs_embeds`
            the new tokens alone): near it no character is begun that could not be finished. None: the limit may cut a
            character.
        special_ids: special ids that are allowed between characters, as end-of-sequence ids are.

    Raises:
        InputError: no vocabulary, one that spells no valid text, or special ids that it does not have.

    Examples:
        >>> import torch
        >>> mask = Utf8([bytes([b]) for b in range(256)])
        >>> allowed = mask(torch.tensor([[0xC3]]), torch.zeros(1, 256))[0] == 0
        >>> allowed.sum().item(), allowed[0x80:0xC0].all().item()
        (64, True)
    """

    def __init__(self, vocab: object, *, max_length: int | None = None, special_ids: Iterable[int] = ()) -> None:
        if max_length is not None and max_length < 1:
            raise InputError(f"max_length {max_length}: it is the length at which generation ends, 1 or more")
        self.vocabulary = Vocabulary.of(vocab)
        self.max_length = max_length
        special = self._special = sorted(set(map(int, special_ids)))
        if not set(special) <= self.vocabulary.special_ids:
            odd = sorted(set(special) - self.vocabulary.special_ids)[0]
            raise InputError(f"special_ids names {odd}, which is no special id of the vocabulary")
        self._rows = _Rows(self.vocabulary, special, limited=max_length is not None)
        self._reading = _reading(self.vocabulary, utf8())

    def __deepcopy__(self, _memo: object) -> Utf8:
        return self  # nothing changes from step to step

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [rows, columns] with -inf at what is not allowed; `scores` itself is left as it is."""
        left = self._rows.reach if self.max_length is None else self._left(input_ids.shape[1])
        if on_host(input_ids):
            return self._on_host(self._reading.states_on_host(input_ids.numpy()), scores, left)
        return torch.minimum(scores, self._rows.caps(scores, left)[self._reading.states(input_ids)])

    def state(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The state of each row after `input_ids` [rows, length], int64 [rows]: for loops of your own."""
        return self._reading.states(input_ids)

    def advance(self, state: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The state [rows] after one more token each [rows]; fixed shapes, no sync: it may be captured in a graph."""
        return self._reading.advance(state, tokens)

    def mask(self, scores: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The scores [rows, columns] with -inf at tokens that `state` [rows] does not allow, at any length."""
        return torch.minimum(scores, self._rows.caps(scores, self._rows.reach)[state])

    def graph_key(self) -> Hashable:
        """Its kind, its vocabulary and its settings."""
        return Utf8, self.vocabulary.hash, tuple(self._special), self.max_length

    def graph_begin(self, input_ids: torch.Tensor, width: int) -> State:  # noqa: ARG002
        """The state of each row."""
        return (self._reading.states(input_ids),)

    def graph_advance(self, state: State, tokens: torch.Tensor, length: torch.Tensor) -> State:  # noqa: ARG002
        """The state after one more token each."""
        return (self._reading.advance(state[0], tokens),)

    def graph_scores(self, scores: torch.Tensor, state: State, length: torch.Tensor) -> torch.Tensor:
        """The same by the states."""
        reach = self._rows.reach
        if self.max_length is None:
            return torch.minimum(scores, self._rows.caps(scores, reach)[state[0]])
        left = self.max_length - length - 1
        left = torch.where(left < 0, reach, left.clamp(max=reach)).expand(len(state[0]))  # [] would be read as a number
        return torch.minimum(scores, self._rows.caps_by_left(scores)[left, state[0]])

    def allowed(self, input_ids: torch.Tensor) -> list[NDArray[np.int64]]:
        """The allowed ids of each row, ascending; for debugging and tests, because it waits for the device."""
        rows = self._rows.allowed[self._left(input_ids.shape[1])]
        return [np.flatnonzero(rows[state].numpy()) for state in self._reading.states_on_host(input_ids.cpu().numpy())]

    def _left(self, length: int) -> int:
        """How many tokens there can be after the one now chosen, as far as it matters."""
        left = -1 if self.max_length is None else self.max_length - length - 1
        return min(left, self._rows.reach) if left >= 0 else self._rows.reach

    def _on_host(self, states: Sequence[int] | NDArray[np.int64], scores: torch.Tensor, left: int) -> torch.Tensor:
        rows = self._rows
        columns = scores.shape[1]
        if columns > _SPARSE_ABOVE:
            if len(set(states)) == 1:
                return rows.sparsely(scores, states[0], left)
            return torch.cat([rows.sparsely(scores[row : row + 1], state, left) for row, state in enumerate(states)])
        if scores.dtype is not torch.float32 or scores.requires_grad:
            return torch.minimum(scores, rows.caps(scores, left)[torch.as_tensor(states)])
        caps = rows.on_host.get((columns, left)) or rows.caps_on_host(scores, left)
        if len(states) > FEW_ROWS:
            capped = caps.whole.take(states, 0)
            return torch.from_numpy(np.minimum(scores.numpy(), capped, capped))
        # Behind a forward this takes half of what `torch.minimum` does: generate has just made a copy too.
        copied = scores.clone()
        for row, state in zip(copied.numpy(), states, strict=True):
            np.minimum(row, caps.rows[state], row)
        return copied


class _Rows:
    """What each state allows, and how many tokens it is from the end of its character.

    State 0 is between characters; the automaton's own numbers begin at 1.
    """

    def __init__(self, vocabulary: Vocabulary, special: list[int], *, limited: bool) -> None:
        self.size = vocabulary.size
        table = compile(utf8(), vocabulary)
        self._targets = table.transitions[1 : table.num_states + 1].astype(np.int64)  # [states, classes]
        self._class_of_token, self._special = table.class_of_token, special
        self._targets[:, np.bincount(table.class_of_token, minlength=self._targets.shape[1]) == 0] = 0
        if not self._targets[0].any():
            raise InputError("no token of this vocabulary can begin valid UTF-8, so there is nothing to allow")
        distance = np.full(table.ended + 1, np.inf)  # of the dead state, which is never reached, above all
        distance[[table.start, table.ended]] = 0
        for _ in range(table.num_states):
            nearest = np.where(self._targets > 0, distance[self._targets], np.inf).min(axis=1)
            distance[1 : table.num_states + 1] = np.minimum(distance[1 : table.num_states + 1], 1 + nearest)
        self._distance = distance
        finite = distance[np.isfinite(distance)]
        self.reach = int(finite.max())
        """The number of tokens that can finish any character that can be finished."""
        # Made now, since under tracing there are only tensors.
        self.allowed = {
            left: torch.from_numpy(self._allowed(left)) for left in range(0 if limited else self.reach, self.reach + 1)
        }
        """Which tokens are allowed where this many more can follow, bool [states, tokens]."""
        self._caps: dict[tuple[int, torch.dtype, torch.device, int], torch.Tensor] = {}
        self.on_host: dict[tuple[int, int], _CapsOnHost] = {}
        self._lists: dict[tuple[int, int, int], tuple[bool, torch.Tensor]] = {}

    def _allowed(self, left: int) -> NDArray[np.bool_]:
        """Which tokens are allowed where `left` more can follow them, bool [states, tokens].

        A state that has none (its character cannot be finished with these tokens, or not in time) has what it
        would have without the limit, and if that is nothing, what is allowed between characters.
        """
        free = self._targets > 0
        by_class = free & (self._distance[self._targets] <= left)
        by_class = np.where(by_class.any(axis=1, keepdims=True), by_class, free)
        by_class = np.where(by_class.any(axis=1, keepdims=True), by_class, by_class[:1])
        rows: NDArray[np.bool_] = by_class[:, self._class_of_token]
        rows[0, self._special] = True
        return rows

    def caps(self, scores: torch.Tensor, left: int) -> torch.Tensor:
        """What logits may be at most: +inf where allowed, -inf elsewhere; [states, columns] as `scores`."""
        columns = scores.shape[1]
        key = (columns, scores.dtype, scores.device, left)
        cached = self._caps.get(key)
        if cached is None:
            if columns < self.size:
                raise InputError(
                    f"the vocabulary has {plural(self.size, 'token')}, the logits {plural(columns, 'column')}: they "
                    "are of different models"
                )
            caps = torch.where(self.allowed[left], torch.inf, -torch.inf)
            caps = torch.nn.functional.pad(caps, (0, columns - self.size), value=-torch.inf)
            cached = self._caps[key] = caps.to(device=scores.device, dtype=scores.dtype)
        return cached

    def caps_by_left(self, scores: torch.Tensor) -> torch.Tensor:
        """The caps where 0, 1, 2 ... tokens are left, [lefts, states, columns]."""
        key = (scores.shape[1], scores.dtype, scores.device, -1)
        cached = self._caps.get(key)
        if cached is None:
            cached = self._caps[key] = torch.stack([self.caps(scores, left) for left in range(self.reach + 1)])
        return cached

    def caps_on_host(self, scores: torch.Tensor, left: int) -> _CapsOnHost:
        """The same for float32 logits in the host's memory."""
        whole = self.caps(scores, left).numpy()
        caps = self.on_host[scores.shape[1], left] = _CapsOnHost(whole, list(whole))
        return caps

    def sparsely(self, scores: torch.Tensor, state: int, left: int) -> torch.Tensor:
        """The scores [rows, columns] in the host's memory with -inf at what `state` does not allow.

        Between characters nearly all tokens are allowed, inside one nearly none: the shorter list is worked through.
        """
        key = (scores.shape[1], state, left)
        cached = self._lists.get(key)
        if cached is None:
            allowed = torch.isposinf(self.caps(scores[:1].float(), left)[state])
            few = int(allowed.sum()) * 2 < len(allowed)
            cached = self._lists[key] = few, torch.nonzero(allowed if few else ~allowed).ravel()
        few_allowed, ids = cached
        if not few_allowed:
            return scores.index_fill(1, ids, -torch.inf)
        return torch.full_like(scores, -torch.inf).index_copy_(1, ids, scores.index_select(1, ids))


@dataclass(frozen=True, eq=False)
class _CapsOnHost:
    """Caps [states, columns], whole and row by row."""

    whole: NDArray[np.float32]
    rows: list[NDArray[np.float32]]


def _reading(vocabulary: Vocabulary, dfa: Dfa) -> Reading:
    """The functions of all tokens: the strict automaton, which starts again where it would die.

    A token's function is that of its last three bytes, since three bytes settle the state.
    """
    data, starts = vocabulary.spelled
    none = dfa.num_byte_classes
    base = none + 1
    ends, lengths = starts[1:], np.diff(starts)
    symbols = dfa.byte_class[data].astype(np.int64)
    code = np.zeros(vocabulary.size, dtype=np.int64)
    for back in range(_BYTES, 0, -1):
        has = lengths >= back
        code = code * base + np.where(has, symbols[np.where(has, ends - back, 0)] if len(symbols) else none, none)
    codes, class_of_token = np.unique(code, return_inverse=True)
    maps = np.stack([_function(int(one), base, dfa) for one in codes])
    maps, group = np.unique(maps, axis=0, return_inverse=True)
    reset = np.flatnonzero((maps == 0).all(axis=1))
    if not len(reset):  # no token ends a character: ids that are no tokens do
        maps, reset = np.concatenate([maps, np.zeros_like(maps[:1])]), np.array([len(maps)])
    return Reading(group.reshape(-1)[class_of_token.reshape(-1)], maps, _BYTES, unknown=int(reset[0]))


def _function(code: int, base: int, dfa: Dfa) -> NDArray[np.int64]:
    """Where the bytes that `code` names lead from each state; states are numbered from 0."""
    symbols = [code // base**back % base for back in range(_BYTES - 1, -1, -1)]
    states = np.arange(1, dfa.num_states + 1)
    read = [symbol for symbol in symbols if symbol != base - 1]
    if not read:  # an id without text
        return np.zeros(dfa.num_states, dtype=np.int64)
    for symbol in read:
        onward, again = dfa.transitions[states, symbol], dfa.transitions[dfa.start, symbol]
        states = np.where(onward > 0, onward, again if again > 0 else dfa.start)
    return states - 1
