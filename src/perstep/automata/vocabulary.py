"""The vocabulary: the raw bytes of every token id, and the ids that stand for no text.

A mask is right only if the bytes are: what a token adds to the text, not how a tokenizer
prints it. Special ids (begin, padding, control, holes in the numbering) are never allowed by
a mask; end-of-sequence ids are allowed exactly where a text may end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from perstep._words import plural
from perstep.automata.trie import Trie, build_trie
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray


T = TypeVar("T")

_IN_UTF8 = frozenset(range(256)) - {0xC0, 0xC1, *range(0xF5, 0x100)}
"""The bytes that UTF-8 may have."""


class Vocabulary:
    """The bytes of every token id.

    Args:
        tokens: the bytes of each id in order; None or empty for an id without text, which must be special.
        special_ids: ids that never belong to a text.
        eos_ids: ids that end a text; they are special too.

    Raises:
        InputError: if an id is out of range, or a token that is not special has no bytes.

    Examples:
        >>> vocab = Vocabulary([b"a", b"b", b"ab", None], eos_ids=[3])
        >>> vocab.size, vocab.spell([2, 0])
        (4, b'aba')
    """

    def __init__(
        self, tokens: Sequence[bytes | None], special_ids: Iterable[int] = (), eos_ids: Iterable[int] = ()
    ) -> None:
        self.size = len(tokens)
        self._derived: dict[str, object] = {}
        self.eos_ids = tuple(sorted(set(map(int, eos_ids))))
        self.special_ids = frozenset(map(int, special_ids)) | frozenset(self.eos_ids)
        if not self.size:
            raise InputError("a vocabulary needs at least one token")
        outside = sorted(token for token in self.special_ids if not 0 <= token < self.size)
        if outside:
            raise InputError(f"special id {outside[0]} is outside the vocabulary of {plural(self.size, 'token')}")
        self.tokens = tuple(b"" if i in self.special_ids else bytes(t or b"") for i, t in enumerate(tokens))
        silent = [i for i, token in enumerate(self.tokens) if not token and i not in self.special_ids]
        if silent:
            raise InputError(
                f"{plural(len(silent), 'token has', 'tokens have')} no bytes and no place in special_ids: "
                f"{_some(silent)}; give their bytes, or list them there"
            )

    @classmethod
    def of(cls, given: object) -> Vocabulary:
        """A vocabulary, from one, from the bytes of every token, or from a tokenizer.

        Raises:
            InputError: if it is none of these, or a tokenizer of an unknown kind.
        """
        if isinstance(given, Vocabulary):
            return given
        if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
            return cls(given)
        if hasattr(given, "decode"):
            return cls.from_tokenizer(given)
        raise InputError(
            f"a {type(given).__name__} is no vocabulary: give a perstep.automata.Vocabulary, a tokenizer, or the "
            "bytes of every token in a list"
        )

    @classmethod
    def from_tokenizer(
        cls, tokenizer: object, size: int | None = None, eos_ids: Iterable[int] | None = None
    ) -> Vocabulary:
        """The vocabulary of a tokenizer of transformers, `tokenizers` or mistral_common.

        Byte-level BPE, sentencepiece-like with byte fallback, and WordPiece are told apart by the
        tokenizer's own decoder; one whose tokens are bytes (ByT5) by what it makes of a text.

        Args:
            tokenizer: the tokenizer.
            size: number of ids the model knows, where its head is wider than the tokenizer; the rest are special.
            eos_ids: ids that end a text; the tokenizer's own `eos_token_id` by default.

        Raises:
            InputError: if the tokenizer is of another kind, or wider than `size`.
        """
        from perstep.automata.tokenizer_kinds import token_bytes_of

        tokens, special, own_eos = token_bytes_of(tokenizer, size)
        return cls(tokens, special, own_eos if eos_ids is None else eos_ids)

    @classmethod
    def from_tekken(cls, tokenizer: object) -> Vocabulary:
        """The vocabulary of a `mistral_common` Tekkenizer; `from_tokenizer` takes it too."""
        return cls.from_tokenizer(tokenizer)

    @cached_property
    def trie(self) -> Trie:
        """The byte trie of the tokens; built at first use (`DiskCache.trie` reads it from disk instead)."""
        return build_trie(self.tokens)

    @cached_property
    def spelled(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """All tokens' bytes one after the other, uint8 [bytes], and where each begins, int64 [tokens + 1]."""
        lengths = np.fromiter(map(len, self.tokens), np.int64, self.size)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return np.frombuffer(b"".join(self.tokens), dtype=np.uint8), starts

    @cached_property
    def hash(self) -> str:
        """SHA-256 of every token's bytes, the special ids and the end-of-sequence ids."""
        lengths = np.array([len(token) for token in self.tokens], dtype="<i8")
        digest = hashlib.sha256(f"vocabulary {sorted(self.special_ids)} {self.eos_ids}".encode())
        digest.update(lengths.tobytes())
        digest.update(b"".join(self.tokens))
        return digest.hexdigest()

    @cached_property
    def duplicates(self) -> list[tuple[int, ...]]:
        """Groups of ids with equal bytes. They are allowed together, so nothing is wrong; but probability splits."""
        groups: dict[bytes, list[int]] = {}
        for token, data in enumerate(self.tokens):
            if data:
                groups.setdefault(data, []).append(token)
        return [tuple(group) for group in groups.values() if len(group) > 1]

    @cached_property
    def single_bytes(self) -> bytes:
        """The bytes that are tokens by themselves, ascending."""
        return bytes(sorted({token[0] for token in self.tokens if len(token) == 1}))

    def require_bytes(self, reader: str) -> None:
        """See that every byte UTF-8 may have is a token by itself.

        Args:
            reader: what needs it, for the sentence.

        Raises:
            InputError: one is not; it is named.
        """
        missing = _IN_UTF8.difference(self.single_bytes)
        if missing:
            raise InputError(
                f"{reader} could lead into a dead end, because no token is the byte 0x{min(missing):02X}: use a table "
                "(engine='table'), which leaves out what cannot be spelled"
            )

    def __deepcopy__(self, memo: dict[int, object]) -> Vocabulary:
        """Itself: it does not change, and what engines have derived from it cannot always be copied."""
        return self

    def __getstate__(self) -> dict[str, object]:
        """Without what engines have derived from it."""
        return {**self.__dict__, "_derived": {}}

    def derived(self, name: str, make: Callable[[Vocabulary], T]) -> T:
        """`make(vocabulary)`, kept under `name`: what an engine builds once a vocabulary."""
        if name not in self._derived:
            self._derived[name] = make(self)
        return cast("T", self._derived[name])

    def spell(self, tokens: Iterable[int]) -> bytes:
        """The text of token ids; special ids add nothing."""
        return b"".join(self.tokens[token] for token in tokens)

    def first(self, size: int) -> tuple[Vocabulary, NDArray[np.int64]]:
        """A smaller vocabulary that can spell the same texts: `size` tokens, renumbered in their old order.

        It keeps the end-of-sequence ids, every token of one byte, and then the first other tokens that have bytes;
        other special ids are removed.

        Returns:
            The vocabulary and the old id of each of its tokens, int64 [size].

        Raises:
            InputError: if `size` is too small for the first two kinds, or larger than the vocabulary.
        """
        must = set(self.eos_ids) | {i for i, token in enumerate(self.tokens) if len(token) == 1}
        others = [i for i, token in enumerate(self.tokens) if token and i not in must]
        if not len(must) <= size <= len(must) + len(others):
            raise InputError(
                f"this vocabulary can be cut to between {len(must):,} and {plural(len(must) + len(others), 'token')}, "
                f"not to {size:,}"
            )
        kept = np.array(sorted(must | set(others[: size - len(must)])), dtype=np.int64)
        number = {int(old): new for new, old in enumerate(kept)}
        tokens = [self.tokens[old] for old in kept.tolist()]
        return Vocabulary(tokens, eos_ids=[number[old] for old in self.eos_ids]), kept


def _some(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
