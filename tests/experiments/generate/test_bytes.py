"""The byte model's slow pair: what it allows and where it stops, against independent definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.automata import Vocabulary, utf8
from perstep.automata import compile as compile_automaton
from perstep.errors import InputError
from perstep.experiments.generate.bytes import (
    CONFIG,
    PAD,
    TEXT,
    Utf8InPython,
    WordInPython,
    allowed_bytes,
    byte_rows,
    decode_rows,
    ends_word,
    word_traces,
)

TABLE = compile_automaton(utf8(), Vocabulary([bytes([byte]) for byte in range(256)]))


@given(st.text(max_size=12), st.integers(0, 3))
def test_allowed_bytes_are_those_of_the_automaton(text, cut):
    """After every beginning of every text, also inside a character."""
    ids = list(text.encode())
    ids = ids[: len(ids) - cut] if cut else ids
    state = TABLE.start
    for byte in ids:
        state = TABLE.next(state, byte)
    assert allowed_bytes(ids) == TABLE.allowed(state).tolist()


def test_a_character_of_four_bytes():
    """Byte by byte, with the second byte's narrower ranges."""
    assert allowed_bytes([0xF0]) == list(range(0x90, 0xC0))
    assert allowed_bytes([0xF0, 0x9F]) == allowed_bytes([0xF0, 0x9F, 0x98]) == list(range(0x80, 0xC0))
    start = [*range(0x80), *range(0xC2, 0xF5)]
    assert allowed_bytes([0xF0, 0x9F, 0x98, 0x80]) == allowed_bytes([]) == allowed_bytes([PAD]) == start
    assert allowed_bytes([0xC3, PAD]) == start


@given(st.text(max_size=12))
def test_a_word_has_ended_at_a_space_behind_it(text):
    """The text so far ends with a space and is more than spaces."""
    expected = bool(text) and text[-1].isspace() and not text.isspace()
    assert ends_word(text) == expected


@pytest.mark.hf
def test_rows_are_decoded_as_text():
    """Spaces stay, special tokens and the beginning of a character have no text."""
    pytest.importorskip("transformers")
    rows = [list("naïve é ".encode()), [*b"word ", PAD, PAD], list("é".encode())[:1], []]
    assert decode_rows(rows) == ["naïve é ", "word ", "", ""]


def test_word_traces_are_the_text():
    """Each row reads the text from another word on; the longest word of a call decides its length."""
    traces = word_traces(TEXT, 3, 32)
    assert len(traces) == 32
    words = TEXT.split()
    for row in range(3):
        start = row * len(words) // 3
        read = b"".join(bytes(t for t in trace[row] if t != PAD) for trace in traces)
        expected = "".join(f"{words[(start + i) % len(words)]} " for i in range(32))
        assert read == expected.encode()
    for trace in traces:
        assert (trace[:, -1] != PAD).any()
        assert all(ends_word(bytes(t for t in row if t != PAD).decode()) for row in trace)
    lengths = [trace.shape[1] for trace in traces]
    assert max(lengths) >= 14  # so that a fit against the context has points beyond those it saw


def test_prompts_go_round():
    """A text shorter than the prompt is read again."""
    rows = byte_rows("ab cd", 2, 9)
    assert [bytes(row).decode() for row in rows.astype(np.uint8)] == ["ab cd ab ", "cd ab cd "]
    with pytest.raises(InputError, match="has no word"):
        byte_rows("  ", 1, 3)


@pytest.mark.hf
def test_the_pair_works_on_tensors():
    """Rows do not mix, special tokens are forbidden, scores that are allowed stay as they are."""
    torch = pytest.importorskip("torch")
    ids = torch.tensor([[97, 0xC3], [97, 98], [32, PAD]])
    scores = torch.randn(3, 260)
    processed = Utf8InPython()(ids, scores)
    for row, given_ids in enumerate(ids.tolist()):
        allowed = allowed_bytes(given_ids)
        assert torch.isfinite(processed[row]).nonzero().flatten().tolist() == allowed
        assert torch.equal(processed[row, allowed], scores[row, allowed])
    assert WordInPython()(ids, scores).tolist() == [False, False, True]
    empty = torch.zeros(2, 0, dtype=torch.long)
    assert WordInPython()(empty, scores).tolist() == [False, False]
    assert torch.isfinite(Utf8InPython()(empty, scores[:2])).sum(1).tolist() == [len(allowed_bytes([]))] * 2


def test_the_configuration_is_there():
    """It is installed with the package."""
    assert (CONFIG / "config.json").is_file()
