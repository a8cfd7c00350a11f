"""Stop strings compiled against a vocabulary: what every token does to every unfinished stop string.

The bytes of a token are read only where that can matter: from the start, if it holds the first byte of a stop string;
from inside a stop string, if its own first byte goes on with it. All such walks are done together, a byte at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perstep.automata.grouping import group_rows
from perstep.automata.stop import occurrences
from perstep.errors import InputError
from perstep.fast._reading import Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from perstep.automata import Vocabulary


@dataclass(frozen=True, eq=False)
class Stops:
    """Stop strings over a vocabulary.

    Attributes:
        reading: the state before a token: how much of which stop string the text ends with.
        completes: whether a token of this class, read in this state, completes a stop string, bool [classes, states].
        ending: the tokens that can complete one.
    """

    reading: Reading
    completes: NDArray[np.bool_]
    ending: frozenset[int]


def compile_stops(strings: Sequence[str | bytes], vocabulary: Vocabulary) -> Stops:
    """The tables of stop strings over a vocabulary.

    Raises:
        InputError: without strings, if one is empty, or if the vocabulary cannot spell one.
    """
    rows, hits = occurrences(strings)
    words = [word.encode() if isinstance(word, str) else bytes(word) for word in strings]
    class_of_token, maps, completes = _tables(rows, hits, vocabulary)
    if set(b"".join(words)) - set(vocabulary.single_bytes):
        for word in words:
            _check_spelled(word, vocabulary)
    reading = Reading(class_of_token, maps, max(map(len, words)) - 1)
    can_end: NDArray[np.bool_] = np.logical_or.reduce(completes, axis=1)
    ending = np.flatnonzero(can_end[class_of_token])
    return Stops(reading, completes, frozenset(ending.tolist()))


def _tables(
    rows: NDArray[np.int32], hits: NDArray[np.bool_], vocabulary: Vocabulary
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The class of each token, and by class and state the next state and whether a stop string was completed.

    Class 0 leads every state to the start and completes nothing: that of nearly all tokens, and of ids without text.
    """
    data, starts = vocabulary.spelled
    walk = _Walk(rows, hits, data, starts)
    state, hit = walk.from_start()
    token, source, target, done = walk.from_inside()
    is_touched = np.zeros(vocabulary.size, dtype=np.bool_)
    is_touched[token] = True
    touched, place = np.flatnonzero(is_touched), np.cumsum(is_touched) - 1
    # A state and whether a stop string was completed are one number; for each touched token, from every state.
    code = state * 2 + hit
    width = len(rows)
    columns = np.empty((len(touched), width), dtype=np.min_scalar_type(2 * width))
    columns[:] = code[touched, None]
    columns[place[token], source] = target * 2 + done
    is_plain = np.bincount(code, minlength=2 * width) > 0
    is_plain[0] = True
    plain = np.flatnonzero(is_plain)
    class_of_token = (np.cumsum(is_plain) - 1)[code]
    first, group = group_rows(columns) if len(columns) else (np.zeros(0, np.int64), np.zeros(0, np.int64))
    class_of_token[touched] = len(plain) + group
    codes = np.concatenate([np.repeat(plain[:, None], width, axis=1), columns[first].astype(np.int64)])
    return class_of_token, codes // 2, codes % 2 == 1


class _Walk:
    """Reads tokens, all at once."""

    def __init__(
        self,
        rows: NDArray[np.int32],
        hits: NDArray[np.bool_],
        data: NDArray[np.uint8],
        starts: NDArray[np.int64],
    ) -> None:
        self._rows, self._hits, self._data, self._starts = rows, hits, data, starts

    def from_start(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where each token leads from the start, int64 [tokens], and whether it holds a whole stop string."""
        tokens = len(self._starts) - 1
        state, hit = np.zeros(tokens, dtype=np.int64), np.zeros(tokens, dtype=np.bool_)
        leaves = self._rows[0] != 0
        places = np.flatnonzero(leaves[self._data])
        token = np.searchsorted(self._starts, places, side="right") - 1
        first = np.flatnonzero(np.diff(token, prepend=-1))  # of each token its first such place
        token = token[first]
        state[token], hit[token] = self._read(np.zeros(len(token), np.int64), places[first], self._starts[token + 1])
        return state, hit

    def from_inside(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """For tokens that may go on with an unfinished stop string: token, state before, after, and completion."""
        sources, bytes_read = np.nonzero(self._rows != self._rows[0])
        matters = np.zeros(256, dtype=np.bool_)
        matters[bytes_read] = True
        tokens = np.flatnonzero(np.diff(self._starts))
        first_byte = self._data[self._starts[tokens]]
        kept = matters[first_byte]
        tokens, first_byte = tokens[kept], first_byte[kept]
        order = np.argsort(first_byte, kind="stable")
        bounds = np.searchsorted(first_byte[order], np.arange(257))
        counts = bounds[bytes_read + 1] - bounds[bytes_read]
        pair = np.repeat(np.arange(len(counts)), counts)
        rank = np.arange(len(pair)) + (bounds[bytes_read] - np.cumsum(counts) + counts)[pair]
        token, source = tokens[order[rank]], sources[pair].astype(np.int64)
        target, done = self._read(source, self._starts[token], self._starts[token + 1])
        return token, source, target, done

    def _read(
        self, state: NDArray[np.int64], at: NDArray[np.int64], end: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The states after the bytes [at, end), and whether a stop string ended within them."""
        flat = self._rows.ravel()
        state, hit = state.astype(np.int64), np.zeros(len(at), dtype=np.bool_)
        active = np.arange(len(at))
        now, at = state, at.copy()
        while len(active):
            now = flat[now * 256 + self._data[at]].astype(np.int64)
            hit[active[self._hits[now]]] = True
            at += 1
            ended = at >= end
            state[active[ended]] = now[ended]
            going = ~ended
            active, now, at, end = active[going], now[going], at[going], end[going]
        return state, hit


def _check_spelled(word: bytes, vocabulary: Vocabulary) -> None:
    """Some tokens, one after the other, hold the whole of `word`.

    Raises:
        InputError: none do.
    """
    class_of_token, maps, completes = _tables(*occurrences([word]), vocabulary)
    present = np.unique(class_of_token)
    reached, fresh = {0}, [0]
    while fresh:
        state = fresh.pop()
        if completes[present, state].any():
            return
        added = set(maps[present, state].tolist()) - reached
        reached |= added
        fresh += added
    raise InputError(f"the vocabulary cannot spell the stop string {word!r}: no tokens, one after the other, hold it")
