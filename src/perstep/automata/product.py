"""Both of two token tables at once: states are pairs, a token is allowed where both allow it.

Pairs from which the two can never end together are cut off, so that the product leads into
no dead end that neither table has alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perstep.automata import graphs
from perstep.automata.compiling import without_dead_ends
from perstep.automata.grouping import number_by_first
from perstep.automata.table import TokenTable, same_vocabulary
from perstep.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def both(left: TokenTable, right: TokenTable) -> TokenTable:
    """The table of what both tables allow.

    Raises:
        InputError: if they are over different vocabularies, or no text satisfies both.
    """
    same_vocabulary(left, right)
    classes, class_of_token = _joint_classes(left, right)
    # Without the column of end of sequence and the row of `ended`, which are added again at the end.
    left_rows = left.transitions[:-1, classes // right.num_classes].astype(np.int64)
    right_rows = right.transitions[:-1, classes % right.num_classes].astype(np.int64)
    width = right.num_states + 1

    def follow(keys: NDArray[np.int64]) -> NDArray[np.int64]:
        one, other = left_rows[keys // width], right_rows[keys % width]
        return np.where((one == 0) | (other == 0), 0, one * width + other)

    start = left.start * width + right.start
    keys = graphs.explore(start, follow)
    keys = np.concatenate([[0], keys[keys != 0]])
    transitions = np.searchsorted(keys, follow(keys)).astype(np.int32)
    accepting = left.accepting[keys // width] & right.accepting[keys % width]
    class_of_token, transitions = without_dead_ends(class_of_token, transitions, accepting)
    first = int(np.searchsorted(keys, start))
    source = f"({left.source}) and ({right.source})"
    if not (accepting[first] or transitions[first].any()):
        raise InputError(f"no text satisfies both {left.source} and {right.source}")
    return TokenTable(transitions, class_of_token, accepting, first, left.vocabulary, source, left.budget_bytes)


def _joint_classes(left: TokenTable, right: TokenTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of classes (left * classes of right + right) that tokens have; the pair of each token.

    Pair 0 is dead: all tokens that either side never allows, end of sequence among them.
    """
    one, other = left.class_of_token.astype(np.int64), right.class_of_token.astype(np.int64)
    dead = (one == 0) | (other == 0) | (one == left.num_classes) | (other == right.num_classes)
    pair = np.where(dead, 0, one * right.num_classes + other)
    first, group = number_by_first(np.concatenate([[0], pair]))
    return np.concatenate([[0], pair])[first], group[1:]
