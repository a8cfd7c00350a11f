"""The key/value cache of the reference decoder: allocated once, written in place, read through views.

Its bytes follow from shapes: 2 x layers x batch x kv_heads x positions x head_dim x 4. Keys are stored
[layers, batch, kv_heads, head_dim, capacity], one position a column, because q @ K then runs along contiguous memory.
Values are stored [layers, batch, kv_heads, capacity, head_dim]. All rows of a batch have the same length; there is no
padding. The cache does not grow and does not evict.
"""

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError

Floats = NDArray[np.float32]


class CacheFull(InputError):  # noqa: N818 - it says what happened
    """More positions were appended than the cache was allocated for."""


class KVCache:
    """Keys and values of `capacity` positions for every layer of `batch` sequences of equal length."""

    def __init__(self, num_layers: int, batch: int, kv_heads: int, head_dim: int, capacity: int):
        for name, value in (("batch", batch), ("capacity", capacity)):
            if value < 1:
                raise InputError(f"a KV cache needs a {name} of at least 1, found {value}")
        self.geometry = (num_layers, batch, kv_heads, head_dim)
        self.capacity = capacity
        # Filled, not left empty: the first touch of each 4 KiB page causes a fault of about 0.25 us. Without this the
        # faults would happen in the steps that are measured.
        self.keys = np.full((num_layers, batch, kv_heads, head_dim, capacity), 0, dtype=np.float32)
        self.values = np.full((num_layers, batch, kv_heads, capacity, head_dim), 0, dtype=np.float32)
        self._length = 0

    def current_length(self) -> int:
        """The number of positions that every layer holds."""
        return self._length

    def bytes_allocated(self) -> int:
        """The bytes of both buffers, used or not."""
        return self.keys.nbytes + self.values.nbytes

    def bytes_used(self) -> int:
        """The bytes of the positions that are held."""
        return self.bytes_allocated() // self.capacity * self._length

    def room_for(self, num_positions: int) -> int:
        """The position of the next token, if `num_positions` more fit.

        Raises:
            CacheFull: if they do not fit; nothing is changed.
        """
        if self._length + num_positions > self.capacity:
            raise CacheFull(
                f"a KV cache of capacity {self.capacity} cannot hold {self._length} and {num_positions} more; "
                "allocate a larger capacity, roll back or reset"
            )
        return self._length

    def append(self, layer: int, k_BKHT: Floats, v_BKTH: Floats) -> tuple[Floats, Floats]:
        """Write T positions of one layer after those held; return all keys and values of that layer.

        Only `advance` changes the length, once every layer has its T positions. Until then a repeated append
        overwrites, so that an interrupted forward leaves the cache as it was.

        Args:
            layer: index of the layer.
            k_BKHT: keys, [batch, kv_heads, head_dim, T].
            v_BKTH: values, [batch, kv_heads, T, head_dim].

        Returns:
            Views, not copies: keys [batch, kv_heads, head_dim, L] and values [batch, kv_heads, L, head_dim]
            with L = current_length() + T.

        Raises:
            CacheFull: if T positions do not fit.
            InputError: if the shapes are not those of this cache.
        """
        _, B, K, H = self.geometry
        T = k_BKHT.shape[-1]
        if k_BKHT.shape != (B, K, H, T) or v_BKTH.shape != (B, K, T, H):
            raise InputError(
                f"the KV cache takes keys {(B, K, H, 'T')} and values {(B, K, 'T', H)}, "
                f"found {k_BKHT.shape} and {v_BKTH.shape}"
            )
        start = self.room_for(T)
        end = start + T
        self.keys[layer, ..., start:end] = k_BKHT
        self.values[layer, ..., start:end, :] = v_BKTH
        return self.keys[layer, ..., :end], self.values[layer, ..., :end, :]

    def advance(self, num_positions: int) -> None:
        """Add `num_positions` to the length, after every layer has appended them."""
        self._length = self.room_for(num_positions) + num_positions

    def rollback(self, num_positions: int) -> None:
        """Forget the last `num_positions`; the next append overwrites them.

        Raises:
            InputError: if it is negative or more than are held.
        """
        if not 0 <= num_positions <= self._length:
            raise InputError(f"a rollback by {num_positions}; of the positions held it takes 0 to {self._length}")
        self._length -= num_positions

    def reset(self) -> None:
        """Forget every position; the buffers stay."""
        self._length = 0
