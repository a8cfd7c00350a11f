"""Vocabularies: the bytes of every token, whatever the tokenizer calls them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from perstep.automata import Vocabulary, compile, from_regex, json_schema  # noqa: A004
from perstep.automata.trie import build_trie, merge_bytes
from perstep.errors import InputError

CORPUS = ['{"verb": "walk", "tense": "past"}', "naïve café 😀 words and words", "the end"] * 3
TEXT = 'naïve {"verb": 1} 😀\n'


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        show_progress=False,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    return tokenizer


def _sentencepiece() -> Tokenizer:
    """A BPE with byte fallback in the manner of Llama 2."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in ["▁", *sorted({c for line in CORPUS for c in line if c.isascii() and c != " "}), "wa", "▁wa", "ïve"]:
        vocab.setdefault(piece, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab, [("w", "a"), ("▁", "wa")], unk_token="<unk>", byte_fallback=True))  # noqa: S106
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def test_byte_level_tokens_are_bytes() -> None:
    """Spelling an encoding gives the text's bytes; special ids and the end of sequence are known apart."""
    tokenizer = _byte_level()
    vocabulary = Vocabulary.from_tokenizer(tokenizer, eos_ids=[1])
    assert vocabulary.spell(tokenizer.encode(TEXT).ids) == TEXT.encode()
    assert vocabulary.special_ids == {0, 1}
    assert vocabulary.eos_ids == (1,)
    assert vocabulary.tokens[-1] == b"<tool>"  # added, but text
    assert len(vocabulary.single_bytes) == 256


def test_sentencepiece_tokens_are_bytes() -> None:
    """U+2581 is a space and `<0x0A>` a byte; the unknown token is special."""
    tokenizer = _sentencepiece()
    vocabulary = Vocabulary.from_tokenizer(tokenizer, eos_ids=[2])
    assert vocabulary.tokens[3 + 10] == b"\n"
    assert vocabulary.tokens[tokenizer.token_to_id("▁wa")] == b" wa"
    assert vocabulary.tokens[tokenizer.token_to_id("ïve")] == "ïve".encode()
    assert vocabulary.special_ids == {0, 1, 2}
    assert vocabulary.spell(tokenizer.encode("▁wa▁wé").ids) == " wa wé".encode()


def test_wordpiece_tokens_are_bytes() -> None:
    """A word begins with a space, `##` continues it."""
    vocab = {"[UNK]": 0, "[SEP]": 1, "play": 2, "##ing": 3, "##": 4, "a": 5}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))  # noqa: S106
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(["[SEP]"])
    vocabulary = Vocabulary.from_tokenizer(
        Tokenizer.from_str(tokenizer.to_str().replace('"##":4,', "")), size=8, eos_ids=[1]
    )
    assert vocabulary.tokens[2:4] == (b" play", b"ing")
    assert vocabulary.special_ids == {0, 1, 4, 6, 7}  # unknown, separator, a hole, and ids of a wider head


def test_added_tokens_are_what_the_tokenizer_decodes() -> None:
    """U+2581 in an added token is a space; a character that encodes no byte leaves its token as it is."""
    tokenizer = _sentencepiece()
    tokenizer.add_tokens([AddedToken("▁<tool>", special=False)])
    vocabulary = Vocabulary.from_tokenizer(tokenizer, eos_ids=[2])
    tool = tokenizer.token_to_id("▁<tool>")
    assert vocabulary.tokens[tool] == b" <tool>"
    assert vocabulary.spell([3 + ord("a"), tool]).decode() == tokenizer.decode([3 + ord("a"), tool])
    tokenizer = _byte_level()
    tokenizer.add_tokens([AddedToken("a tool ", special=False)])
    vocabulary = Vocabulary.from_tokenizer(tokenizer, eos_ids=[1])
    assert vocabulary.tokens[-1].decode() == tokenizer.decode([len(vocabulary.tokens) - 1]) == "a tool "


def test_an_empty_token_is_special_and_refuses_no_tokenizer() -> None:
    """It adds nothing to a text, so no mask allows it."""
    spec = _byte_level().to_str().replace('"!":', '"":', 1)
    vocabulary = Vocabulary.from_tokenizer(Tokenizer.from_str(spec), eos_ids=[1])
    empty = vocabulary.tokens.index(b"", 2)
    assert empty in vocabulary.special_ids
    assert ord("!") not in vocabulary.single_bytes


class _Pieces:
    """What mistral_common's SentencePieceTokenizer tells of its model; in a few pieces."""

    n_words, num_special_tokens, eos_id, unk_id = 262, 2, 2, 0
    special_ids = frozenset({1, 2})

    def id_to_piece(self, number: int) -> str:
        """The piece of an id, as sentencepiece has it."""
        if number < 3:
            return ("<unk>", "<s>", "</s>")[number]
        return f"<0x{number - 3:02X}>" if number < 259 else ("▁", "▁{", "é")[number - 259]


