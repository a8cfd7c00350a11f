"""UTF-8 and stop strings as automata."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.drawn import examples

from perstep.automata import from_regex, stop_strings, utf8
from perstep.automata.utf8 import ignoring_invalid
from perstep.errors import InputError


def _is_prefix(data: bytes) -> bool:
    """Whether something completes it; the lowest or the highest continuation bytes do if any do.

    (An incremental decoder is no reference: Python's still waits after ED A0, which nothing completes.)
    """
    return any(_is_whole(data + fill * more) for fill in (b"\x80", b"\xbf") for more in range(4))


def _is_whole(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_from(beginnings: list[bytes]) -> list[bytes]:
    """Compare every continuation by one byte; give back those that are alive inside a character."""
    dfa, unfinished = utf8(), []
    for beginning in beginnings:
        for byte in range(256):
            data = beginning + bytes([byte])
            alive = dfa.run(data) != 0
            assert alive == _is_prefix(data), data
            assert dfa.accepts(data) == _is_whole(data), data
            if alive and dfa.accepts(data):
                assert dfa.run(data) == dfa.start  # so that what follows is what is checked from the start
            elif alive:
                unfinished.append(data)
    return unfinished


def test_utf8_is_exhaustively_that_of_the_decoder_up_to_three_bytes() -> None:
    """Alive exactly where something can still complete it, accepting exactly where it decodes; 8 states."""
    assert utf8().num_states == 8
    one = _check_from([b""])
    two = _check_from(one)
    _check_from(two)


@pytest.mark.nightly
def test_utf8_is_exhaustively_that_of_the_decoder_at_four_bytes() -> None:
    """The same for every four bytes: 4 million continuations."""
    assert not _check_from(_check_from(_check_from(_check_from([b""]))))


words = st.lists(st.binary(min_size=1, max_size=4).map(lambda b: bytes(97 + x % 3 for x in b)), min_size=1, max_size=4)
texts = st.binary(max_size=12).map(lambda b: bytes(97 + x % 3 for x in b))


@given(words, texts)
@settings(max_examples=examples(400), deadline=None)
def test_a_stop_string_has_occurred(strings: list[bytes], text: bytes) -> None:
    """Accepting exactly once one of the strings is in the text; the complement exactly before."""
    dfa = stop_strings(strings)
    found = any(string in text for string in strings)
    assert dfa.accepts(text) == found
    assert (~dfa).accepts(text) == (not found)


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=3), st.text(max_size=8))
@settings(deadline=None)
def test_stop_strings_are_texts_in_utf8(strings: list[str], text: str) -> None:
    """A text stands for its bytes, whatever its characters."""
    try:
        data = text.encode()
        encoded = [string.encode() for string in strings]
    except UnicodeEncodeError:
        return
    assert stop_strings(strings).accepts(data) == any(string in data for string in encoded)


@pytest.mark.parametrize("strings", [[], [""], ["a", ""], "abc", b"abc"])
def test_no_stop_string_is_refused(strings: object) -> None:
    """None at all, an empty one (which would stop everything) and a bare string are refused."""
    with pytest.raises(InputError, match="stop strings"):
        stop_strings(strings)  # type: ignore[arg-type]


def test_too_many_stop_strings_are_refused() -> None:
    """More bytes than states are refused by their number."""
    with pytest.raises(InputError, match="over the limit"):
        stop_strings(["x" * 200], state_limit=100)


PIECES = [b"n", b" ", "é".encode(), "\u3000".encode(), "😀".encode(), b"\xaf", b"\xc3", b"\xe3", b"\xe3\x80",
          b"\xf0\x9f\x98", b"\xed", b"\xa0\x80", b"\xc0", b"\xff", b"\xf4\x90", b"\x80"]  # fmt: skip


PATTERNS = (r"[^ \u3000]+[ \u3000]", r"né?", r"[^n]", r"", r"(é|😀)*", r"\u3000n")


@given(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join) | st.binary(max_size=8), st.sampled_from(PATTERNS))
@settings(max_examples=examples(500))
def test_invalid_bytes_are_passed_over_as_decoding_with_ignore_does(data: bytes, pattern: str) -> None:
    """Orphans, characters broken off by others and by the end, surrogates, overlong forms."""
    expected = re.fullmatch(pattern, data.decode(errors="ignore")) is not None
    assert ignoring_invalid(from_regex(pattern)).accepts(data) == expected
