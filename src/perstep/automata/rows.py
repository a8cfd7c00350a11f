"""Mask rows: one set of allowed tokens in the forms that its users need, made when first asked for.

Many states share a row. A row knows how many tokens it allows; its packed bits, its ids, its
additive bias and whatever else is derived from it (a drop-in's tensors) are kept within one
budget of bytes: what was made first is dropped first, and made again when needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    T = TypeVar("T")
    Made = TypeVar("Made", bound=NDArray[np.generic])

BUDGET_BYTES = 64 * 2**20
"""What expanded rows of one table may take together, unless the caller says otherwise."""


class RowStore:
    """Counts the bytes of what rows keep, and drops the oldest when they are over the budget."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._kept: deque[tuple[dict[Hashable, object], Hashable, int]] = deque()

    def keep(self, kept: dict[Hashable, object], key: Hashable, value: object, nbytes: int) -> None:
        """Enter `value` into a row's dictionary; the newest stays even if it alone is over the budget."""
        while self._kept and self.used_bytes + nbytes > self.budget_bytes:
            old_row, old_key, old_bytes = self._kept.popleft()
            del old_row[old_key]
            self.used_bytes -= old_bytes
        kept[key] = value
        self._kept.append((kept, key, nbytes))
        self.used_bytes += nbytes


class Row:
    """One set of allowed tokens. Arrays handed out are shared and read-only.

    Attributes:
        size: tokens of the vocabulary.
    """

    __slots__ = ("_count", "_expand", "_kept", "_store", "size")

    def __init__(
        self, size: int, count: int | None, expand: Callable[[], NDArray[np.bool_]] | None, store: RowStore
    ) -> None:
        self.size = size
        self._count = count
        self._expand = expand
        self._store = store
        self._kept: dict[Hashable, object] = {}

    @property
    def count(self) -> int:
        """Number of allowed tokens."""
        if self._count is None:
            self._count = count_bits(self.bits)
        return self._count

    @classmethod
    def of_bits(
        cls,
        bits: NDArray[np.int32],
        size: int,
        store: RowStore,
    ) -> Row:
        """The row of packed bits, int32 [ceil(size / 32)], which it keeps beside the budget.

        Args:
            bits: they.
            size: tokens of the vocabulary.
            store: counts what else rows keep.
        """
        bits.flags.writeable = False
        row = cls(size, None, lambda: unpack_bits(bits, size), store)
        row._kept["bits"] = bits
        return row

    def derived(self, key: Hashable, make: Callable[[Row], T], nbytes: Callable[[T], int]) -> T:
        """`make(row)`, cached under `key` within the store's budget."""
        value = self._kept.get(key)
        if value is None:
            value = make(self)
            self._store.keep(self._kept, key, value, nbytes(value))
        return cast("T", value)

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens are allowed, bool [tokens]; computed at each call."""
        if self._expand is None:
            raise NotImplementedError
        return self._expand()

    @property
    def bits(self) -> NDArray[np.int32]:
        """Packed bits, int32 [ceil(tokens / 32)]: token t is bit t & 31 of word t >> 5, as peers lay it out."""
        bits = self._kept.get("bits")
        if bits is None:
            bits = self._make("bits", lambda: pack_bits(self.mask()))
        return bits  # type: ignore[return-value]  # a cast would cost as much as the look-up

    @property
    def allowed(self) -> NDArray[np.int32]:
        """The allowed ids, ascending, int32 [count]."""
        ids = self._kept.get("allowed")
        if ids is None:
            ids = self._make("allowed", lambda: np.flatnonzero(self.mask()).astype(np.int32))
        return cast("NDArray[np.int32]", ids)

    @property
    def forbidden(self) -> NDArray[np.int32]:
        """The ids that are not allowed, ascending, int32 [size - count]."""
        ids = self._kept.get("forbidden")
        if ids is None:
            ids = self._make("forbidden", lambda: np.flatnonzero(~self.mask()).astype(np.int32))
        return cast("NDArray[np.int32]", ids)

    @property
    def bias(self) -> NDArray[np.float32]:
        """What to add to logits: 0 where allowed, -inf elsewhere; float32 [tokens]."""
        bias = self._kept.get("bias")
        if bias is None:
            bias = self._make("bias", lambda: np.where(self.mask(), np.float32(0), np.float32(-np.inf)))
        return cast("NDArray[np.float32]", bias)

    def _make(self, key: str, make: Callable[[], Made]) -> Made:
        array = make()
        array.flags.writeable = False
        self._store.keep(self._kept, key, array, array.nbytes)
        return array


class MakesBits(Protocol):
    """What can make the packed bits of a state's row once more."""

    def bits_of(self, state: int) -> NDArray[np.int32]:
        """They, int32 [ceil(tokens / 32)]."""


class StateRow(Row):
    """The row of a state, whose packed bits are made again when they were dropped.

    It has no function of its own for that: a closure is half a dozen of the objects that garbage collections come by.

    Args:
        source: makes the bits again.
        state: the state.
        bits: they, int32 [ceil(size / 32)].
        size: tokens of the vocabulary.
        store: counts what rows keep.
        count: how many are set, where it is known already.
    """

    __slots__ = ("_source", "_state")

    def __init__(
        self,
        source: MakesBits,
        state: int,
        bits: NDArray[np.int32],
        size: int,
        store: RowStore,
        count: int | None = None,
    ) -> None:
        super().__init__(size, count, None, store)
        self._source = source
        self._state = state
        bits.flags.writeable = False
        store.keep(self._kept, "bits", bits, bits.nbytes)

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens are allowed, bool [tokens]; computed at each call."""
        return unpack_bits(self._source.bits_of(self._state), self.size)


_BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint8)


def clear_bits(bits: NDArray[np.int32], tokens: Iterable[int]) -> None:
    """Clear the bits of some tokens; fit for a few."""
    words: memoryview[int] = memoryview(bits.view(np.uint32))  # type: ignore[arg-type]
    for token in tokens:
        words[token >> 5] &= ~(1 << (token & 31))


_BIT = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))


def count_bits(bits: NDArray[np.int32]) -> int:
    """How many bits are set."""
    return int(_BITS_OF_BYTE[bits.view(np.uint8)].sum(dtype=np.int64))


def pack_bits(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """A boolean mask [tokens] as packed bits, int32 [ceil(tokens / 32)]; bits beyond the last token are 0."""
    words = np.zeros(-(-len(mask) // 32) * 4, dtype=np.uint8)
    words[: -(-len(mask) // 8)] = np.packbits(mask, bitorder="little")
    return words.view("<i4").astype(np.int32, copy=False)


def set_bits(bits: NDArray[np.int32], tokens: Iterable[int]) -> None:
    """Set the bits of some tokens; fit for a few."""
    words: memoryview[int] = memoryview(bits.view(np.uint32))  # type: ignore[arg-type]
    for token in tokens:
        words[token >> 5] |= 1 << (token & 31)


def add_tokens(bits: NDArray[np.int32], groups: Sequence[NDArray[np.int64]]) -> None:
    """Set the bits of groups of tokens, each some hundreds."""
    if not groups:
        return
    tokens = np.concatenate(groups)
    np.bitwise_or.at(bits.view(np.uint32), tokens >> 5, _BIT[tokens & 31])


def unpack_bits(bits: NDArray[np.int32], size: int) -> NDArray[np.bool_]:
    """The boolean mask [size] of packed bits [words]."""
    return np.unpackbits(bits.astype("<i4", copy=False).view(np.uint8), bitorder="little", count=size).astype(np.bool_)
