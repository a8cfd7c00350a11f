"""StopStrings and WordStop: the verdicts are those of decoding everything, and of transformers where it is right."""

import copy
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models import tokenizer_of

from perstep import fast
from perstep.automata import Vocabulary
from perstep.errors import InputError
from perstep.fast.stop import WORD

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PIECES = [b"a", b"b", b"\n", b" ", b"ab", b"ba", b"aab", b"\n\n", b"b a", b"aba\nab", "é".encode(), b"\xc3", b"\xa9"]
SMALL = Vocabulary([*PIECES, None], eos_ids=[len(PIECES)])
texts = st.lists(st.integers(0, SMALL.size - 1), min_size=1, max_size=14)
stops = st.lists(
    st.lists(st.sampled_from([b"a", b"b", b"\n", b" ", b"\xc3\xa9"]), min_size=1, max_size=5).map(b"".join),
    min_size=1,
    max_size=3,
)


def ends_in_last_token(strings: list[bytes], tokens: list[int], vocabulary: Vocabulary = SMALL) -> bool:
    """The definition: decode everything behind the last id without text; does one end in the last token?"""
    if tokens[-1] in vocabulary.special_ids:
        return False
    from_here = max((at + 1 for at, token in enumerate(tokens) if token in vocabulary.special_ids), default=0)
    text, last = vocabulary.spell(tokens[from_here:]), len(vocabulary.tokens[tokens[-1]])
    return any(text.endswith(one, 0, len(text) - cut) for one in strings for cut in range(last))


def by_tensors(stop: Any, ids: Any) -> list[bool]:
    """The verdicts by the tensors alone, as on a device."""
    found: list[bool] = stop.completes(stop.state(ids[:, :-1]), ids[:, -1]).tolist()
    return found


@given(stops, st.lists(texts, min_size=1, max_size=3))
@settings(max_examples=300)
def test_stop_strings_are_found_where_decoding_everything_finds_them(strings: Any, rows: list[list[int]]) -> None:
    """Inside a token, across tokens, begun in the prompt, overlapping, behind special ids; on the host, by tensors."""
    stop = fast.StopStrings(strings, SMALL)
    width = min(map(len, rows))
    rows = [row[:width] for row in rows]
    expected = [ends_in_last_token(strings, row) for row in rows]
    ids = torch.tensor(rows)
    assert stop(ids).tolist() == expected
    assert by_tensors(stop, ids) == expected


@given(stops, st.lists(texts, min_size=1, max_size=3))
@settings(max_examples=300)
def test_stop_strings_anywhere_are_those_of_the_whole_text(strings: Any, rows: list[list[int]]) -> None:
    """In the prompt, long before the last token; token by token, all at once, rows exchanged, and by tensors."""
    stop = fast.StopStrings(strings, SMALL, anywhere=True)
    width = min(map(len, rows))
    rows = [row[:width] for row in rows]
    for end in range(1, width + 1):
        ids = torch.tensor([row[:end] for row in rows])
        expected = [any(ends_in_last_token(strings, row[:at]) for at in range(1, end + 1)) for row in rows]
        assert stop(ids).tolist() == expected
        assert stop(ids.flip(0)).tolist() == expected[::-1]
        assert stop._hold_one(ids).tolist() == expected
    stop = fast.StopStrings(strings, SMALL, anywhere=True)
    for end in range(1, width + 1):
        found = stop(ids[:, :end])
    assert found.tolist() == expected
    assert stop(ids[:, :0]).tolist() == [False] * len(rows)


@given(stops, texts)
def test_a_state_of_your_own_gives_the_same_verdicts(strings: Any, tokens: list[int]) -> None:
    """`advance` and `completes`, a token at a time."""
    stop = fast.StopStrings(strings, SMALL)
    ids = torch.tensor([tokens])
    state = stop.state(ids[:, :0])
    for at, token in enumerate(ids.T):
        assert stop.completes(state, token).tolist() == stop(ids[:, : at + 1]).tolist()
        state = stop.advance(state, token)


