"""The raw bytes of a tokenizer's tokens, read off its decoder.

Three kinds write bytes in three ways: byte-level BPE maps every byte to a printable character
(GPT-2), sentencepiece writes a space as U+2581 and rare bytes as `<0x0A>`, WordPiece marks
what continues a word with `##`. A decoder's clean-up of the whole text (dropping the very
first space, spaces before punctuation) belongs to no token and is left out. The tokens of a
fourth kind are bytes (ByT5); it is known by what it makes of a text with every byte of UTF-8. The tokenizers of
mistral_common give their bytes, or pieces of sentencepiece. A token without bytes is special; it adds nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from perstep._json import Json
from perstep._words import plural
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

Tokenizer = Any
"""A tokenizer of transformers without one of `tokenizers`: what it has, `_of_bytes` finds out."""


@runtime_checkable
class Backend(Protocol):
    """What is read of a `tokenizers.Tokenizer`."""

    def to_str(self) -> str:
        """Its description in JSON."""
        ...

    def get_vocab(self, *, with_added_tokens: bool) -> dict[str, int]:
        """The id of each token."""
        ...


_EVERY_BYTE = "".join(map(chr, [*range(0x900), *range(0x1000, 0xD800, 0x1000), *range(0xE000, 0x110000, 0x1000)]))
"""Characters in which every byte occurs that UTF-8 has."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_bytes_of(tokenizer: object, size: int | None) -> tuple[list[bytes | None], set[int], list[int]]:
    """The bytes of every id, the special ids (holes in the numbering among them), the end-of-sequence ids.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, one of transformers that is backed by one or whose tokens are bytes, or one
            of mistral_common.
        size: number of ids the model knows; None for as many as the tokenizer has.

    Raises:
        InputError: if the tokenizer is of no known kind, or has an id beyond `size`.
    """
    mistral = _of_mistral(tokenizer)
    if mistral is not None:
        tokens, special, eos_id = mistral
        _check_size(len(tokens) - 1, len(tokens) if size is None else size)
        return [*tokens, *[None] * ((size or 0) - len(tokens))], special | set(range(len(tokens), size or 0)), [eos_id]
    backend = _backend(tokenizer)
    ids, special, spelled = _of_bytes(tokenizer) if backend is None else _of_backend(backend)
    length = max(ids) + 1 if size is None else size
    _check_size(max(ids), length)
    special |= set(getattr(tokenizer, "all_special_ids", ())) | (set(range(length)) - set(ids))
    tokens = [None if number in special else spelled(number) or None for number in range(length)]
    special |= {number for number, data in enumerate(tokens) if data is None}  # an empty token adds nothing
    eos = getattr(tokenizer, "eos_token_id", None)
    return tokens, special, [] if eos is None else [int(eos)]


def _check_size(last: int, length: int) -> None:
    if last >= length:
        raise InputError(
            f"the tokenizer has the id {last:,}, but the vocabulary was said to have {plural(length, 'id')}"
        )


def _of_mistral(tokenizer: Tokenizer) -> tuple[list[bytes | None], set[int], int] | None:
    """The bytes, special ids and end of sequence of a tokenizer of mistral_common, or None if it is none.

    A `MistralTokenizer` holds one; a Tekkenizer gives bytes, a SentencePieceTokenizer pieces.
    """
    holder: Tokenizer = getattr(tokenizer, "instruct_tokenizer", None)
    inner: Tokenizer = getattr(holder, "tokenizer", tokenizer)
    if not all(hasattr(inner, name) for name in ("n_words", "num_special_tokens", "special_ids", "id_to_piece")):
        return None
    special = {*inner.special_ids, inner.unk_id}
    pieces = getattr(inner, "id_to_byte_piece", None) or (
        lambda number: _sentencepiece(inner.id_to_piece(number), [("\u2581", " ")], byte_fallback=True)
    )
    tokens = [None if number in special else pieces(number) or None for number in range(inner.n_words)]
    return tokens, special | {number for number, data in enumerate(tokens) if data is None}, inner.eos_id


def _backend(tokenizer: object) -> Backend | None:
    for candidate in (tokenizer, getattr(tokenizer, "backend_tokenizer", None), getattr(tokenizer, "_tokenizer", None)):
        if isinstance(candidate, Backend):
            return candidate
    return None


