"""Utf8: the allowed sets are those of the definition, whatever came before and however the text is cut into tokens."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep import fast
from perstep.automata import Vocabulary
from perstep.errors import InputError

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

BYTES = Vocabulary([bytes([byte]) for byte in range(256)])
MIXED = [
    *(bytes([byte]) for byte in range(256)),
    "é".encode(),
    "né".encode(),
    b"\x82\xac",
    b"a\xe2",
    b"\xe2\x82",
    b"a\xff",
]
"""Bytes, and tokens that begin, end or lie inside a character; the last spells nothing valid."""


@cache
def characters() -> set[bytes]:
    """Every character there is."""
    return {chr(point).encode() for point in range(0x110000) if not 0xD800 <= point < 0xE000}


@cache
def beginnings() -> set[bytes]:
    """The definition: every proper beginning of a character, the empty one included."""
    return {character[:end] for character in characters() for end in range(len(character))}


def can_go_on(data: bytes) -> bool:
    """Whether some bytes after `data` make it text."""
    return any(data[at:] in beginnings() and is_text(data[:at]) for at in range(max(len(data) - 3, 0), len(data) + 1))


def is_text(data: bytes) -> bool:
    """Whether `data` decodes."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_every_beginning_of_a_character_allows_exactly_the_bytes_of_the_definition() -> None:
    """All byte strings of up to three bytes that can become text: all 18,000, each with all 256 bytes after it.

    What stands before the character makes no difference: nothing, a letter, or a character of two to four bytes.
    """
    mask = fast.Utf8(BYTES)
    single = [bytes([byte]) for byte in range(256)]
    for length in range(4):
        begun = sorted(one for one in beginnings() if len(one) == length)
        expected = torch.tensor([[b + x in beginnings() or b + x in characters() for x in single] for b in begun])
        for before in (b"", "😀".encode()) if length == 3 else (b"", b"a", "é".encode(), "€".encode()):
            ids = torch.tensor([list(before + one) for one in begun], dtype=torch.int64)
            ids = ids.reshape(len(begun), len(before) + length)
            scores = torch.zeros(len(ids), 256)
            assert torch.equal(mask(ids, scores) == 0, expected)
            assert torch.equal(mask.mask(scores, mask.state(ids)) == 0, expected)
            assert not scores.any()


def _unfinished(data: bytes) -> bytes:
    """The bytes of an unfinished character at the end of `data`, valid or not before it."""
    return next((data[-length:] for length in (3, 2, 1) if len(data) >= length and data[-length:] in beginnings()), b"")


@given(st.text(), st.integers(0, 3))
def test_whatever_is_generated_decodes(text: str, cut: int) -> None:
    """From any prompt, cut anywhere, the bytes of a text are allowed and no byte that spoils it is."""
    mask = fast.Utf8(BYTES)
    data = text.encode()
    prompt = data[: max(len(data) - cut, 0)]  # it may end inside a character
    ids = torch.tensor([list(prompt)], dtype=torch.int64).reshape(1, -1)
    for byte in data[len(prompt) :]:
        allowed = mask.allowed(ids)[0]
        assert byte in allowed
        assert all(can_go_on(_unfinished(bytes(ids[0].tolist())) + bytes([int(one)])) for one in allowed[::16])
        ids = torch.cat([ids, torch.tensor([[byte]])], dim=1)


@given(st.lists(st.integers(0, len(MIXED) - 1), max_size=12), st.randoms(use_true_random=False))
def test_tokens_of_several_bytes_are_read_as_their_bytes(tokens: list[int], random: Any) -> None:
    """However the text is cut, the state is that of its bytes; invalid ones are passed over as in `errors=replace`."""
    mask, plain = fast.Utf8(MIXED), fast.Utf8(BYTES)
    data = b"".join(MIXED[token] for token in tokens)
    ids = torch.tensor([tokens], dtype=torch.int64)
    spelled = torch.tensor([list(data)], dtype=torch.int64)
    assert mask.state(ids).tolist() == plain.state(spelled).tolist() == list(mask._reading.states_on_host(ids.numpy()))
    replaced = data.decode(errors="replace").encode()
    boundary = torch.tensor([list(replaced)], dtype=torch.int64)
    if not data or not _unfinished(data):
        assert plain.state(spelled).tolist() == plain.state(boundary).tolist() == [0]
    for token in random.sample(range(len(MIXED)), 20):
        expected = can_go_on(_unfinished(data) + MIXED[token])
        assert (token in mask.allowed(ids)[0]) == expected, (data, MIXED[token])


def test_a_token_that_can_never_be_finished_is_never_allowed() -> None:
    """Without a token for the byte that must follow, the lead byte is no choice."""
    vocab = [b"a", b"\xc3", b"\xe2\x82", b"\xac"]
    assert fast.Utf8(vocab).allowed(torch.tensor([[0]]))[0].tolist() == [0, 1, 2]  # \xac finishes both
    assert fast.Utf8(vocab[:3]).allowed(torch.tensor([[0]]))[0].tolist() == [0]


