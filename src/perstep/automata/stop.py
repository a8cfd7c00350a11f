"""Stop strings as an automaton: has any of them occurred?

The accepting state is absorbing: once a stop string is complete, every continuation is
accepted, so `is_accepting` after a token says whether to stop. The complement (`~`) is the
text in which none has occurred yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.automata.dfa import STATE_LIMIT, Dfa, minimal
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def stop_strings(strings: Iterable[str | bytes], state_limit: int = STATE_LIMIT) -> Dfa:
    """The automaton of all byte strings in which at least one of `strings` occurs.

    Args:
        strings: texts (taken as UTF-8) or bytes.
        state_limit: most states; the strings together need about as many as they have bytes.

    Raises:
        InputError: without strings, if one is empty, or if they are over the limit together.

    Source: Aho and Corasick, Efficient string matching (1975).

    Examples:
        >>> stop_strings(["</s>"]).accepts(b"the end</s> and more")
        True
    """
    if isinstance(strings, (str, bytes)):
        raise InputError(f"give stop strings as a list; got {strings!r}, which would be read letter by letter")
    words = _words(strings, state_limit)
    rows, accepting = _automaton(*_trie(words))
    rows[accepting] = np.flatnonzero(accepting)[:, None]  # a stop string that has occurred has occurred
    classes = np.arange(256, dtype=np.uint8)
    return minimal(rows, classes, accepting, 1, f"one of {plural(len(words), 'stop string')} has occurred")


def occurrences(
    strings: Iterable[str | bytes], state_limit: int = STATE_LIMIT
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The automaton that goes on after a stop string: where, and not only whether, one ends.

    Returns:
        Next state by state and byte, int32 [states, 256], begun in state 0; whether a stop string has just ended,
        bool [states].

    Raises:
        InputError: as for `stop_strings`.
    """
    rows, accepting = _automaton(*_trie(_words(strings, state_limit)))
    return rows[1:] - 1, accepting[1:]


def _words(strings: Iterable[str | bytes], state_limit: int) -> list[bytes]:
    words = [word.encode() if isinstance(word, str) else bytes(word) for word in strings]
    if not words or not all(words):
        raise InputError("stop strings must be a list of at least one string, none of them empty")
    if sum(map(len, words)) > state_limit:
        raise InputError(
            f"stop strings of {plural(sum(map(len, words)), 'byte')} together, over the limit of "
            f"{plural(state_limit, 'state')}: give fewer, or raise state_limit"
        )
    return words


def _trie(words: list[bytes]) -> tuple[list[dict[int, int]], set[int]]:
    """The trie of the words: children of each node (the root is 1), and the nodes where a word ends."""
    children: list[dict[int, int]] = [{}, {}]
    complete = set()
    for word in words:
        node = 1
        for byte in word:
            if byte not in children[node]:
                children[node][byte] = len(children)
                children.append({})
            node = children[node][byte]
        complete.add(node)
    return children, complete


def _automaton(children: list[dict[int, int]], complete: set[int]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Transitions by byte, and the nodes in which a word ends.

    A node goes on as its longest proper suffix in the trie does, except where it has a child.
    """
    rows = np.zeros((len(children), 256), dtype=np.int32)
    accepting = np.zeros(len(children), dtype=np.bool_)
    accepting[list(complete)] = True
    queue = [(1, 0)]  # node, its longest proper suffix; the root has none, and its row starts at itself
    for node, suffix in queue:
        rows[node] = rows[suffix] if suffix else 1
        accepting[node] |= accepting[suffix]
        for byte, child in children[node].items():
            queue.append((child, int(rows[node, byte])))
            rows[node, byte] = child
    return rows, accepting