def _of_backend(backend: Backend) -> tuple[Mapping[int, str], set[int], Callable[[int], bytes]]:
    """Ids with their texts, those that are special, and the function from an id to its bytes."""
    spec = json.loads(backend.to_str())
    read = _reader(spec)
    added = {int(token["id"]): token for token in spec["added_tokens"]}  # their texts are decoded as all others are
    ids: dict[int, str] = {number: text for text, number in backend.get_vocab(with_added_tokens=True).items()}
    unknown = spec["model"].get("unk_token")
    special = {number for number, token in added.items() if token["special"]}
    special |= {number for number, text in ids.items() if text == unknown}
    return ids, special, lambda number: read(ids[number])


def _of_bytes(tokenizer: Tokenizer) -> tuple[Mapping[int, str], set[int], Callable[[int], bytes]]:
    """The same of a tokenizer whose tokens are bytes, each written as the character of its number.

    Raises:
        InputError: it is no such tokenizer.
    """
    ids = {number: text for text, number in getattr(tokenizer, "get_vocab", dict)().items()}
    byte_of = {number: ord(text) for number, text in ids.items() if len(text) == 1 and ord(text) < 256}
    special = set(getattr(tokenizer, "all_special_ids", ()))
    controls = {ids.get(number) for number in special}  # of some the first bytes end or pad a text
    text = "".join(sign for sign in _EVERY_BYTE if sign not in controls)
    if len(byte_of) < 256 or _encoded(tokenizer, text, byte_of) != text.encode():
        raise InputError(
            f"{type(tokenizer).__name__} is not backed by a `tokenizers` tokenizer, and its tokens are not bytes: "
            "load the fast one, or build Vocabulary(list_of_token_bytes) yourself"
        )
    return ids, special, lambda number: bytes([byte_of[number]]) if number in byte_of else ids[number].encode()


def _encoded(tokenizer: Tokenizer, text: str, byte_of: Mapping[int, int]) -> bytes | None:
    """The bytes of the tokens that a text becomes; None where one of them is no byte."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    return bytes(byte_of[number] for number in ids) if all(number in byte_of for number in ids) else None


def _parts(decoder: dict[str, Json] | None) -> list[dict[str, Json]]:
    """A decoder as the list of its steps."""
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [part for inner in decoder["decoders"] for part in _parts(inner)]
    return [decoder]


def _reader(spec: dict[str, Json]) -> Callable[[str], bytes]:
    """The function from a token's text to its bytes."""
    parts = _parts(spec.get("decoder"))
    kinds = {part["type"]: part for part in parts}
    if "ByteLevel" in kinds:
        return _byte_level
    if "WordPiece" in kinds:
        prefix = kinds["WordPiece"]["prefix"]
        return lambda text: text[len(prefix) :].encode() if text.startswith(prefix) else b" " + text.encode()
    replaced = _replacements(parts)
    if replaced or "ByteFallback" in kinds:
        return lambda text: _sentencepiece(text, replaced, "ByteFallback" in kinds)
    names = ", ".join(kinds) or "none"
    raise InputError(
        f"the tokenizer's decoder ({names}) is neither byte-level, nor sentencepiece-like, nor WordPiece: "
        "build Vocabulary(list_of_token_bytes) yourself"
    )


def _replacements(parts: list[dict[str, Json]]) -> list[tuple[str, str]]:
    pairs = []
    for part in parts:
        if part["type"] == "Metaspace":
            pairs.append((part["replacement"], " "))
        elif part["type"] == "BPEDecoder":
            pairs.append((part["suffix"], " "))
        elif part["type"] == "Replace" and "String" in part["pattern"]:
            pairs.append((part["pattern"]["String"], part["content"]))
    return pairs


def _sentencepiece(text: str, replaced: list[tuple[str, str]], byte_fallback: bool) -> bytes:
    match = _BYTE.fullmatch(text) if byte_fallback else None
    if match:
        return bytes([int(match[1], 16)])
    for old, new in replaced:
        text = text.replace(old, new)
    return text.encode()


@lru_cache(maxsize=1)
def _printable_bytes() -> dict[str, int]:
    """The byte behind each character of a byte-level token.

    Source: `bytes_to_unicode` of GPT-2: printable Latin-1 stands for itself, the rest follows from U+0100 on.
    """
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(0x100 + i): byte for i, byte in enumerate(moved)}


def _byte_level(text: str) -> bytes:
    byte_of = _printable_bytes()
    if all(sign in byte_of for sign in text):
        return bytes([byte_of[sign] for sign in text])
    return text.encode()  # as the decoder has it: a token with a raw space, say, stands for itself