def test_verdicts_are_those_of_transformers() -> None:
    """Three hundred random texts in seven sets of stop strings, over a tokenizer of bytes and longer tokens."""
    pieces = [*(bytes([b]) for b in range(256)), b"ab", b"ba", b"aab", b"\n\n", b"b a", b"aba\nab", "é".encode()]
    tokenizer, vocabulary = tokenizer_of(pieces), Vocabulary(pieces)
    generator = torch.Generator().manual_seed(0)
    likely = torch.tensor([97, 98, 10, 32, 0xC3, 0xA9, *range(256, len(pieces))])
    ids = likely[torch.randint(0, len(likely), (300, 12), generator=generator)]
    seen = 0
    for strings in (["ab"], ["\n\n"], ["é"], ["aab"], ["ba", "b a"], ["abaab", "a\n", "é\n"], ["b"]):
        theirs = transformers.StopStringCriteria(tokenizer, strings)(ids, None)
        ours = fast.StopStrings(strings, vocabulary)(ids, None)
        assert torch.equal(ours, theirs), strings
        assert by_tensors(fast.StopStrings(strings, tokenizer), ids) == theirs.tolist()
        seen += int(theirs.sum())
    assert seen > 200


def test_ids_beyond_the_vocabulary_and_no_tokens_at_all_stop_nothing() -> None:
    """Padding ids of a wider embedding, and `inputs_embeds`, whose first ids are none."""
    stop = fast.StopStrings("ab", SMALL)
    assert stop(torch.tensor([[0, 999], [0, 4]])).tolist() == [False, True]
    assert stop(torch.tensor([[0, 999, 1]])).tolist() == [False]
    assert stop(torch.zeros(2, 0, dtype=torch.int64)).tolist() == [False, False]
    assert fast.WordStop(SMALL)(torch.zeros(2, 0, dtype=torch.int64)).tolist() == [False, False]


def test_bad_stop_strings_are_refused_by_name() -> None:
    """None, empty ones, ones that the vocabulary cannot spell though it spells others."""
    for strings in ([], [""], ["a", ""]):
        with pytest.raises(InputError, match="at least one string, none of them empty"):
            fast.StopStrings(strings, SMALL)
    with pytest.raises(InputError, match=r"cannot spell the stop string b'abc'"):
        fast.StopStrings(["ab", "abc"], SMALL)
    with pytest.raises(InputError, match=r"cannot spell the stop string b'q'"):
        fast.StopStrings(["q"], [b"a", b"ab"])
    assert fast.StopStrings(["xy"], [b"xyz", b"_"])(torch.tensor([[0]])).tolist() == [True]  # held by a longer token
    assert fast.StopStrings(["xy"], [b"ax", b"yb"])(torch.tensor([[0, 1]])).tolist() == [True]
    with pytest.raises(InputError, match=r"cannot spell the stop string b'xy'"):
        fast.StopStrings(["xy"], [b"xa", b"yb"])


# Words

READABLE = Vocabulary([b"a", b"bc", b" ", b"d ", b"e f", b"\x01", b"\n", "é ".encode(), b"\x00", b"g h i", None], [10])


def word_ends(tokens: list[int], pattern: str = WORD) -> list[bool]:
    """The definition, token by token: each beginning of the text since the last complete word against the pattern."""
    verdicts, since = [], ""
    for token in tokens:
        complete = False
        before, since = len(since), since + READABLE.tokens[token].decode()
        complete = any(re.fullmatch(pattern, since[:end]) for end in range(before + 1, len(since) + 1))
        verdicts.append(complete)
        since = "" if complete else since
    return verdicts


@given(st.integers(1, 3), st.lists(st.integers(0, 10), min_size=1, max_size=12), st.sampled_from([WORD, r"\s*\S+\s"]))
def test_words_end_where_decoding_everything_says(prompt: int, tokens: list[int], pattern: str) -> None:
    """The prompt is no part of the word; a word may end inside a token."""
    stop = fast.WordStop(READABLE, pattern)
    ids = torch.tensor([[0] * prompt + tokens])
    found = [stop(ids[:, : prompt + end]).item() for end in range(1, len(tokens) + 1)]
    first = found.index(True) + 1 if True in found else len(found)
    assert found == word_ends(tokens, pattern)
    assert any(found[:first]) == any(word_ends(tokens[:first], pattern))


