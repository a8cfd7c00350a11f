"""Balanced blocks: each arm in each position, and after each other arm, equally often."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep import stats
from perstep.errors import InputError


def test_two_arms_alternate_as_abba() -> None:
    """Or as BAAB, by the draw; both occur."""
    orders = {tuple(stats.balanced_block(2, np.random.default_rng(seed)).ravel().tolist()) for seed in range(20)}
    assert orders == {(0, 1, 1, 0), (1, 0, 0, 1)}


def test_four_arms_make_the_printed_williams_square() -> None:
    """First row 0, 3, 1, 2; the others are its shifts."""
    assert stats.williams_square(4).tolist() == [[0, 3, 1, 2], [1, 0, 2, 3], [2, 1, 3, 0], [3, 2, 0, 1]]


@given(st.integers(1, 14), st.integers(0, 2**32 - 1))
def test_every_block_is_balanced(num_arms: int, seed: int) -> None:
    """Positions, ordered neighbours, rows."""
    block = stats.balanced_block(num_arms, np.random.default_rng(seed))
    repeats = 1 if num_arms == 1 or num_arms % 2 == 0 else 2
    assert block.shape == (repeats * num_arms, num_arms)
    for column in block.T:
        assert sorted(column.tolist()) == sorted(repeats * list(range(num_arms)))
    followed = [(int(a), int(b)) for row in block for a, b in itertools.pairwise(row)]
    pairs = [(a, b) for a in range(num_arms) for b in range(num_arms) if a != b]
    assert sorted(followed) == sorted(repeats * pairs)


def test_the_order_is_drawn_anew_for_each_round_from_the_seed() -> None:
    """The same generator state gives the same block, successive draws differ."""
    rng = np.random.default_rng(0)
    first, second = stats.balanced_block(6, rng), stats.balanced_block(6, rng)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, stats.balanced_block(6, np.random.default_rng(0)))


def test_roles_and_the_order_of_rows_are_both_drawn() -> None:
    """Either of them alone makes at most 24 blocks of four arms."""
    blocks = {stats.balanced_block(4, np.random.default_rng(seed)).tobytes() for seed in range(200)}
    assert len(blocks) > 24


def test_no_arms_are_refused() -> None:
    """There is nothing to put in order."""
    with pytest.raises(InputError):
        stats.balanced_block(0, np.random.default_rng(0))