def test_mistral_tokenizers_are_read() -> None:
    """Tekken by its bytes, through the tokenizer that holds it; sentencepiece by its pieces."""
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    tokenizer = MistralTokenizer.v3(is_tekken=True)
    vocabulary = Vocabulary.from_tokenizer(tokenizer, size=131_080)
    inner = tokenizer.instruct_tokenizer.tokenizer
    assert vocabulary.spell(inner.encode(TEXT, bos=False, eos=False)) == TEXT.encode()
    assert (vocabulary.size, len(vocabulary.special_ids), vocabulary.eos_ids) == (131_080, 1_008, (inner.eos_id,))
    pieces = Vocabulary.from_tokenizer(_Pieces())
    assert pieces.tokens[3 + 0x0A : 3 + 0x0B] == (b"\n",)
    assert pieces.tokens[259:] == (b" ", b" {", "é".encode())
    assert (pieces.special_ids, pieces.eos_ids) == ({0, 1, 2}, (2,))
    with pytest.raises(InputError, match="was said to have 10 ids"):
        Vocabulary.from_tokenizer(_Pieces(), size=10)


def test_a_sentencepiece_model_is_read(tmp_path: Path) -> None:
    """A model that sentencepiece itself trained, through mistral_common: pieces spell the text, rare bytes too."""
    sentencepiece = pytest.importorskip("sentencepiece")  # of the dev extra
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a small model of a few words", "words of a model"] * 5),
        model_prefix=str(tmp_path / "small"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = SentencePieceTokenizer(str(tmp_path / "small.model"))
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    assert vocabulary.eos_ids == (tokenizer.eos_id,)
    text = "words of a model é€"
    # sentencepiece puts a space before a text, which is no part of it
    assert vocabulary.spell(tokenizer.encode(text, bos=False, eos=False)) == f" {text}".encode()
    assert set(vocabulary.single_bytes) == set(range(256))


@pytest.mark.hf
def test_byt5_is_bytes_behind_three_special_ids() -> None:
    """Byte b is the id b + 3; what follows the bytes, and the first three, are special."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    assert vocabulary.tokens[3:259] == tuple(bytes([byte]) for byte in range(256))
    assert (vocabulary.size, vocabulary.eos_ids) == (384, (1,))
    assert vocabulary.special_ids == {0, 1, 2, *range(259, 384)}
    assert vocabulary.spell(tokenizer.encode(TEXT)) == TEXT.encode()


def _bytes_as_ids(encoding: str) -> Any:
    """A tokenizer that gives bytes as ids, of which three are special, in an encoding."""
    from transformers import PreTrainedTokenizer

    class Bytes(PreTrainedTokenizer):  # type: ignore[misc]
        """Has no vocabulary but the 256 bytes."""

        vocab_size = 256

        def get_vocab(self) -> dict[str, int]:
            return {chr(byte): byte for byte in range(256)}

        def _tokenize(self, text: str, **_options: Any) -> list[str]:
            return [chr(byte) for byte in text.encode(encoding, errors="replace")]

        def _convert_token_to_id(self, token: str) -> int:
            return ord(token)

        def _convert_id_to_token(self, index: int) -> str:
            return chr(index)

    return Bytes(pad_token="\x00", bos_token="\x02", eos_token="\x03")  # noqa: S106


@pytest.mark.hf
def test_a_tokenizer_whose_ids_are_bytes_is_known_by_what_it_makes_of_a_text() -> None:
    """One that writes UTF-8 is taken, its control characters being special; one that writes Latin-1 is refused."""
    vocabulary = Vocabulary.from_tokenizer(_bytes_as_ids("utf-8"))
    assert (vocabulary.size, vocabulary.eos_ids, vocabulary.special_ids) == (256, (3,), {0, 2, 3})
    assert all(vocabulary.tokens[byte] == bytes([byte]) for byte in range(4, 256))
    with pytest.raises(InputError, match="its tokens are not bytes"):
        Vocabulary.from_tokenizer(_bytes_as_ids("latin-1"))


@pytest.mark.hf
def test_a_transformers_tokenizer_brings_its_own_ids() -> None:
    """A transformers tokenizer says itself which id ends a text."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_byte_level(), eos_token="<eos>", pad_token="<pad>")  # noqa: S106
    vocabulary = Vocabulary.from_tokenizer(tokenizer, size=400)
    assert vocabulary.size == 400
    assert vocabulary.eos_ids == (1,)
    assert vocabulary.spell(tokenizer.encode(TEXT)) == TEXT.encode()
    assert set(range(len(tokenizer), 400)) <= vocabulary.special_ids


@pytest.mark.hf
def test_the_built_in_model_has_a_vocabulary() -> None:
    """The shipped tokenizer is byte-level and can spell the whole schema language."""
    from importlib.resources import files

    from transformers import AutoTokenizer

    folder = files("perstep") / "data" / "mini"
    vocabulary = Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(str(folder)))
    assert len(vocabulary.eos_ids) == 1
    assert (
        compile(json_schema({"type": "integer"}), vocabulary).num_states == json_schema({"type": "integer"}).num_states
    )


def test_tekken_is_read_whole(tekken: Vocabulary) -> None:
    """131,072 ids, of which 1,000 are special; every byte is a token; the bytes number 878,258."""
    assert tekken.size == 131_072
    assert len(tekken.special_ids) == 1_000
    assert len(tekken.single_bytes) == 256
    assert sum(map(len, tekken.tokens)) == 878_258
    assert tekken.duplicates == []


