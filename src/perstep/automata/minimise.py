"""Which states of an automaton behave alike: partition refinement, a round at a time.

Blocks are split by a 64-bit hash of the blocks that a state's transitions lead into; only
states with a successor that moved in the round before are looked at again, and the larger
part keeps the old name (Hopcroft's rule), so that a chain of n states costs n small rounds.
The result is checked exactly: a collision of hashes is found and the work done again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perstep.automata import graphs
from perstep.automata.grouping import expand_runs

if TYPE_CHECKING:
    from numpy.typing import NDArray


_CELLS_AT_ONCE = 1 << 18


def same_behaviour(transitions: NDArray[np.int32], accepting: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The block of each state, int32 [states], numbered from 0, the dead state's; equal blocks behave alike.

    Every state but 0 must lead to acceptance.

    Source: Hopcroft, An n log n algorithm for minimizing states in a finite automaton (1971);
    the rounds are those of Moore (1956).
    """
    seed = 0
    while True:
        block = _refine(transitions, accepting, np.random.default_rng(seed))
        if _is_exact(transitions, accepting, block):
            return block
        seed += 1


def _is_exact(transitions: NDArray[np.int32], accepting: NDArray[np.bool_], block: NDArray[np.int32]) -> bool:
    """Whether all states of a block agree on acceptance and on the block behind every byte class."""
    member = np.zeros(int(block.max()) + 1, dtype=np.int64)
    member[block] = np.arange(len(block))
    twin = member[block]
    other = np.flatnonzero(twin != np.arange(len(block)))
    return all(
        bool((block[transitions[part]] == block[transitions[twin[part]]]).all())
        and bool((accepting[part] == accepting[twin[part]]).all())
        for part in _some_at_once(other, transitions.shape[1])
    )


def _refine(
    transitions: NDArray[np.int32], accepting: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.int32]:
    states, classes = transitions.shape
    name = rng.integers(1, 2**64, size=states + 2, dtype=np.uint64)  # one random word a block
    place = np.asarray(rng.integers(0, 2**63, size=classes, dtype=np.uint64) * np.uint64(2) + np.uint64(1))
    block = np.where(accepting, 2, 1).astype(np.int32)
    block[0] = 0
    word = name[block]  # the word of each state's block
    sizes = np.zeros(states + 2, dtype=np.int64)
    sizes[:3] = np.bincount(block, minlength=3)
    used = 3
    backward = graphs.predecessors(transitions)
    first, sources = backward.indptr.astype(np.int64), backward.indices
    looked_at = np.arange(1, states)
    marked = np.zeros(states, dtype=np.bool_)
    while len(looked_at):
        old = block[looked_at]
        key = _leads(word, place, transitions, looked_at)
        order = np.lexsort((key, old))
        looked_at, old, key = looked_at[order], old[order], key[order]
        is_block = np.ones(len(old), dtype=np.bool_)
        is_block[1:] = old[1:] != old[:-1]
        is_group = is_block.copy()
        is_group[1:] |= key[1:] != key[:-1]
        begins = is_group.nonzero()[0]
        counts = _lengths(begins, len(old))
        keeps = _keeps_its_name(old[begins], counts, is_block[begins], sizes)
        renamed = (~keeps).nonzero()[0]
        names = old[begins]
        np.subtract.at(sizes, names[renamed], counts[renamed])
        sizes[used : used + len(renamed)] = counts[renamed]
        names[renamed] = np.arange(used, used + len(renamed))
        used += len(renamed)
        moved = looked_at[np.repeat(~keeps, counts)]
        block[moved] = np.repeat(names[renamed], counts[renamed])
        word[moved] = name[block[moved]]
        looked_at = _sources_of(moved, first, sources, marked)
    return np.unique(block, return_inverse=True)[1].reshape(-1).astype(np.int32)


def _leads(
    word: NDArray[np.uint64], place: NDArray[np.uint64], transitions: NDArray[np.int32], states: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """A hash of where the byte classes lead from each state, some states at a time to need little memory."""
    parts = [(word[transitions[part]] * place).sum(axis=1) for part in _some_at_once(states, transitions.shape[1])]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _some_at_once(states: NDArray[np.int64], classes: int) -> list[NDArray[np.int64]]:
    """The states in parts whose rows together are not large."""
    step = max(1, _CELLS_AT_ONCE // max(1, classes))
    return [states[low : low + step] for low in range(0, max(1, len(states)), step)]


def _keeps_its_name(
    blocks: NDArray[np.int32], counts: NDArray[np.int64], is_first: NDArray[np.bool_], sizes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which groups keep the name of their block; bool [groups], groups of one block side by side.

    Of a block that is looked at whole, the largest group keeps the name; of any other, the states not looked at do.
    """
    keeps = np.zeros(len(blocks), dtype=np.bool_)
    starts = is_first.nonzero()[0]
    is_whole = np.add.reduceat(counts, starts) == sizes[blocks[starts]]
    if is_whole.any():
        lengths = _lengths(starts, len(blocks))
        for place in is_whole.nonzero()[0].tolist():
            start = starts[place]
            keeps[start + counts[start : start + lengths[place]].argmax()] = True
    return keeps


def _lengths(begins: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """The lengths of runs that begin at `begins`, one after the other up to `end`."""
    lengths = np.empty_like(begins)
    np.subtract(begins[1:], begins[:-1], out=lengths[:-1])
    lengths[-1:] = end - begins[-1:]
    return lengths


def _sources_of(
    moved: NDArray[np.int64], first: NDArray[np.int64], sources: NDArray[np.int32], marked: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The states with a transition into one of `moved`, each once; `marked` is scratch, all False."""
    _, index = expand_runs(first[moved], first[moved + 1] - first[moved])
    marked[sources[index]] = True
    result: NDArray[np.int64] = marked.nonzero()[0]
    marked[result] = False
    return result