def test_the_word_of_the_default_pattern() -> None:
    """One control character, or letters and then white space of any kind; white space alone is no word."""
    stop = fast.WordStop(EVERY_BYTE)

    def complete_after(text: str) -> int | None:
        ids = torch.tensor([list(b"?" + text.encode())])
        found = [stop(ids[:, : end + 2]).item() for end in range(ids.shape[1] - 1)]
        return found.index(True) + 1 if True in found else None

    assert complete_after("\x01rest") == complete_after("\x7f") == 1
    assert complete_after("hello world") == 6
    assert complete_after("né\u3000") == 6
    assert complete_after("\x00x ") == 3  # U+0000 is none of the control characters
    assert complete_after(" x y") is None
    assert complete_after("a\x01b ") is None


EVERY_BYTE = [bytes([byte]) for byte in range(256)]
WORD_OF_BYTES = fast.WordStop(EVERY_BYTE)


def is_complete(text: str) -> bool:
    """The criterion that the drop-in was made for: the whole text is one control character, or a word and a blank."""
    control = "\x01-\x08\x0e-\x1f\x7f"
    return any(re.fullmatch(one, text) for one in (rf"[{control}]", rf"[^\s{control}]+\s"))


@given(st.lists(st.sampled_from([*b"ab \n\x01\x7f", 0xC3, 0xA9, 0xAF, 0xE3, 0x80, 0xF0, 0xFF, 0xED]), max_size=9))
@settings(max_examples=500)
def test_a_word_of_bytes_ends_where_decoding_with_ignore_says(data: list[int]) -> None:
    """Invalid bytes are in no word and break none; up to where the row ends, from an empty prompt as from another."""
    for prompt in ([], [65, 32]):
        stop = copy.copy(WORD_OF_BYTES)
        for end in range(1, len(data) + 1):
            expected = is_complete(bytes(data[:end]).decode(errors="ignore"))
            assert stop(torch.tensor([prompt + data[:end]])).item() == expected
            if expected:
                break


@pytest.mark.parametrize("text", [b"ab ", b"a\xafb ", b"\xc7\x83}\xdc\xb9\xaf ", b"a\xe3 ", b"\xaf\x01"])
def test_words_with_invalid_bytes_end_as_without_them(text: bytes) -> None:
    """An orphan inside a word and behind one, a character that is broken off, one before a control character."""
    stop = fast.WordStop(EVERY_BYTE)
    found = [stop(torch.tensor([list(text[:end])])).item() for end in range(1, len(text) + 1)]
    assert found == [False] * (len(text) - 1) + [True]


def test_words_follow_their_text_when_rows_change_places() -> None:
    """As beams do: rows are reordered, repeated and dropped between steps."""
    stop = fast.WordStop(READABLE)
    stop(torch.tensor([[5, 0], [5, 2], [5, 1]]))
    stop(torch.tensor([[5, 1, 0], [5, 0, 1]]))
    verdicts = stop(torch.tensor([[5, 0, 1, 2], [5, 1, 0, 2], [5, 0, 1, 0], [5, 1, 0, 3]]))
    assert verdicts.tolist() == [True, True, False, True]


def test_an_object_serves_one_call_after_the_other() -> None:
    """A new call is told from the old one by its text, even where its length is the next one."""
    stop = fast.WordStop(READABLE)
    assert [stop(torch.tensor([row])).item() for row in ([0, 0], [0, 0, 1])] == [False, False]
    assert stop(torch.tensor([[1, 1, 1, 2]])).item() is False  # a new prompt of three tokens: a space alone is no word
    assert stop(torch.tensor([[1, 1, 1, 2, 0]])).item() is False
    assert stop(torch.tensor([[5, 0]])).item() is False  # shorter: a new call
    assert stop(torch.tensor([[5, 0, 2]])).item() is True
    assert stop(torch.tensor([[5, 0, 2, 3]])).item() is True  # the call that goes on: the next word begins
    stop = fast.WordStop(READABLE)
    stop(torch.tensor([[0, 0]]))
    assert stop(torch.tensor([[0, 0, 1, 2]])).item() is True  # several tokens at once
    assert stop(torch.tensor([[9, 9, 9, 9, 9, 9, 0]])).item() is False
    assert stop(torch.tensor([[9, 9, 9, 9, 9, 9, 0, 2]])).item() is True


def test_bad_patterns_are_refused() -> None:
    """One that matches nothing at all is no end of a word."""
    with pytest.raises(InputError, match="matches the empty text"):
        fast.WordStop(READABLE, r"\s*")
    with pytest.raises(InputError):
        fast.WordStop(READABLE, r"(")
    with pytest.raises(InputError, match="cannot spell"):
        fast.WordStop(READABLE, r"zz")
