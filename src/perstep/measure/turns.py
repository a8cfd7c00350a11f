"""How marked and plain steps take turns inside a pass, and how such passes and steps are named."""

TURNS = ("marked first", "plain first")
"""The arms of passes whose marked and plain steps take turns, by their turn (`is_marked`)."""
UNMARKED = ".plain"
"""Ends the kind of a step without marks in a pass whose steps take turns: `decode.plain` beside `decode`."""


def is_marked(position: int, turn: int) -> bool:
    """Whether a decode step is marked in a pass whose marked and plain steps take turns.

    M P P M (law "the observer is measured"), so that a cost that grows with the position is in both alike; in a pass of
    the other turn each position is of the other kind.

    Args:
        position: of the step, from 0.
        turn: of the pass, 0 or 1. The prefill is marked where it is 0.

    >>> ["".join("PM"[is_marked(position, turn)] for position in range(8)) for turn in (0, 1)]
    ['MPPMMPPM', 'PMMPPMMP']
    """
    return (position % 4 in (0, 3)) == (turn == 0)
