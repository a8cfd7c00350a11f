"""The bytes of the key/value cache: 2 x layers x kv_heads x head_dim x positions x batch x bytes (Shazeer 2019).

Grouped heads divide it by heads / kv_heads (Ainslie et al. 2023); a layer with a sliding window of W never needs
more than W - 1 positions before a step (Beltagy et al. 2020). Latent attention keeps a compressed state and a rotated
key instead: layers x (kv_lora_rank + qk_rope_head_dim) x positions (DeepSeek-V2 2024). In a hybrid the attention layers
alone keep positions. Bytes from shapes, exact; nothing is allocated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perstep._json import Json
from perstep._words import plural
from perstep.errors import InputError
from perstep.theory.config import read_config, size_in
from perstep.theory.refused import HYBRIDS, LATENTS
from perstep.theory.shape import ModelShape
from perstep.theory.step import bytes_each


@dataclass(frozen=True)
class CacheBytes:
    """The bytes of a cache that holds `used` positions' worth of `allocated`."""

    used: int
    allocated: int


@dataclass(frozen=True)
class CachedLayer:
    """What a layer keeps: `width` numbers a position, of the last `window` - 1 positions (None: of all)."""

    width: int
    window: int | None = None


def cached_layers(config: Mapping[str, Json]) -> tuple[CachedLayer, ...]:
    """What the layers of the decoder that a `config.json` describes keep of each position.

    Of latent attention and of hybrids too, whose costs are not modelled otherwise. A hybrid's other layers keep a state
    of fixed size, which is not counted.

    Raises:
        InputError: no formula is known for it, or a size is missing.
    """
    model_type = config.get("model_type")
    if model_type in LATENTS:
        width = size_in(config, "kv_lora_rank") + size_in(config, "qk_rope_head_dim")
        return (CachedLayer(width),) * size_in(config, "num_hidden_layers")
    kinds = config.get("layer_types")
    if model_type in HYBRIDS and isinstance(kinds, list):
        if config.get("head_dim") is None:
            head_dim = size_in(config, "hidden_size") // size_in(config, "num_attention_heads")
        else:
            head_dim = size_in(config, "head_dim")
        width = 2 * size_in(config, "num_key_value_heads") * head_dim
        return tuple(CachedLayer(width if kind == "full_attention" else 0) for kind in kinds)
    return _of_shape(read_config(config))


def _of_shape(shape: ModelShape) -> tuple[CachedLayer, ...]:
    return tuple(CachedLayer(2 * shape.kv_width, layer.window) for layer in shape.layers)


def kv_bytes(
    shape: ModelShape | Sequence[CachedLayer],
    positions: int,
    *,
    capacity: int | None = None,
    batch: int = 1,
    dtype: str = "float32",
) -> CacheBytes:
    """The bytes of a cache after `positions` positions of each of `batch` sequences.

    Args:
        shape: the model, or what its layers keep.
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
    layers = _of_shape(shape) if isinstance(shape, ModelShape) else shape
    one = batch * bytes_each(dtype)
    used = sum(layer.width * held_positions(positions, layer.window) for layer in layers)
    if capacity is None:
        return CacheBytes(one * used, one * used)
    allocated = sum(layer.width * min(capacity, layer.window or capacity) for layer in layers)
    return CacheBytes(one * used, one * allocated)


def held_positions(seen: int, window: int | None) -> int:
    """How many of the positions seen a layer must keep: W - 1, since the next query's own is the W-th."""
    return seen if window is None else min(seen, window - 1)