def test_text_ends_between_characters_only() -> None:
    """End of sequence and allowed special ids stand at character boundaries; other special ids nowhere."""
    vocab = Vocabulary([*BYTES.tokens, None, None, None], special_ids=[257, 258], eos_ids=[256])
    mask = fast.Utf8(vocab, special_ids=[257])
    inside, between = mask.allowed(torch.tensor([[0x61, 0xC3], [0xC3, 0xA9]]))
    assert {256, 257, 258}.isdisjoint(inside)
    assert {256, 257} <= set(between)
    assert 258 not in between
    after_end = mask.allowed(torch.tensor([[0xC3, 256]]))[0]
    assert set(after_end) == set(between)


def test_near_the_limit_no_character_is_begun_that_cannot_be_finished() -> None:
    """With room for n more bytes only characters of n bytes may begin, and a text of the limit always decodes."""
    for left, lead in ((1, 0x7F), (2, 0xDF), (3, 0xEF), (4, 0xF4)):
        mask = fast.Utf8(BYTES, max_length=1 + left)
        allowed = mask.allowed(torch.tensor([[0x61]]))[0]
        assert allowed.max() == lead
    generator = torch.Generator().manual_seed(0)
    mask = fast.Utf8(BYTES, max_length=9)
    ids = torch.zeros(64, 0, dtype=torch.int64)
    while ids.shape[1] < 9:
        scores = mask(ids, 8 * torch.rand(64, 256, generator=generator))
        ids = torch.cat([ids, torch.multinomial(scores.softmax(-1), 1, generator=generator)], dim=1)
    assert all(is_text(bytes(row)) for row in ids.tolist())


def test_a_limit_too_near_for_the_prompts_own_character_leaves_tokens_to_choose() -> None:
    """Never a row without an allowed token: it goes on with the character although it will be cut."""
    mask = fast.Utf8(BYTES, max_length=2)
    assert mask.allowed(torch.tensor([[0xF0]]))[0].tolist() == list(range(0x90, 0xC0))
    stuck = fast.Utf8([b"a", b"\xc3"])
    assert stuck.allowed(torch.tensor([[1]]))[0].tolist() == [0]


def test_columns_beyond_the_vocabulary_are_masked_and_ids_beyond_it_end_a_character() -> None:
    """Padding rows of the head are common; fewer columns than tokens are another model's."""
    mask = fast.Utf8(BYTES)
    scores = torch.randn(2, 320)
    masked = mask(torch.tensor([[300], [0x41]]), scores)
    assert torch.isneginf(masked[:, 256:]).all()
    assert torch.equal(masked[:, :128], scores[:, :128])
    with pytest.raises(InputError, match="256 tokens, the logits 200 columns"):
        mask(torch.tensor([[1]]), torch.zeros(1, 200))


def test_half_precision_infinite_and_equal_logits_keep_their_value() -> None:
    """Only what is not allowed changes, and it becomes -inf, even +inf."""
    mask = fast.Utf8(BYTES)
    scores = torch.full((1, 256), torch.inf, dtype=torch.bfloat16)
    masked = mask(torch.tensor([[0xC3]]), scores)
    assert masked.dtype == torch.bfloat16
    assert torch.isposinf(masked[0, 0x80:0xC0]).all()
    assert torch.isneginf(masked[0, :0x80]).all()


def test_wide_logits_with_rows_in_different_states_are_masked_row_by_row() -> None:
    """The way taken above 4,096 columns gives what the tensors give."""
    mask = fast.Utf8(BYTES)
    ids = torch.tensor([[0x61, 0x62], [0xE2, 0x82], [0x61, 0xF0]])
    scores = torch.randn(3, 5000)
    assert torch.equal(mask(ids, scores), mask.mask(scores, mask.state(ids)))


def test_a_loop_of_its_own_advances_states_as_the_text_grows() -> None:
    """`advance` after every token gives the state of the whole text."""
    mask = fast.Utf8(MIXED)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, len(MIXED), (16, 30), generator=generator)
    state = mask.state(ids[:, :0])
    for at in range(30):
        state = mask.advance(state, ids[:, at])
        assert torch.equal(state, mask.state(ids[:, : at + 1]))


def test_bad_input_is_refused_in_one_sentence() -> None:
    """What is no vocabulary, no length, no special id."""
    with pytest.raises(InputError, match="is no vocabulary"):
        fast.Utf8(256)
    with pytest.raises(InputError, match="max_length 0"):
        fast.Utf8(BYTES, max_length=0)
    with pytest.raises(InputError, match="special_ids names 3"):
        fast.Utf8(BYTES, special_ids=[3])
    with pytest.raises(InputError, match="no token of this vocabulary can begin"):
        fast.Utf8([b"\x80"])
