"""Mask rows: one set of allowed tokens in the forms that its users need, made when first asked for.

Many states share a row. A row knows how many tokens it allows; its packed bits, its ids, its
additive bias and whatever else is derived from it (a drop-in's tensors) are kept within one
budget of bytes: what was made first is dropped first, and made again when needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

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
        count: number of allowed tokens.
        size: tokens of the vocabulary.
    """

    __slots__ = ("_expand", "_kept", "_store", "count", "size")

    def __init__(self, size: int, count: int, expand: Callable[[], NDArray[np.bool_]], store: RowStore) -> None:
        self.size = size
        self.count = count
        self._expand = expand
        self._store = store
        self._kept: dict[Hashable, object] = {}

    @classmethod
    def of_bits(cls, bits: NDArray[np.int32], size: int, store: RowStore) -> Row:
        """The row of packed bits, int32 [ceil(size / 32)], which it keeps."""
        bits.flags.writeable = False
        row = cls(size, int.from_bytes(bits.tobytes(), "little").bit_count(), lambda: unpack_bits(bits, size), store)
        row._kept["bits"] = bits
        return row

    def derived(self, key: Hashable, make: Callable[[Row], T], nbytes: Callable[[T], int]) -> T:
        """`make(row)`, cached under `key` within the store's budget."""
        found = self._kept.get(key)
        if found is None:
            found = make(self)
            self._store.keep(self._kept, key, found, nbytes(found))
        return cast("T", found)

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens are allowed, bool [tokens]; computed at each call."""
        return self._expand()

    @property
    def bits(self) -> NDArray[np.int32]:
        """Packed bits, int32 [ceil(tokens / 32)]: token t is bit t & 31 of word t >> 5, as peers lay it out."""
        found = self._kept.get("bits")
        return self._make("bits", lambda: pack_bits(self.mask())) if found is None else cast("NDArray[np.int32]", found)

    @property
    def allowed(self) -> NDArray[np.int32]:
        """The allowed ids, ascending, int32 [count]."""
        found = self._kept.get("allowed")
        if found is None:
            found = self._make("allowed", lambda: np.flatnonzero(self.mask()).astype(np.int32))
        return cast("NDArray[np.int32]", found)

    @property
    def forbidden(self) -> NDArray[np.int32]:
        """The ids that are not allowed, ascending, int32 [size - count]."""
        found = self._kept.get("forbidden")
        if found is None:
            found = self._make("forbidden", lambda: np.flatnonzero(~self.mask()).astype(np.int32))
        return cast("NDArray[np.int32]", found)

    @property
    def bias(self) -> NDArray[np.float32]:
        """What to add to logits: 0 where allowed, -inf elsewhere; float32 [tokens]."""
        found = self._kept.get("bias")
        if found is None:
            found = self._make("bias", lambda: np.where(self.mask(), np.float32(0), np.float32(-np.inf)))
        return cast("NDArray[np.float32]", found)

    def _make(self, key: str, make: Callable[[], Made]) -> Made:
        array = make()
        array.flags.writeable = False
        self._store.keep(self._kept, key, array, array.nbytes)
        return array


def pack_bits(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """A boolean mask [tokens] as packed bits, int32 [ceil(tokens / 32)]; bits beyond the last token are 0."""
    words = np.zeros(-(-len(mask) // 32) * 4, dtype=np.uint8)
    words[: -(-len(mask) // 8)] = np.packbits(mask, bitorder="little")
    return words.view("<i4").astype(np.int32, copy=False)


def unpack_bits(bits: NDArray[np.int32], size: int) -> NDArray[np.bool_]:
    """The boolean mask [size] of packed bits [words]."""
    return np.unpackbits(bits.astype("<i4", copy=False).view(np.uint8), bitorder="little", count=size).astype(np.bool_)
