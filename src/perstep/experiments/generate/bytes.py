"""A byte-level target: a small Llama over 256 bytes, and the slow pair of parts that such models are given.

The pair is slow on purpose, as written by people who want it right: validity of UTF-8 asked for each byte of the
vocabulary, row by row, in Python, and the text decoded anew at each step to see whether a word has ended.
"""

import codecs
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import ByT5Tokenizer

PAD = 256
"""What a row is given once its word has ended while others go on."""

_OFFSET = 3
"""Byte 0 in that tokenizer, behind padding, end and unknown."""

CONFIG = Path(__file__).parent / "byte-llama"
"""The folder with the model's `config.json`; its weights are random."""

TEXT = (
    "Unfortunately it rained, and the café “Étoile” was closed; so we walked along the river towards the old "
    "observatory. Nobody had told us that the astronomer’s daughter was expecting visitors — she laughed, opened the "
    "door and showed us a telescope, thirty-three notebooks full of observations, and a naïve drawing of Saturn’s ring."
)
"""The text that is replayed: words of one byte to fifteen, with characters of one byte to three."""


def byte_rows(text: str, batch: int, length: int) -> NDArray[np.int64]:
    """Prompts, [batch, length in bytes]. Each row begins at another word; the text repeats from its start.

    Raises:
        InputError: the text is empty.
    """
    words = _words(text)
    rows = []
    for row in range(batch):
        start = row * len(words) // batch
        stream = "".join(words[start:] + words[:start]).encode()
        rows.append([stream[i % len(stream)] for i in range(length)])
    return np.array(rows, np.int64).reshape(batch, length)


def word_traces(text: str, batch: int, words: int) -> list[NDArray[np.int64]]:
    """The bytes of each word with the space behind it, [batch, bytes] a word; each row begins at another word.

    A call goes on until the longest word of its rows has ended; the others are padded meanwhile, as generate does.

    Raises:
        InputError: the text is empty.
    """
    given = _words(text)
    traces = []
    for number in range(words):
        rows = [given[(number + row * len(given) // batch) % len(given)].encode() for row in range(batch)]
        longest = max(map(len, rows))
        traces.append(np.array([[*row, *[PAD] * (longest - len(row))] for row in rows], np.int64))
    return traces


def _words(text: str) -> list[str]:
    words = [f"{word} " for word in text.split()]
    if not words:
        raise InputError("the text has no word: give one of at least one letter")
    return words


class Utf8InPython:
    """A logits processor that forbids bytes which cannot go on a UTF-8 text: it asks about each, for each row."""

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """The scores with -inf at forbidden bytes and special tokens, float [B, vocabulary]."""
        import torch

        mask = torch.full_like(scores, float("-inf"))
        for row, ids in enumerate(input_ids.tolist()):
            mask[row, allowed_bytes(ids)] = 0
        return scores + mask


class WordInPython:
    """A stopping criterion that ends a row behind its first word: it decodes the whole text of each, at each step."""

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor", **kwargs: object) -> "torch.Tensor":  # noqa: ARG002 - as generate calls it
        """Whether each row has ended, bool [B]."""
        import torch

        rows = input_ids.tolist()
        texts = decode_rows(rows)
        ended = [ends_word(text) or ids[-1:] == [PAD] for text, ids in zip(texts, rows, strict=True)]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


def allowed_bytes(ids: list[int]) -> list[int]:
    """The bytes that may come after these ids; an id from 256 on ends what was before it.

    Where the ids themselves are no valid UTF-8, a new character may begin.
    """
    begun = _unfinished(ids)
    return [byte for byte in range(256) if _is_beginning(bytes([*begun, byte]))]


def _unfinished(ids: list[int]) -> list[int]:
    """The bytes at the end of a character that is not complete."""
    for length in (1, 2, 3):
        tail = ids[-length:]
        if len(tail) < length or tail[0] > 255:
            break
        if tail[0] >= 0xC0:
            return tail if _is_beginning(bytes(tail)) and not _is_whole(bytes(tail)) else []
    return []


def _is_beginning(text: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return False
    return True


def _is_whole(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def decode_rows(rows: list[list[int]]) -> list[str]:
    """The text of each row of bytes, by the byte-level tokenizer of transformers; special tokens have none."""
    shifted = [[byte + _OFFSET if byte < 256 else 0 for byte in row] for row in rows]
    decoded = _tokenizer().batch_decode(shifted, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [str(text) for text in decoded]


@cache
def _tokenizer() -> "ByT5Tokenizer":
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


def ends_word(text: str) -> bool:
    """Whether a text ends with a space behind a word."""
    return text[-1:].isspace() and not text.isspace()
