"""The bytes of the key/value cache: 2 x layers x kv_heads x head_dim x positions x batch x bytes (Shazeer 2019).

Grouped heads divide it by heads / kv_heads (Ainslie et al. 2023); a layer with a sliding window of W never needs
more than W - 1 positions before a step (Beltagy et al. 2020). Bytes from shapes, exact; nothing is allocated.
"""

from dataclasses import dataclass

from perstep._words import plural
from perstep.errors import InputError
from perstep.theory.shape import ModelShape
from perstep.theory.step import bytes_each


@dataclass(frozen=True)
class CacheBytes:
    """The bytes of a cache that holds `used` positions' worth of `allocated`."""

    used: int
    allocated: int


def kv_bytes(
    shape: ModelShape, positions: int, *, capacity: int | None = None, batch: int = 1, dtype: str = "float32"
) -> CacheBytes:
    """The bytes of a cache after `positions` positions of each of `batch` sequences.

    Args:
        shape: the model.
        positions: how many positions it has seen; layers with a window hold the last W - 1 of them.
        capacity: positions that were allocated beforehand, of which a layer with a window takes at most W;
            without it the cache grows, and allocated is used.
        batch: sequences side by side, all of one length.
        dtype: of the cache.

    Raises:
        InputError: a number below 0 (batch: 1), or more positions than the capacity.
    """
    if positions < 0 or batch < 1:
        raise InputError(f"a KV cache holds 0 or more positions of 1 or more sequences, found {positions} and {batch}")
    if capacity is not None and positions > capacity:
        raise InputError(f"{plural(positions, 'position does', 'positions do')} not fit into a KV cache of {capacity}")
    one = 2 * shape.kv_width * batch * bytes_each(dtype)
    used = sum(held_positions(positions, layer.window) for layer in shape.layers)
    if capacity is None:
        return CacheBytes(one * used, one * used)
    return CacheBytes(one * used, one * sum(min(capacity, layer.window or capacity) for layer in shape.layers))


def held_positions(seen: int, window: int | None) -> int:
    """How many of the positions seen a layer must keep: W - 1, since the next query's own is the W-th."""
    return seen if window is None else min(seen, window - 1)
