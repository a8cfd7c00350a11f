"""`after(trigger, grammar)`: free until the trigger, then the grammar, also inside one token."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep import automata
from perstep.automata import Dfa, after, from_regex, json_schema, tagged
from perstep.errors import InputError


@given(st.text(alphabet="ab<1", max_size=12), st.sampled_from(["<", "<a", "ab", "aab", "<<"]))
def test_it_accepts_what_its_definition_says(text: str, trigger: str) -> None:
    """The first occurrence counts; whatever stands behind it must match; without one, anything may stand."""
    machine = automata.after(trigger, automata.from_regex("1(b|<)*"))
    at = text.find(trigger)
    expected = at < 0 or re.fullmatch("1(b|<)*", text[at + len(trigger) :]) is not None
    assert machine.accepts(text.encode()) == expected


def test_a_token_may_reach_over_the_end_of_the_trigger() -> None:
    """It is allowed if its rest begins a text of the grammar, and the end of the text is allowed before the trigger."""
    tokens = [bytes([byte]) for byte in range(256)] + [b"x<c", b"all>1", b"all>x", b">12", None]
    vocabulary = automata.Vocabulary(tokens, eos_ids=[260])
    table = automata.compile(automata.after("<call>", automata.from_regex("[0-9]{3}")), vocabulary)
    assert table.accepts([256, 257, ord("2"), ord("3"), 260])
    assert table.accepts([256, ord("a"), ord("l"), ord("l"), 259, ord("3"), 260])
    assert not table.accepts([256, 258])
    assert table.accepts([256, ord("a"), 260])
    assert table.allowed(table.run([256, 257])).tolist() == list(range(ord("0"), ord("9") + 1))


def test_bad_input_is_named() -> None:
    """No trigger, nothing behind it, too many states."""
    with pytest.raises(InputError, match="none of them empty"):
        automata.after("", automata.from_regex("a"))
    with pytest.raises(InputError, match="accepts nothing"):
        automata.after("x", automata.from_regex("a") - automata.from_regex("a"))
    with pytest.raises(InputError, match="over the limit of 20"):
        automata.after("xyz", automata.from_regex("[ab]{30}c"), state_limit=20)


def _calls() -> Dfa:
    add = json_schema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    say = json_schema({"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]})
    return tagged({"<add>": (add, "</add>"), "<say>": (say, "</say>")})


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("", True),
        ("only words, and < or <ad or </add>", True),
        ('so <add>{"n": 12}</add> is it', True),
        ('<add>{"n": 1}</add><say>{"text": "<add>"}</say>. <add>{"n": 2}</add>', True),
        ("é <<add>", False),
        ('<add>{"text": "a"}</add>', False),
        ('<add>{"n": 12}</say>', False),
        ('<add>{"n": 12}', False),
        ('<add>{"n": 12}</add> <say>no', False),
    ],
)
def test_tools_are_called_within_free_text(text: str, accepted: bool) -> None:
    """Each tool's arguments keep its schema, text before, between and behind is free."""
    assert _calls().accepts(text.encode()) is accepted


def test_a_tag_without_an_end_is_after_with_free_text_behind_it() -> None:
    """What `after` accepts is what a tag accepts that nothing follows."""
    grammar = from_regex("[a-c]{2}")
    one, other = after("go:", grammar), tagged({"go:": (grammar, "")})
    assert (one - other).is_empty
    assert (other - one).accepts(b"go:ab and go:bc")
    assert not other.accepts(b"go:ad")


def test_tags_that_cannot_be_are_refused() -> None:
    """No tag, an empty beginning, a grammar without texts."""
    grammar = from_regex("a")
    for tags in ({}, {"": (grammar, "")}):
        with pytest.raises(InputError, match="tags need a beginning each"):
            tagged(tags)
    with pytest.raises(InputError, match="the grammar of the tag 'x' accepts nothing"):
        tagged({"x": (grammar - grammar, "")})