@pytest.mark.parametrize(
    ("tokens", "special", "eos", "what"),
    [
        ([], [], [], "at least one token"),
        ([b"a", None], [], [], "1 token has no bytes and no place in special_ids: 1"),
        ([b"a", b""], [], [], "no bytes"),
        ([b"a"], [3], [], "special id 3 is outside"),
        ([b"a"], [], [-1], "special id -1 is outside"),
        ([None] * 9, [], [], "0, 1, 2, 3, 4, ..."),
    ],
)
def test_a_vocabulary_without_bytes_is_refused(
    tokens: list[bytes | None], special: list[int], eos: list[int], what: str
) -> None:
    """A token that adds nothing would be allowed for ever; an id outside is a mistake."""
    with pytest.raises(InputError, match=what):
        Vocabulary(tokens, special, eos)


def test_duplicates_are_allowed_and_named() -> None:
    """Tokens of equal bytes are allowed together."""
    vocabulary = Vocabulary([b"a", b"b", b"a", b"b", b"a", None], eos_ids=[5])
    assert vocabulary.duplicates == [(0, 2, 4), (1, 3)]
    table = compile(from_regex("ab"), vocabulary)
    assert table.allowed(table.start).tolist() == [0, 2, 4]


def test_other_tokenizers_are_refused() -> None:
    """What is not backed by `tokenizers`, or decodes in an unknown way, is told what to do instead."""
    with pytest.raises(InputError, match="not backed"):
        Vocabulary.from_tokenizer(object())
    with pytest.raises(InputError, match="neither byte-level"):
        Vocabulary.from_tokenizer(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))  # noqa: S106
    with pytest.raises(InputError, match="was said to have 10"):
        Vocabulary.from_tokenizer(_byte_level(), size=10)


def test_the_hash_names_what_matters() -> None:
    """Equal vocabularies have equal hashes; other bytes, special ids or end ids have others."""
    base = Vocabulary([b"a", b"b", None], eos_ids=[2])
    assert base.hash == Vocabulary([b"a", b"b", b"whatever"], eos_ids=[2]).hash
    others = [
        Vocabulary([b"ab", b"b", None], eos_ids=[2]),
        Vocabulary([b"a", b"b", None], special_ids=[2]),
        Vocabulary([b"a", b"b", None], special_ids=[1], eos_ids=[2]),
        Vocabulary([b"a", b"b", None, None], special_ids=[3], eos_ids=[2]),
        Vocabulary([b"", b"ab", None], special_ids=[0], eos_ids=[2]),
    ]
    assert len({base.hash, *(other.hash for other in others)}) == 6


def test_a_smaller_vocabulary_still_spells_everything(tekken: Vocabulary) -> None:
    """The first 4,096 tokens keep every byte and the end of sequence, in their order."""
    small, old = tekken.first(4096)
    assert small.size == 4096
    assert len(small.single_bytes) == 256
    assert [tekken.tokens[i] for i in old.tolist()] == list(small.tokens)
    assert (np.diff(old) > 0).all()
    assert [int(old[i]) for i in small.eos_ids] == list(tekken.eos_ids)
    for size in (256, 200_000):
        with pytest.raises(InputError, match="can be cut to between"):
            tekken.first(size)


token_lists = st.lists(st.binary(max_size=5), min_size=1, max_size=40)


@given(token_lists)
@settings(max_examples=200, deadline=None)
def test_the_trie_holds_every_prefix_once(tokens: list[bytes]) -> None:
    """Nodes are the distinct prefixes, level by level; walking up from a token's node spells it."""
    trie = build_trie(tokens)
    prefixes = {token[:length] for token in tokens for length in range(len(token) + 1)} | {b""}
    assert trie.num_nodes == len(prefixes)
    for token, node in zip(tokens, trie.node_of_token.tolist(), strict=True):
        spelled = b""
        while node:
            spelled = bytes([trie.symbol[node]]) + spelled
            node = int(trie.parent[node])
        assert spelled == token
    for node in range(trie.num_nodes):
        children = np.flatnonzero(trie.parent[1:] == node) + 1
        assert children.tolist() == list(range(trie.first_child[node], trie.first_child[node + 1]))


@given(token_lists, st.binary(min_size=256, max_size=256))
@settings(max_examples=100, deadline=None)
def test_merging_bytes_is_the_trie_of_the_classes(tokens: list[bytes], classes: bytes) -> None:
    """Two tokens share a node after merging exactly when their bytes fall into the same classes."""
    byte_class = np.frombuffer(bytes(c % 3 for c in classes), dtype=np.uint8)
    merged = merge_bytes(build_trie(tokens), byte_class)
    direct = build_trie([byte_class[list(token)].tobytes() if token else b"" for token in tokens])
    assert merged.num_nodes == direct.num_nodes
    assert np.array_equal(merged.node_of_token, direct.node_of_token)
    assert np.array_equal(merged.symbol[1:], direct.symbol[1:])
