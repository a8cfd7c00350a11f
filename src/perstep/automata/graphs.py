"""Reachability in transition tables, in compiled code.

A table is int [states, classes]; state 0 is dead and belongs to no path. SciPy's graph
routines are imported where they are used, so that `import perstep.automata` needs NumPy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def breadth_first(transitions: NDArray[np.integer], start: int) -> NDArray[np.int64]:
    """The live states that `start` leads to, itself first, breadth first in the order of the columns."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order

    rows = len(transitions)
    alive = transitions != 0
    starts = np.concatenate([[0], np.cumsum(alive.sum(axis=1))])
    targets = transitions[alive]
    graph = csr_array((np.ones(len(targets)), targets, starts), shape=(rows, rows))
    order: NDArray[np.int64] = breadth_first_order(graph, start, return_predecessors=False).astype(np.int64)
    return order


def reachable(transitions: NDArray[np.integer], start: int) -> NDArray[np.bool_]:
    """Which states `start` leads to, itself among them; bool [states]. The dead state is never reached."""
    seen = np.zeros(len(transitions), dtype=np.bool_)
    seen[breadth_first(transitions, start)] = True
    seen[0] = False
    return seen


def leads_to(transitions: NDArray[np.integer], goals: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which states have a path to a goal, the goals among them; bool [states]."""
    from scipy.sparse.csgraph import breadth_first_order

    rows = len(transitions)
    backward = predecessors(transitions, extra=goals)
    seen = np.zeros(rows + 1, dtype=np.bool_)
    seen[breadth_first_order(backward, rows, return_predecessors=False)] = True
    return seen[:rows]


def predecessors(transitions: NDArray[np.integer], extra: NDArray[np.bool_] | None = None):  # type: ignore[no-untyped-def]
    """The reversed graph as a sparse array: row t holds the states with a transition into t.

    With `extra`, one more row follows, which holds the states it marks.
    """
    from scipy.sparse import coo_array

    rows = len(transitions)
    sources, columns = np.nonzero(transitions)
    targets = transitions[sources, columns]
    if extra is not None:
        marked = np.flatnonzero(extra)
        sources = np.concatenate([sources, marked])
        targets = np.concatenate([targets, np.full(len(marked), rows)])
    size = rows + (extra is not None)
    return coo_array((np.ones(len(sources)), (targets, sources)), shape=(size, size)).tocsr()


def explore(
    start: int, follow: Callable[[NDArray[np.int64]], NDArray[np.int64]], limit: int | None = None
) -> NDArray[np.int64]:
    """Every key that `start` leads to, ascending. `follow` maps keys [n] to their targets [n, any].

    Where there are more than `limit` it ends early, with more than that.
    """
    seen = np.array([start], dtype=np.int64)
    frontier = seen
    while len(frontier) and (limit is None or len(seen) <= limit):
        targets = np.unique(follow(frontier))
        places = np.minimum(np.searchsorted(seen, targets), len(seen) - 1)
        frontier = targets[seen[places] != targets]
        seen = np.sort(np.concatenate([seen, frontier]), kind="stable")
    return seen
