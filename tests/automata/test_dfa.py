"""Byte automata: laws of the algebra, minimality, and what a wrong one is told."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.drawn import examples

from perstep.automata import Dfa, from_regex, utf8
from perstep.automata.dfa import anything, minimal, nothing
from perstep.automata.minimise import same_behaviour
from perstep.errors import InputError

patterns = st.recursive(
    st.sampled_from(["a", "b", "c", "[ab]", "(ab|ba)", "[^a]"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{1,3}"])).map(lambda two: f"({two[0]}){two[1]}"),
    ),
    max_leaves=7,
)
automata = patterns.map(from_regex)
WORDS = [bytes(word) for length in range(6) for word in itertools.product(b"abc", repeat=length)]


@given(automata, automata)
@settings(max_examples=examples(150), deadline=None)
def test_the_algebra_is_that_of_sets(left: Dfa, right: Dfa) -> None:
    """And, or, minus and not accept what those words say, on every word up to five letters."""
    both, either, only, neither = left & right, left | right, left - right, ~(left | right)
    for word in WORDS:
        one, other = left.accepts(word), right.accepts(word)
        found = both.accepts(word), either.accepts(word), only.accepts(word), neither.accepts(word)
        assert found == (one and other, one or other, one and not other, not (one or other)), word


@given(automata, automata)
@settings(max_examples=examples(100), deadline=None)
def test_equal_languages_are_equal_arrays(left: Dfa, right: Dfa) -> None:
    """Minimal automata in canonical numbering: laws of sets hold as equality of hashes."""
    assert (left & right).hash == (right & left).hash
    assert (left | right).hash == (~(~left & ~right)).hash
    assert (~~left).hash == left.hash == (left | left).hash
    assert minimal(left.transitions, left.byte_class, left.accepting, left.start, "").hash == left.hash
    assert (left - left).is_empty
    assert (left & anything()).hash == left.hash
    assert (left | nothing()).hash == left.hash


@given(automata)
@settings(max_examples=150, deadline=None)
def test_no_two_states_behave_alike(dfa: Dfa) -> None:
    """The number of states is the number of different futures (Myhill-Nerode), and none is dead."""
    block = _moore(dfa.transitions, dfa.accepting)
    assert len(set(block.tolist())) == len(block)


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 4), st.floats(0.0, 1.0))
@settings(max_examples=200, deadline=None)
def test_refinement_equals_moores_algorithm(seed: int, states: int, classes: int, density: float) -> None:
    """On random automata the fast refinement finds the partition that the textbook's rounds find."""
    rng = np.random.default_rng(seed)
    transitions = rng.integers(1, states + 1, size=(states + 1, classes)) * (
        rng.random((states + 1, classes)) < density
    )
    transitions[0] = 0
    accepting = rng.random(states + 1) < 0.3
    accepting[0] = False
    dfa = minimal(transitions.astype(np.int32), (np.arange(256) % classes).astype(np.uint8), accepting, 1)
    reached = _live(transitions, accepting)
    wanted = _moore(transitions, accepting)
    assert dfa.num_states == len({wanted[state] for state in reached})
    if len(dfa.accepting) > 1:
        assert len(set(same_behaviour(dfa.transitions, dfa.accepting).tolist())) == dfa.num_states + 1


def _moore(transitions: np.ndarray, accepting: np.ndarray) -> np.ndarray:
    block = accepting.astype(np.int64)
    while True:
        rows = np.concatenate([block[:, None], block[transitions]], axis=1)
        finer = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
        if finer.max() == block.max():
            return finer
        block = finer


def _live(transitions: np.ndarray, accepting: np.ndarray) -> set[int]:
    reached, queue = {1}, [1]
    for state in queue:
        new = set(transitions[state].tolist()) - reached - {0}
        reached |= new
        queue += new
    useful = set(np.flatnonzero(accepting).tolist())
    while True:
        more = {s for s in reached if set(transitions[s].tolist()) & useful} - useful
        if not more:
            return reached & useful
        useful |= more


def test_a_chain_of_thousands_is_minimised() -> None:
    """A long chain whose states differ only at its far end stays whole; twins of it fall together."""
    chain = from_regex("a{3000}")
    assert chain.num_states == 3001
    assert from_regex("(a{2000}|b{2000})").num_states == 4000 - 1 + 1  # the two ends are one


def test_walking_and_hash(walk: Callable[[Dfa, random.Random, int], bytes]) -> None:
    """A dead state stays dead, a hash ignores where an automaton came from, and live bytes are what it reads."""
    dfa = from_regex("ab*c")
    assert dfa.run(b"x") == 0
    assert dfa.run(b"abc", dfa.run(b"x")) == 0
    assert dfa.hash == replace(dfa, source="elsewhere").hash != from_regex("abc").hash
    assert dfa.live_bytes() == b"abc"
    assert walk(dfa, random.Random(0), 0) == b"ac"
    assert (dfa & utf8()).hash == dfa.hash


@pytest.mark.parametrize(
    "change",
    [
        {"start": 5},
        {"transitions": np.array([[0, 1], [0, 9]], dtype=np.int32)},
        {"transitions": np.array([[1, 0], [0, 0]], dtype=np.int32)},
        {"accepting": np.array([True, True])},
        {"accepting": np.array([False, True, True])},
        {"byte_class": np.full(256, 7, dtype=np.uint8)},
    ],
)
def test_a_malformed_automaton_is_refused(change: dict[str, object]) -> None:
    """Arrays that do not fit, point outside, or give the dead state a life are told so."""
    parts: dict[str, object] = {
        "transitions": np.array([[0, 0], [0, 1]], dtype=np.int32),
        "byte_class": (np.arange(256) > 9).astype(np.uint8),
        "accepting": np.array([False, True]),
        "start": 1,
    }
    Dfa(**parts)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="automaton"):
        Dfa(**{**parts, **change})  # type: ignore[arg-type]
