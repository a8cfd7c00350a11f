"""Hashes decide and comparisons confirm: with hashes that collide, every result is still right."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.automata import Vocabulary, compile, from_regex, grouping  # noqa: A004
from perstep.automata import classes as classes_module
from perstep.automata import minimise as minimise_module
from perstep.automata import walk as walk_module
from perstep.automata.dfa import minimal

REAL = grouping.random_words


def _weak_at_first(count: int, seed: int) -> Any:
    """All words equal in the first attempt, so that almost everything collides."""
    return np.ones(count, dtype=np.uint64) if seed < 3 else REAL(count, seed)


@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=12))
def test_rows_are_grouped_exactly(rows: list[list[int]]) -> None:
    """Rows fall into one group exactly if they are equal, numbered by their first members."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "random_words", _weak_at_first)
        first, group = grouping.group_rows(np.array(rows))
    seen: list[list[int]] = []
    for row, number in zip(rows, group.tolist(), strict=True):
        if row not in seen:
            seen.append(row)
        assert number == seen.index(row)
    assert [rows[place] for place in first.tolist()] == seen


@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_token_classes_are_exact(threshold: float) -> None:
    """Colliding columns are told apart, whether states are walked whole or pair by pair."""
    letters = [bytes([byte]) for byte in b"abcdef"]
    vocabulary = Vocabulary([*letters, b"ab", b"ba", b"aab", b"cd", b"dc", None], eos_ids=[11])
    dfa = from_regex("(a|b){0,4}c?(d|e)*f")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classes_module, "random_words", _weak_at_first)
        patch.setattr(grouping, "random_words", _weak_at_first)
        patch.setattr(classes_module, "_STATES_AT_ONCE", 2)
        patch.setattr(walk_module, "DENSE_ABOVE", threshold)
        patch.setattr(walk_module, "DENSE_FROM", 0)
        table = compile(dfa, vocabulary)
    for state in range(1, dfa.num_states + 1):
        for token, data in enumerate(vocabulary.tokens[:-1]):
            assert table.next(state, token) == dfa.run(data, state)


def test_states_are_merged_exactly() -> None:
    """A partition that is too coarse is noticed and refined again."""
    dfa = from_regex("(ab|cd){3}")
    real = minimise_module._refine
    calls = []

    def coarse_at_first(transitions: Any, accepting: Any, rng: Any) -> Any:
        calls.append(1)
        return (
            accepting.astype(np.int32) + (np.arange(len(accepting)) > 0)
            if len(calls) == 1
            else real(transitions, accepting, rng)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minimise_module, "_refine", coarse_at_first)
        again = minimal(dfa.transitions, dfa.byte_class, dfa.accepting, dfa.start)
    assert len(calls) == 2
    assert again.hash == dfa.hash


def test_what_was_told_apart_stays_apart() -> None:
    """States in which all columns agree do not undo what earlier states split, even if every hash collides."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classes_module, "random_words", _weak_at_first)
        columns = classes_module._Columns(4, 10)
        columns.split_dense(np.array([1]), np.array([[1, 1, 2, 2]]))
        columns.split_dense(np.array([2]), np.array([[3, 3, 3, 3]]))
        assert columns.label.tolist() == [0, 0, 1, 1]
        everywhere = walk_module.Moves(np.full(4, 3), np.arange(4), np.full(4, 5))
        columns.split_sparse(everywhere)
    assert columns.label.tolist() == [0, 0, 1, 1]
    assert columns.targets()[[1, 2, 3]].tolist() == [[1, 2], [3, 3], [5, 5]]


def test_masks_that_differ_in_the_highest_bit_of_two_words_alone_are_told_apart() -> None:
    """Their plain hash is the same under any odd multipliers, so that trying others would never end."""
    masks = np.zeros((3, 128), dtype=np.bool_)
    masks[1, [56, 120]] = True
    masks[2, [0, 56, 64, 120]] = True
    first, group = grouping.group_masks(masks)
    assert first.tolist() == [0, 1, 2]
    assert group.tolist() == [0, 1, 2]
