"""Token tables against brute force: every token from every state."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.drawn import examples

from perstep.automata import (
    Dfa,
    LazyTable,
    TokenAutomaton,
    TokenTable,
    Vocabulary,
    compile,  # noqa: A004
    from_regex,
    json_schema,
    pack_bits,
    stop_strings,
    unpack_bits,
    utf8,
)
from perstep.automata import classes as classes_module
from perstep.automata import walk as walk_module
from perstep.automata.rows import Row, RowStore
from perstep.automata.trie import merge_bytes
from perstep.errors import InputError

LETTERS = [b"a", b"b", b"c"]

patterns = st.recursive(
    st.sampled_from(["a", "b", "c", "[ab]", "(ab|ba)", "[abc]"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{1,4}"])).map(lambda two: f"({two[0]}){two[1]}"),
    ),
    max_leaves=7,
)
longer_tokens = st.lists(st.text("abc", min_size=1, max_size=5).map(str.encode), max_size=20)


def _vocabulary(longer: list[bytes], single: list[bytes] = LETTERS) -> Vocabulary:
    """The tokens, then one special id and two that end a text."""
    tokens = [*single, *longer]
    return Vocabulary(
        [*tokens, None, None, None], special_ids=[len(tokens)], eos_ids=[len(tokens) + 1, len(tokens) + 2]
    )


def _check_everything(table: TokenAutomaton, dfa: Dfa, vocabulary: Vocabulary) -> None:
    """Compare every state and token with walking the bytes."""
    for state in range(dfa.num_states + 1):
        accepting = bool(dfa.accepting[state])
        wanted = []
        for token, data in enumerate(vocabulary.tokens):
            target = dfa.run(data, state) if data and state else 0
            if token in vocabulary.eos_ids and accepting:
                target = table.ended
            assert table.next(state, token) == target, (state, token)
            if target:
                wanted.append(token)
        _check_row(table, state, wanted, vocabulary.size)
        assert table.is_accepting(state) == accepting
    _check_row(table, table.ended, list(vocabulary.eos_ids), vocabulary.size)
    assert table.is_accepting(table.ended)
    assert {table.next(table.ended, token) for token in vocabulary.eos_ids} <= {table.ended}


def _check_row(table: TokenAutomaton, state: int, wanted: list[int], size: int) -> None:
    assert table.allowed(state).tolist() == wanted
    assert table.allowed(state).dtype == np.int32
    assert table.row(state).count == len(wanted)
    assert np.flatnonzero(unpack_bits(table.bits(state), size)).tolist() == wanted
    assert np.flatnonzero(table.bias(state) == 0).tolist() == wanted
    assert np.isneginf(table.bias(state)).sum() == size - len(wanted)
    assert sorted([*wanted, *table.row(state).forbidden.tolist()]) == list(range(size))
    assert table.forced(state) == (wanted[0] if len(wanted) == 1 else None)


@given(patterns, longer_tokens)
@settings(max_examples=examples(150), deadline=None)
def test_a_table_is_the_walk_over_the_bytes(pattern: str, longer: list[bytes]) -> None:
    """Next states, allowed ids, bits, bias and acceptance equal brute force, eager and lazy."""
    dfa, vocabulary = from_regex(pattern), _vocabulary(longer)
    _check_everything(compile(dfa, vocabulary), dfa, vocabulary)
    lazy = compile(dfa, vocabulary, lazy=True)
    assert isinstance(lazy, LazyTable)
    _check_everything(lazy, dfa, vocabulary)
    assert lazy.whole().num_rows == compile(dfa, vocabulary).num_rows


@given(patterns, longer_tokens, st.sampled_from([0.0, 2.0]))
@settings(max_examples=100, deadline=None)
def test_dense_and_sparse_walks_agree(pattern: str, longer: list[bytes], threshold: float) -> None:
    """The way a state is walked is a matter of speed only; so is looking for copies."""
    dfa, vocabulary = from_regex(pattern), _vocabulary(longer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk_module, "DENSE_ABOVE", threshold)
        patch.setattr(walk_module, "DENSE_FROM", 0)
        patch.setattr(classes_module, "_STATES_AT_ONCE", 2)
        _check_everything(compile(dfa, vocabulary), dfa, vocabulary)


@given(st.text("abc", min_size=1, max_size=3), st.integers(3, 60), st.sampled_from(["", "a", "(b|cc)"]), longer_tokens)
@settings(max_examples=60, deadline=None)
def test_counted_repetitions_are_exact(body: str, count: int, tail: str, longer: list[bytes]) -> None:
    """States found to be copies of one another lead where brute force leads, ends of the count included."""
    dfa = from_regex(f"([{body}]|aab){{0,{count}}}{tail}")
    vocabulary = _vocabulary(longer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk_module, "DENSE_ABOVE", 0.0)
        patch.setattr(walk_module, "DENSE_FROM", 0)
        patch.setattr(classes_module, "_STATES_AT_ONCE", 1)
        _check_everything(compile(dfa, vocabulary), dfa, vocabulary)


def test_copies_are_found_in_a_counted_string(tekken_4096: Vocabulary) -> None:
    """In a string of 300 characters most walks are copies, and the table is the one without that shortcut."""
    dfa = json_schema({"type": "string", "maxLength": 300})
    trie = merge_bytes(tekken_4096.trie, dfa.byte_class)
    copies, walk, walked = walk_module.Copies(dfa.transitions), walk_module.DenseWalk(dfa.transitions, trie), 0
    dense = np.flatnonzero(walk_module.live_shares(dfa.transitions, trie) > walk_module.DENSE_ABOVE)
    for state in dense.tolist():
        if copies.find(state) is None:
            walk(state)
            copies.walked(state, walk.visited())
            walked += 1
    assert walked < len(dense) / 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk_module, "DENSE_FROM", 0)
        quick = classes_module.equivalence_classes(dfa.transitions, trie)
        patch.setattr(classes_module, "_STATES_AT_ONCE", 10_000)
        slow = classes_module.equivalence_classes(dfa.transitions, trie)
    assert np.array_equal(quick[1][:, quick[0]], slow[1][:, slow[0]])
    assert quick[1].shape == slow[1].shape


@given(patterns, patterns, longer_tokens)
@settings(max_examples=examples(120), deadline=None)
def test_and_allows_what_both_allow(left: str, right: str, longer: list[bytes]) -> None:
    """The product of two tables is the table of the product, and leads into no dead end."""
    one, other, vocabulary = from_regex(left), from_regex(right), _vocabulary(longer)
    product = one & other
    if product.is_empty:
        with pytest.raises(InputError, match="no text satisfies both"):
            _ = compile(one, vocabulary) & compile(other, vocabulary)
        return
    wanted = compile(product, vocabulary)
    for lazy_one, lazy_other in [(False, False), (True, True), (True, False)]:
        both = compile(one, vocabulary, lazy=lazy_one) & compile(other, vocabulary, lazy=lazy_other)
        _check_same(both, wanted)


def _check_same(found: TokenAutomaton, wanted: TokenAutomaton) -> None:
    """The same masks along every path, whatever the numbering."""
    pairs = {(found.start, wanted.start)}
    queue = list(pairs)
    for one, other in queue:
        assert found.allowed(one).tolist() == wanted.allowed(other).tolist()
        assert found.is_accepting(one) == wanted.is_accepting(other)
        for token in found.allowed(one).tolist():
            pair = found.next(one, token), wanted.next(other, token)
            if pair not in pairs:
                pairs.add(pair)
                queue.append(pair)


@given(
    patterns,
    st.lists(
        st.sampled_from(["a", "ab", "bc", "cab", "bb", "ca"]).map(str.encode), min_size=1, max_size=6, unique=True
    ),
)
@settings(max_examples=150, deadline=None)
def test_no_mask_leads_into_a_dead_end(pattern: str, tokens: list[bytes]) -> None:
    """Without a token for every byte, what can never be finished is not allowed; what can be is."""
    dfa, vocabulary = from_regex(pattern), _vocabulary(tokens, single=[])
    finishable = _finishable(dfa, tokens)
    if dfa.start not in finishable:
        with pytest.raises(InputError, match="cannot spell any text of the regex"):
            compile(dfa, vocabulary)
        return
    for lazy in (False, True):
        table = compile(dfa, vocabulary, lazy=lazy)
        for state in finishable:
            wanted = [i for i, token in enumerate(tokens) if dfa.run(token, state) in finishable]
            wanted += list(vocabulary.eos_ids) if dfa.accepting[state] else []
            assert table.allowed(state).tolist() == wanted


def _finishable(dfa: Dfa, tokens: list[bytes]) -> set[int]:
    found = set(np.flatnonzero(dfa.accepting).tolist())
    while True:
        more = {s for s in range(1, dfa.num_states + 1) if any(dfa.run(t, s) in found for t in tokens)} - found
        if not more:
            return found
        found |= more


def test_a_byte_that_no_token_spells_is_named() -> None:
    """The message says which byte is missing."""
    vocabulary = Vocabulary([b"a", b"b", None], eos_ids=[2])
    with pytest.raises(InputError, match=r"no token is the single byte 0x7B \('\{'\), 0x7D"):
        compile(json_schema({"const": {}}), vocabulary)


def test_an_empty_language_is_refused() -> None:
    """There is no mask for an automaton that accepts nothing."""
    with pytest.raises(InputError, match="accepts nothing"):
        compile(from_regex("a") & from_regex("b"), _vocabulary([]))


def test_tables_combine_over_one_vocabulary_only() -> None:
    """Combining tables over different tokens is refused; equal ones made twice are one."""
    table = compile(from_regex("a*"), _vocabulary([b"ab"]))
    assert (table & compile(from_regex("a+"), _vocabulary([b"ab"]))).num_states == 2
    with pytest.raises(InputError, match="over one vocabulary"):
        _ = table & compile(from_regex("a*"), _vocabulary([b"ba"]))


def test_tokens_and_states_that_do_not_exist_are_refused() -> None:
    """An id outside the vocabulary is a mistake, not a dead state."""
    for lazy in (False, True):
        table = compile(from_regex("a*"), _vocabulary([]), lazy=lazy)
        for token in (-1, table.vocabulary.size, 10**9):
            with pytest.raises(InputError, match="token"):
                table.next(table.start, token)


def test_running_and_accepting() -> None:
    """Whole texts of tokens, with and without their end."""
    table = compile(from_regex("(ab)*"), _vocabulary([b"ab"]))
    end = table.vocabulary.eos_ids[1]
    assert table.accepts([])
    assert table.accepts([3, 0, 1])
    assert table.accepts([3, end])
    assert not table.accepts([3, 0])
    assert table.run([3, end, 3]) == 0
    assert table.run([1], table.run([0])) == table.start


def test_without_an_end_of_sequence_a_finished_text_allows_nothing() -> None:
    """A vocabulary need not have an id that ends a text."""
    table = compile(from_regex("a"), Vocabulary([b"a"]))
    state = table.next(table.start, 0)
    assert table.is_accepting(state)
    assert table.allowed(state).tolist() == []


def test_the_conjugation_schema_has_the_known_size(tekken: Vocabulary, conjugation: dict[str, Any]) -> None:
    r"""527 states, 439 classes, 203 rows if every hexadecimal escape is allowed; ours leaves surrogates out."""
    dfa = from_regex(_with_every_escape(conjugation, "{0,30}"))
    table = compile(dfa, tekken)
    assert (dfa.num_byte_classes, table.num_states, table.num_classes, table.num_rows) == (45, 527, 439, 203)
    assert table.nbytes < 1_000_000
    unbounded = compile(from_regex(_with_every_escape(conjugation, "*")), tekken)
    assert (unbounded.num_states, unbounded.num_classes, unbounded.num_rows) == (149, 265, 113)
    ours = compile(json_schema(conjugation), tekken)
    assert (ours.num_states, ours.num_classes, ours.num_rows) == (557, 442, 204)


def _with_every_escape(schema: dict[str, Any], count: str) -> str:
    def one_of(name: str) -> str:
        return "|".join(schema["properties"][name]["enum"])

    char = r'([^"\\\x00-\x1F]|\\(["\\/bfnrt]|u[0-9a-fA-F]{4}))'
    return (
        rf'\{{"verb": "({one_of("verb")})", "tense": "({one_of("tense")})", "person": "({one_of("person")})"'
        rf'(, "spanish": "{char}{count}")?\}}'
    )


def test_utf8_over_a_real_vocabulary_has_the_known_size(tekken: Vocabulary) -> None:
    """8 states, 19 classes; 129,715 tokens at a boundary, 48 to 253 inside a character."""
    table = compile(utf8(), tekken)
    assert (table.num_states, table.num_classes) == (8, 19)
    counts = sorted(table.row(state).count - table.is_accepting(state) for state in range(1, 9))
    assert counts == [48, 69, 86, 105, 153, 155, 253, 129_715]


def test_stop_strings_over_tokens(tekken_4096: Vocabulary) -> None:
    """A stop string is seen wherever tokens cut it, and nothing is forbidden."""
    table = compile(stop_strings(["\n\n", "</tool_call>"]), tekken_4096)
    assert table.row(table.start).count == 4096 - len(tekken_4096.special_ids)
    single = {token[0]: number for number, token in enumerate(tekken_4096.tokens) if len(token) == 1}
    assert table.accepts([single[byte] for byte in b"so </tool_call> and on"])
    assert not table.accepts([single[byte] for byte in b"so </tool_cal> and on\n"])


def test_utf8_and_a_schema_together(tekken: Vocabulary, conjugation: dict[str, Any]) -> None:
    """A schema's texts are UTF-8 already: the product is the schema's own table."""
    table = compile(json_schema(conjugation), tekken)
    both = table & compile(utf8(), tekken)
    assert (both.num_states, both.num_rows, both.num_classes) == (table.num_states, table.num_rows, table.num_classes)
    assert isinstance(both, TokenTable)


def test_a_table_is_whole_in_four_arrays(byte_vocabulary: Vocabulary) -> None:
    """Transitions, classes, row numbers and bits by row are all that a device needs."""
    table = compile(json_schema({"enum": ["true", 12, None]}), byte_vocabulary)
    bits = table.bits_by_row()
    for state in range(table.ended + 1):
        assert np.array_equal(bits[table.row_of[state]], table.bits(state))
        for token in range(byte_vocabulary.size):
            assert table.transitions[state, table.class_of_token[token]] == table.next(state, token)


def test_expanded_rows_stay_within_their_budget(tekken_4096: Vocabulary, conjugation: dict[str, Any]) -> None:
    """What is expanded first is dropped first; what comes back is the same."""
    table = compile(json_schema(conjugation), tekken_4096, budget_bytes=200_000)
    first = table.bias(1).copy()
    for state in range(1, table.num_states + 1):
        table.bits(state), table.bias(state), table.allowed(state)
        assert table.rows_nbytes <= 200_000
    assert np.array_equal(table.bias(1), first)


def test_one_row_larger_than_the_budget_is_still_made() -> None:
    """A budget bounds what is kept, not what can be asked for."""
    store = RowStore(budget_bytes=10)
    row = Row(100, 1, lambda: np.arange(100) == 5, store)
    assert row.bias.nbytes == 400
    assert row.allowed.tolist() == [5]
    assert store.used_bytes == 4


def test_rows_are_shared_and_read_only(byte_vocabulary: Vocabulary) -> None:
    """A row handed out cannot be spoilt for the others."""
    table = compile(from_regex("[0-9]+"), byte_vocabulary)
    with pytest.raises(ValueError, match="read-only"):
        table.bits(table.start)[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        table.allowed(table.start)[0] = 0


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_bits_are_laid_out_as_peers_lay_them(mask: list[bool]) -> None:
    """Token t is bit t & 31 of word t >> 5; packing and unpacking are inverse."""
    bits = pack_bits(np.array(mask))
    assert bits.dtype == np.int32
    assert len(bits) == -(-len(mask) // 32)
    assert [bool(int(bits[t >> 5]) >> (t & 31) & 1) for t in range(len(mask))] == mask
    assert unpack_bits(bits, len(mask)).tolist() == mask


def test_a_lazy_table_forgets_moves_beyond_its_memory(byte_vocabulary: Vocabulary) -> None:
    """Forgotten moves are walked again."""
    from perstep.automata import lazy as lazy_module

    table = compile(from_regex("[a-z]*"), byte_vocabulary, lazy=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_module, "_REMEMBERED_MOVES", 3)
        for _ in range(3):
            assert [table.next(table.start, token) for token in range(97, 110)] == [table.start] * 13


def test_a_large_automaton_is_named_by_more_than_16_bits() -> None:
    """Beyond 65,535 states a table holds 32-bit numbers; the limit is the caller's to raise."""
    rng = random.Random(0)
    words = sorted({"".join(rng.choices("abcdefgh", k=14)) for _ in range(18_000)})
    schema = {"enum": words}
    with pytest.raises(InputError, match="raise state_limit"):
        json_schema(schema)
    dfa = json_schema(schema, state_limit=100_000)
    vocabulary = Vocabulary([bytes([byte]) for byte in b'"abcdefgh'] + [b"ab", None], eos_ids=[10])
    table = compile(dfa, vocabulary, lazy=True).whole()
    assert table.num_states > 65_535
    spelled = [0, *(1 + "abcdefgh".index(letter) for letter in words[77]), 0]
    assert table.is_accepting(table.run(spelled))
    assert not table.is_accepting(table.run([*spelled[:-2], spelled[-2] % 8 + 1, 0]))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "string"}},
        {
            "type": "object",
            "properties": {"a": {"type": "string", "minLength": 2}, "b": {"type": "string", "maxLength": 4}},
        },
        {"type": "object", "properties": {"a": {"type": "string", "minLength": 1, "maxLength": 3}}, "required": ["a"]},
        {
            "type": "object",
            "properties": {"a": {"pattern": "^[^/]*$"}, "b": {"type": "number"}, "c": {"type": "string"}},
        },
        {"type": "object", "additionalProperties": {"type": "string"}},
    ],
)
def test_lazy_rows_of_strings_are_those_of_the_table(schema: dict[str, Any], tekken_4096: Vocabulary) -> None:
    """In every state: inside strings of any length, at their ends, in keys and patterns."""
    dfa = json_schema(schema)
    lazy, whole = compile(dfa, tekken_4096, lazy=True), compile(dfa, tekken_4096)
    pairs, waiting, inside = {lazy.start: whole.start}, [lazy.start], 0
    rng = random.Random(0)
    while waiting:
        state = waiting.pop()
        allowed = whole.allowed(pairs[state])
        assert np.array_equal(lazy.allowed(state), allowed)
        assert lazy.row(state).count == len(allowed)
        inside += state != lazy.ended and lazy._bodies.bits(state) is not None
        for token in rng.sample(allowed.tolist(), min(len(allowed), 40)):
            target = lazy.next(state, token)
            if target not in pairs:
                pairs[target] = whole.next(pairs[state], token)
                waiting.append(target)
    assert inside


def test_a_string_that_may_end_a_text_lets_it_end(tekken_4096: Vocabulary) -> None:
    """Also where the whole language is the inside of a JSON string."""
    inside = from_regex(
        r'([^"\\\x00-\x1f]|\\(["\\/bfnrt]|u([0-9A-Ca-cE-Fe-f][0-9A-Fa-f]{3}|[dD][0-7][0-9A-Fa-f]{2})))*'
    )
    lazy, whole = compile(inside, tekken_4096, lazy=True), compile(inside, tekken_4096)
    assert lazy._bodies.bits(lazy.start) is not None
    assert np.array_equal(lazy.allowed(lazy.start), whole.allowed(whole.start))
    assert tekken_4096.eos_ids[0] in lazy.allowed(lazy.start)
