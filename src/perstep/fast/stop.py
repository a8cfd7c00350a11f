"""Stopping criteria that decode nothing: stop strings, and the end of a word.

A stop string that ends inside the last token is found wherever it begins, in the token, across tokens, or in the
prompt. A word ends where what was generated first matches a regular expression. Both read bytes, by tables made once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import StoppingCriteria

from perstep.automata import Vocabulary, compile, from_regex  # noqa: A004 - the word of the glossary
from perstep.automata.dfa import minimal
from perstep.automata.utf8 import ignoring_invalid
from perstep.errors import InputError
from perstep.fast._inside import State, Stateless
from perstep.fast._reading import Reading, on_host
from perstep.fast._stops import compile_stops

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["WORD", "StopStrings", "WordStop"]

_CONTROL = r"\x01-\x08\x0e-\x1f\x7f"
_SPACE = r"\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
WORD = rf"[{_CONTROL}]|[^{_CONTROL}{_SPACE}]+[{_SPACE}]"
"""One control character; or characters that are neither white space (as `str.isspace`) nor control, and then one."""

_POSITIONS = 1024  # new tokens for which there are weights from the beginning
_ODD = 0x2545F4914F6CDD1D  # a 62-bit odd factor that makes the weights of later positions
_LONGEST_GAP = 64  # more new tokens since the last call mean another generate call


class StopStrings(Stateless, StoppingCriteria):  # type: ignore[misc] # transformers is not typed
    """Says of each row whether a stop string ends inside its last token, or (`anywhere`) whether it holds one.

    The verdicts are those of decoding everything: the text has an occurrence that ends in the last token. It may begin
    in the prompt. Ids without text (special ones) break a stop string; their names are no text. A verdict depends on
    the ids of its row alone, so reordered beams and any number of calls are safe; on a device no step waits for the
    host.

    Args:
        strings: texts (taken as UTF-8) or bytes, or a single one.
        vocab: a `perstep.automata.Vocabulary`, a tokenizer, or the bytes of every token.
        anywhere: whether an occurrence before the last token counts as well, as for `any(s in text for s in strings)`:
            a row whose prompt holds a stop string then ends with its first token. On a device the whole row is read at
            every step.

    Raises:
        InputError: no strings, an empty one, or one that the vocabulary cannot spell.

    Examples:
        >>> import torch
        >>> stop = StopStrings(["ab"], [b"a", b"b", b"xab!"])
        >>> stop(torch.tensor([[0, 1], [1, 0], [1, 2]]), None).tolist()
        [True, False, True]
    """

    def __init__(self, strings: str | bytes | Sequence[str | bytes], vocab: object, *, anywhere: bool = False) -> None:
        self.anywhere = anywhere
        self._seen: tuple[torch.Tensor, torch.Tensor] | None = None  # ids and verdicts of the last call with `anywhere`
        self.strings = (strings,) if isinstance(strings, (str, bytes)) else tuple(strings)
        self.vocabulary = Vocabulary.of(vocab)
        self._stops = compile_stops(self.strings, self.vocabulary)
        self._by_class: list[list[bool]] = self._stops.completes.tolist()
        self._completes = {torch.device("cpu"): torch.from_numpy(self._stops.completes)}

    def __deepcopy__(self, _memo: object) -> StopStrings:
        return self  # no verdict depends on a step before

    def __call__(self, input_ids: torch.Tensor, scores: object = None, **_kwargs: object) -> torch.Tensor:  # noqa: ARG002
        """Whether each row of `input_ids` [rows, length] has just completed a stop string, bool [rows]."""
        if on_host(input_ids):
            return self._anywhere_on_host(input_ids) if self.anywhere else self._on_host(input_ids)
        if self.anywhere:
            return self._hold_one(input_ids)
        if not input_ids.shape[1]:
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        return self.completes(self._stops.reading.states(input_ids[:, :-1]), input_ids[:, -1])

    @property
    def ending(self) -> frozenset[int]:
        """The ids of the tokens that can complete a stop string."""
        return self._stops.ending

    def state(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The state of each row after `input_ids` [rows, length], int64 [rows]: for loops of your own."""
        return self._stops.reading.states(input_ids)

    def advance(self, state: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The state [rows] after one more token each [rows]; fixed shapes, no sync: it may be captured in a graph."""
        return self._stops.reading.advance(state, tokens)

    def completes(self, state: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Whether one more token each [rows], read in `state` [rows], completes a stop string, bool [rows]."""
        table = self._completes.get(tokens.device)
        if table is None:
            table = self._completes[tokens.device] = self._completes[torch.device("cpu")].to(tokens.device)
        return table[self._stops.reading.classes(tokens), state]

    def graph_key(self) -> Hashable:
        """Its kind, its strings and its vocabulary."""
        return StopStrings, self.strings, self.anywhere, self.vocabulary.hash

    def graph_begin(self, input_ids: torch.Tensor, width: int) -> State:  # noqa: ARG002
        """The state of each row, and whether it holds a stop string that counts, int64 and bool [rows]."""
        stopped = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return self.state(input_ids), self._hold_one(input_ids) if self.anywhere else stopped

    def graph_advance(self, state: State, tokens: torch.Tensor, length: torch.Tensor) -> State:  # noqa: ARG002
        """The same after one more token each."""
        before, stopped = state
        done = self.completes(before, tokens)
        return self.advance(before, tokens), done | stopped if self.anywhere else done

    def graph_stops(self, state: State) -> torch.Tensor:
        """Whether the last token has stopped each row, bool [rows]."""
        return state[1]

    def _hold_one(self, ids: torch.Tensor) -> torch.Tensor:
        """Whether each row of ids [rows, length] holds a stop string, bool [rows], by tensors alone."""
        if not ids.shape[1]:
            return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
        states_BT = torch.nn.functional.pad(self._stops.reading.states_after_each(ids[:, :-1]), (1, 0))
        return self.completes(states_BT, ids).any(dim=1)

    def _anywhere_on_host(self, ids: torch.Tensor) -> torch.Tensor:
        before, seen = ids[:, :-1], self._seen
        follows = seen is not None and torch.equal(seen[0], before)
        verdicts = (seen[1] if follows and seen else self._hold_one(before)) | self._on_host(ids)
        self._seen = ids.clone(), verdicts
        return verdicts

    def _on_host(self, ids: torch.Tensor) -> torch.Tensor:
        rows, stops = ids.numpy(), self._stops
        last = rows[:, -1].tolist() if rows.shape[1] else []
        if stops.ending.isdisjoint(last):
            return _none_of(len(rows))
        states = stops.reading.states_on_host(rows[:, :-1])
        classes = stops.reading.class_list(last)
        return torch.tensor([self._by_class[one][state] for one, state in zip(classes, states, strict=True)])


class WordStop(StoppingCriteria):  # type: ignore[misc] # transformers is not typed
    """Stops a row if its last token completed the word that is being generated.

    A word is complete as soon as the generated text, or a prefix of it that ends inside the last token, matches
    `pattern` completely. The prompt is not part of it. After a complete word the next one begins, so a call may
    continue where another ended. Ids without text (special ones) add nothing, and neither do bytes that are not valid
    UTF-8: the text is matched as `bytes.decode(errors="ignore")` gives it.

    The state belongs to the text of each row (on a device by a 64-bit fingerprint of its tokens), so beams may be
    reordered, and one object works for any number of successive calls. On a device no step waits for the host. It
    expects one new token per call and does not work with assisted decoding, which adds several.

    Args:
        vocab: a `perstep.automata.Vocabulary`, a tokenizer, or the bytes of every token.
        pattern: a regular expression (docs/automata.md) for a complete word. By default one control character
            (U+0001 to U+0008, U+000E to U+001F, U+007F), or one or more characters that are neither white space nor
            control, followed by one of white space.

    Raises:
        InputError: an expression that is malformed, matches the empty text, or cannot be spelled.

    Examples:
        >>> import torch
        >>> stop = WordStop([bytes([b]) for b in range(256)])
        >>> [stop(torch.tensor([list(b"prompt one "[:end])]), None).item() for end in (8, 9, 10, 11)]
        [False, False, False, True]
    """

    def __init__(self, vocab: object, pattern: str = WORD) -> None:
        self.vocabulary = Vocabulary.of(vocab)
        self.pattern = pattern
        self._reading, self._accept = _word_reading(pattern, self.vocabulary)
        self._length = 0
        self._begin = 0
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # fingerprints and states, both [rows]
        self._text: bytes | None = None  # on the host: what was generated, a position after the other in all rows,
        self._states: list[int] = []  # and the states of the rows
        odd = np.random.default_rng(0).integers(-(2**62), 2**62, size=_POSITIONS, dtype=np.int64) * 2 + 1
        self._weights = {torch.device("cpu"): torch.from_numpy(odd)}

    def __call__(self, input_ids: torch.Tensor, scores: object = None, **_kwargs: object) -> torch.Tensor:  # noqa: ARG002
        """Whether each row of `input_ids` [rows, length] has just completed a word, bool [rows]."""
        if on_host(input_ids):
            return self._on_host(input_ids.numpy())
        length, last = input_ids.shape[1], self._last
        self._text = None
        gap = length - self._length
        if last is None or not 0 < gap <= _LONGEST_GAP or last[0].device != input_ids.device:
            gap = min(length, 1)
            self._begin = length - gap
            keys = states = torch.zeros(input_ids.shape[0], dtype=torch.int64, device=input_ids.device)
        else:
            keys, states, is_known = self._followed(input_ids, last)
            fresh = self._reading.advance(torch.zeros_like(states), input_ids[:, -1])
        self._length = length
        for index in range(length - gap, length):
            keys = keys + input_ids[:, index] * self._weights_for(input_ids)[index - self._begin]
            states = self._reading.advance(states, input_ids[:, index])
        if gap > 1:  # a row that is not known is in its first token, however many there are
            states = torch.where(is_known, states, fresh)
        self._last = keys, states
        return states == self._accept

    def advance(self, state: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The state [rows] after one more token each [rows], begun at 0; no sync: it may be captured in a graph."""
        return self._reading.advance(state, tokens)

    def is_complete(self, state: torch.Tensor) -> torch.Tensor:
        """Whether a word has just been completed in `state` [rows], bool [rows]."""
        return state == self._accept

    capturable = True

    def graph_key(self) -> Hashable:
        """Its kind, its pattern and its vocabulary."""
        return WordStop, self.pattern, self.vocabulary.hash

    def graph_begin(self, input_ids: torch.Tensor, width: int) -> State:  # noqa: ARG002
        """The state of each row behind the prompt, twice, int64 [rows]; a call may go on where another ended."""
        length = input_ids.shape[1]
        states = torch.zeros(len(input_ids), dtype=torch.int64, device=input_ids.device)
        if 0 <= length - self._length < _LONGEST_GAP and on_host(input_ids) and self._text is not None:
            self._follow(torch.nn.functional.pad(input_ids, (0, 1)).numpy(), self._text)
            states = torch.tensor(self._states)
        elif 0 <= length - self._length < _LONGEST_GAP and self._last and self._last[0].device == input_ids.device:
            _, followed, is_known = self._followed(input_ids, self._last)
            for index in range(self._length, length):
                followed = self._reading.advance(followed, input_ids[:, index])
            states = torch.where(is_known, followed, states)
        else:
            self._begin = length
        return states, states

    def graph_advance(self, state: State, tokens: torch.Tensor, length: torch.Tensor) -> State:  # noqa: ARG002
        """The states after one more token each, and those before it."""
        return self.advance(state[0], tokens), state[0].clone()

    def graph_stops(self, state: State) -> torch.Tensor:
        """Whether a word has just been completed, bool [rows]."""
        return self.is_complete(state[0])

    def graph_end(self, input_ids: torch.Tensor, state: State, undone: int) -> None:
        """Remember the text and its states, for the call that goes on with it."""
        begun = input_ids[:, self._begin :]
        keys = (begun * self._weights_for(input_ids)[: begun.shape[1]]).sum(dim=1)
        self._last, self._text, self._length = (keys, state[undone].clone()), None, input_ids.shape[1]
        if on_host(input_ids):
            self._text, self._states, self._last = begun.T.numpy().tobytes(), state[undone].tolist(), None

    def _on_host(self, ids: NDArray[np.int64]) -> torch.Tensor:
        length, rows = ids.shape[1], len(ids)
        gap = length - self._length
        previous = self._text if 0 < gap <= _LONGEST_GAP else None
        if previous is None:
            gap = min(length, 1)
            self._begin = length - gap
            self._states, previous = [0] * rows, b""
        text = ids[:, self._begin :].T.tobytes()
        if rows == len(self._states) and text.startswith(previous):
            tokens = (ids[:, -1] if gap == 1 else ids[:, length - gap :].T.ravel()).tolist()
        else:
            tokens = self._follow(ids, previous)
        for begin in range(0, len(tokens), rows or 1):
            self._states = self._reading.advance_on_host(self._states, tokens[begin : begin + rows])
        self._length, self._text, self._last = length, text, None
        if self._accept not in self._states:
            return _none_of(rows)
        return torch.tensor([state == self._accept for state in self._states])

    def _follow(self, ids: NDArray[np.int64], previous: bytes) -> list[int]:
        """Set the states before the last token of rows that changed places, and give these tokens."""
        before = np.frombuffer(previous, dtype=ids.dtype).reshape(self._length - self._begin, len(self._states))
        texts = {row.tobytes(): state for row, state in zip(before.T, self._states, strict=True)}
        states = []
        for row in ids[:, self._begin : -1]:
            state = texts.get(row[: len(before)].tobytes())
            # A row that is not known is in its first token.
            states.append(0 if state is None else self._reading.state_after(row[len(before) :].tolist(), state))
        self._states = states
        last: list[int] = ids[:, -1].tolist()
        return last

    def _followed(
        self, ids: torch.Tensor, last: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Fingerprints of what was generated before, the states it led to (0 where it is new), and where it is known.

        All int64 or bool [rows].
        """
        before = ids[:, self._begin : self._length]
        keys = (before * self._weights_for(ids)[: before.shape[1]]).sum(dim=1)
        same = keys[:, None] == last[0][None, :]
        is_known = same.any(dim=1)
        states = torch.where(is_known, last[1][same.to(torch.uint8).argmax(dim=1)], 0)
        return keys, states, is_known

    def _weights_for(self, ids: torch.Tensor) -> torch.Tensor:
        """Random odd numbers, one a position, int64: sums of tokens times these tell texts apart."""
        weights = self._weights.get(ids.device)
        if weights is None:
            weights = self._weights[ids.device] = self._weights[torch.device("cpu")].to(ids.device)
        while len(weights) < ids.shape[1] - self._begin:
            weights = self._weights[ids.device] = torch.cat([weights, weights * _ODD])
        return weights


def _none_of(rows: int) -> torch.Tensor:
    """False for every row; made as `generate` makes its own just before, since any other way takes 10 µs there."""
    return torch.full((rows,), False, dtype=torch.bool)


def _word_reading(pattern: str, vocabulary: Vocabulary) -> tuple[Reading, int]:
    """The functions of all tokens on how much of a word there is, and the state in which it is complete.

    States are the automaton's from 0, and one in which no word can be completed any more.
    """
    dfa = ignoring_invalid(from_regex(pattern))
    if dfa.accepting[dfa.start]:
        raise InputError(f"the pattern {pattern!r} matches the empty text, so every word is complete before it begins")
    absorbing = np.where(dfa.accepting[:, None], np.arange(len(dfa.accepting))[:, None], dfa.transitions)
    whole = minimal(absorbing.astype(np.int32), dfa.byte_class, dfa.accepting, dfa.start, dfa.source)
    table = compile(whole, vocabulary)
    dead = table.num_states
    maps = table.transitions[1 : table.num_states + 1].T.astype(np.int64) - 1  # [classes, states]
    maps[maps < 0] = dead
    accept = int(np.flatnonzero(whole.accepting)[0]) - 1
    maps = np.concatenate([maps, np.full((len(maps), 1), dead)], axis=1)
    nothing = len(maps)  # the class of ids without text
    maps = np.concatenate([maps, np.arange(dead + 1)[None]])
    maps[:, accept] = maps[:, 0]  # the next word begins
    class_of_token = table.class_of_token.astype(np.int64)
    class_of_token[sorted(vocabulary.special_ids)] = nothing
    return Reading(class_of_token, maps, 0, unknown=nothing), accept
