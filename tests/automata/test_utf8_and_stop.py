"""UTF-8 and stop strings as automata."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstep.automata import stop_strings, utf8
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
@settings(max_examples=400, deadline=None)
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
