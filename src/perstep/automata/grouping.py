"""Groups of equal rows: by a 64-bit hash of each row, then checked exactly.

Sorting whole rows costs as much as their bytes; a hash and one comparison with the first
row of the group cost two passes. A collision is found by the comparison and tried again
with other random words, so the answer never rests on luck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def random_words(count: int, seed: int) -> NDArray[np.uint64]:
    """Random odd 64-bit words, uint64 [count]."""
    return np.random.default_rng(seed).integers(0, 2**63, size=count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def number_by_first(keys: NDArray[np.uint64] | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Groups of equal keys, numbered in the order of their first members.

    Returns:
        The first member of each group, int64 [groups], ascending; the group of each key, int64 [keys].
    """
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return first[order], rank[group.reshape(-1)]


def group_rows(rows: NDArray[np.integer] | NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Groups of equal rows of a matrix [rows, width], numbered in the order of their first members.

    Returns:
        The first member of each group, int64 [groups], ascending; the group of each row, int64 [rows].
    """
    seed = 0
    while True:
        words = random_words(rows.shape[1], seed)
        first, group = number_by_first((rows.astype(np.uint64, copy=False) * words).sum(axis=1, dtype=np.uint64))
        later = np.flatnonzero(first[group] != np.arange(len(rows)))
        if np.array_equal(rows[later], rows[first[group[later]]]):
            return first, group
        seed += 1


def group_masks(masks: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`group_rows` of a boolean matrix [rows, width], 64 columns at a time.

    The upper half of a word is folded into the lower one, which can be undone: rows that differ in the highest bit of
    two words alone would otherwise have the same sum under any odd multipliers, since 2^63 (a + b) is 0.
    """
    packed = np.packbits(masks, axis=1)
    words = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    words[:, : packed.shape[1]] = packed
    wide = words.view(np.uint64)
    return group_rows(wide ^ (wide >> np.uint64(32)))


def expand_runs(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The elements of runs [start, start + length), and which run each belongs to.

    Returns:
        The run of each element and the element, both int64 [sum of lengths].
    """
    run = np.repeat(np.arange(len(lengths)), lengths)
    return run, np.arange(len(run)) + (starts - np.cumsum(lengths) + lengths)[run]
