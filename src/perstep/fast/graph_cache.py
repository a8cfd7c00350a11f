"""The static KV cache of a captured step: fixed slots, filled from the cache that the prefill has left.

Every layer has all slots, those of a sliding window too: transformers' own static layer for windows counts on the
host, so a graph of it would write into one slot for ever. The mask keeps the window, as it does in a prefill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

if TYPE_CHECKING:
    from perstep.targets.transformers.protocols import Argument

# B batch, S slots

LEAST_SLOTS = 64


class SlotLayer(StaticLayer):  # type: ignore[misc] # transformers is not typed
    """A layer with fixed slots; all layers of a cache write into the same one, which the step moves on.

    transformers' layer counts by itself: two launches a layer and step more.
    """

    def __init__(self, like: DynamicLayer, slots: int, place: torch.Tensor) -> None:
        super().__init__(max_cache_len=slots)
        self._place = place
        self.dtype, self.device = like.keys.dtype, like.keys.device
        self.keys, self.values = (
            one.new_zeros(*one.shape[:2], slots, one.shape[3]) for one in (like.keys, like.values)
        )
        self.batch_size, self.num_heads = like.keys.shape[:2]
        self.cumulative_length = place.view(())
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values [B, heads, 1, width] into the current slot; all of them, [B, heads, S, width]."""
        self.keys.index_copy_(2, self._place, key_states)
        self.values.index_copy_(2, self._place, value_states)
        return self.keys, self.values


def bucket(length: int) -> int:
    """The number of slots for texts of a length: the next power of two, so that few lengths need a graph."""
    return max(LEAST_SLOTS, 1 << (length - 1).bit_length())


def cache_refusal(cache: Argument) -> str:
    """Why the cache that the prefill has left cannot be moved into fixed slots; empty if it can."""
    if cache is None:
        return "the model makes a cache of its own kind"
    if type(cache) is not DynamicCache:
        return f"the cache is a {type(cache).__name__}, and only a DynamicCache is moved into fixed slots"
    layers: list[Argument] = cache.layers
    odd = [type(layer).__name__ for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)]
    if odd or not layers or getattr(cache, "offloading", False):
        return f"the cache has layers of the kind {odd[0]}" if odd else "the cache has no layers of its own"
    if not all(layer.is_initialized and layer.keys.numel() for layer in layers):
        return "some layers of the cache hold no keys"
    return ""


class SlotCache:
    """Fixed slots for the keys and values of one shape.

    Attributes:
        cache: as a model takes it.
        place: the slot that the next token is written into, int64 [1].
        slots: how many there are.
    """

    def __init__(self, like: DynamicCache, slots: int) -> None:
        self.slots = slots
        self.place = torch.zeros(1, dtype=torch.int64, device=like.layers[0].keys.device)
        self.cache = Cache(layers=[SlotLayer(layer, slots, self.place) for layer in like.layers])

    @property
    def nbytes(self) -> int:
        """What keys and values take."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.cache.layers)

    def fill(self, cache: DynamicCache, length: int) -> None:
        """Take over what the cache holds of a text of `length` tokens; the slots behind it become 0."""
        for mine, theirs in zip(self.cache.layers, cache.layers, strict=True):
            for ours, given in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                begin = length - given.shape[2]  # a window has let the first ones go
                ours[:, :, :begin].zero_()
                ours[:, :, begin:length].copy_(given)
                ours[:, :, length:].zero_()
        self.place.fill_(length)

    def give_back(self, cache: DynamicCache, begin: int, end: int) -> None:
        """Append the keys and values of the slots from `begin` to `end` to the cache they were filled from."""
        if end > begin:
            for mine, theirs in zip(self.cache.layers, cache.layers, strict=True):
                theirs.update(mine.keys[:, :, begin:end].clone(), mine.values[:, :, begin:end].clone())
