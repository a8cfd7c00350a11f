"""What `cache` measures: one decode step at a context, with a cache whose cursor can be put back, and without one.

Both arms run the same model code; without a cache everything up to the new token is computed again. The context does
not move: the step appends a token, `rewind` forgets it. Bytes are read from the live buffers. No clock here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.targets import Opened
from perstep.targets.reference import KVCache, Reference, decode_one_token, no_mark, prefill
from perstep.targets.reference.model import decoder, head

Ids = NDArray[np.int64]
PREFILL_CHUNK = 512
"""Positions prefilled at once: the scores of a chunk take batch x heads x 512 x context numbers."""


@dataclass(frozen=True)
class Buffer:
    """One live array of a cache: its address and its bytes."""

    address: int
    num_bytes: int


class Subject(Protocol):
    """A model with a prompt of max(contexts) + 1 tokens in every row; the last is the one that is decoded."""

    kind: str
    """Of the cache: `built-in`, `dynamic` or `static`."""
    capacity: int | None
    """Positions allocated beforehand; None for a cache that grows."""

    def fill(self, contexts: Sequence[int]) -> None:
        """Prefill, so that `rewind` can go to each of these contexts."""
        ...

    def rewind(self, context: int) -> None:
        """Let the cache hold the first `context` tokens of the prompt."""
        ...

    def step_with(self, context: int) -> Any:
        """Decode the token after `context` held ones and choose the next; the logits [B, V]."""
        ...

    def step_without(self, context: int) -> Any:
        """The same without a cache: one forward over `context` + 1 tokens."""
        ...

    def logits(self, result: Any) -> NDArray[np.float32]:
        """What a step gave, as an array [B, V]."""
        ...

    def buffers(self) -> list[Buffer]:
        """The live arrays of the cache that was rewound last."""
        ...

    def used_bytes(self) -> int:
        """The bytes of the positions it holds, read from those arrays."""
        ...


class ReferenceSubject:
    """The built-in decoder: one cache for all contexts. Its first S positions are those of a prefill of S tokens."""

    kind = "built-in"

    def __init__(self, model: Reference, ids_BT: Ids) -> None:
        self.model, self._ids_BT = model, ids_BT
        self.capacity = ids_BT.shape[1]
        self.cache = model.new_cache(len(ids_BT), self.capacity)

    def fill(self, contexts: Sequence[int]) -> None:
        """In chunks."""
        self.cache.reset()
        for start in range(0, max(contexts), PREFILL_CHUNK):
            prefill(self.model, self._ids_BT[:, start : min(start + PREFILL_CHUNK, max(contexts))], self.cache)

    def rewind(self, context: int) -> None:
        """What lies behind the cursor stays written, so the cursor may go forward again."""
        self.cache.reset()
        self.cache.advance(context)

    def step_with(self, context: int) -> Any:
        """One position through the cache."""
        logits_BV = decode_one_token(self.model, self._ids_BT[:, context], self.cache)
        logits_BV.argmax(axis=-1)
        return logits_BV

    def step_without(self, context: int) -> Any:
        """All positions through the same decoder; the head runs for the last one alone, as with a cache."""
        x_BTD = decoder(self.model, self._ids_BT[:, : context + 1], None, no_mark)
        logits_BV = head(self.model, x_BTD[:, -1], no_mark)
        logits_BV.argmax(axis=-1)
        return logits_BV

    def logits(self, result: Any) -> NDArray[np.float32]:
        """They are an array already."""
        return np.asarray(result)

    def buffers(self) -> list[Buffer]:
        """Keys and values of all layers are one array each, whatever they hold."""
        return [Buffer(each.ctypes.data, each.nbytes) for each in (self.cache.keys, self.cache.values)]

    def used_bytes(self) -> int:
        """As the cache says."""
        return self.cache.bytes_used()


class TransformersSubject:
    """A transformers model with its own caches: a dynamic one for each context, or one static one for all."""

    def __init__(self, model: Any, ids_BT: Ids, kind: str) -> None:
        import torch

        self.kind = kind
        self.model = model
        self._ids_BT = torch.as_tensor(ids_BT, device=model.device)
        self.capacity = ids_BT.shape[1] if kind == "static" else None
        self._caches: dict[int, Any] = {}
        self._at = 0

    def fill(self, contexts: Sequence[int]) -> None:
        """A static cache holds the longest context; each dynamic one its own."""
        import torch
        from transformers import DynamicCache, StaticCache

        with torch.inference_mode():
            if self.kind == "static":
                cache: Any = StaticCache(config=self.model.config, max_cache_len=self.capacity or 1)
                self._forward(0, max(contexts), cache)
                self._caches = dict.fromkeys(contexts, cache)
            else:
                self._caches = {context: DynamicCache(config=self.model.config) for context in contexts}
                for context, cache in self._caches.items():
                    self._forward(0, context, cache)
        for cache in self._caches.values():
            if not all(isinstance(getattr(layer, "keys", None), torch.Tensor) for layer in cache.layers):
                raise InputError(f"{type(self.model).__name__} has layers whose state cannot be put back: no KV cache")

    def rewind(self, context: int) -> None:
        """The cursor of a static cache is one number a layer; a dynamic cache forgets what it has too much."""
        import torch

        self._at, cache = context, self._caches[context]
        with torch.inference_mode():
            if self.kind == "static":
                for layer in cache.layers:
                    layer.cumulative_length.fill_(context)
                    if layer.is_sliding:  # counts a second time, on the host
                        layer.cumulative_length_int = context
            else:
                cache.crop(-max(0, int(cache.get_seq_length()) - context))

    def step_with(self, context: int) -> Any:
        """One position through the cache; the choice is read back, so that a device has finished."""
        return self._chosen(self._forward(context, context + 1, self._caches[context]))

    def step_without(self, context: int) -> Any:
        """All positions, logits of the last one alone, as with a cache."""
        return self._chosen(self._forward(0, context + 1, None))

    def logits(self, result: Any) -> NDArray[np.float32]:
        """On the host, in float32."""
        return np.asarray(result.float().cpu().numpy())

    def buffers(self) -> list[Buffer]:
        """Keys and values of each layer."""
        return [Buffer(t.data_ptr(), t.numel() * t.element_size()) for t in self._tensors()]

    def used_bytes(self) -> int:
        """A static cache's share that is filled."""
        held = sum(buffer.num_bytes for buffer in self.buffers())
        return held if self.capacity is None else held // self.capacity * int(self._caches[self._at].get_seq_length())

    def _tensors(self) -> list[Any]:
        return [t for layer in self._caches[self._at].layers for t in (layer.keys, layer.values)]

    def _forward(self, start: int, stop: int, cache: Any) -> Any:
        import torch

        with torch.inference_mode():
            ids_BT = self._ids_BT[:, start:stop]
            return self.model(ids_BT, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1).logits[
                :, -1
            ]

    @staticmethod
    def _chosen(logits_BV: Any) -> Any:
        logits_BV.argmax(-1).tolist()
        return logits_BV


def subject_of(opened: Opened, ids_BT: Ids, kind: str) -> Subject:
    """The subject for an opened model.

    Args:
        opened: the model.
        ids_BT: the prompt, with the token that is decoded last.
        kind: `dynamic` or `static`, of a transformers model's cache.

    Raises:
        InputError: the model's cache cannot be put back, or would not fit into memory.
    """
    if opened.backend == "numpy":
        return ReferenceSubject(opened.model, ids_BT)
    if opened.model.config.is_encoder_decoder:
        raise InputError(f"{opened.name} is an encoder-decoder model; give one that decodes from its own cache alone")
    text = opened.model.config.get_text_config(decoder=True)
    window = getattr(text, "sliding_window", None) if _slides(text) else None
    if window is not None and window <= ids_BT.shape[1]:
        raise InputError(
            f"{opened.name} has layers with a sliding window of {window} positions, which forget what a cursor would "
            f"have to come back to; give --context up to {window - 2}"
        )
    return TransformersSubject(opened.model, ids_BT, kind)


def _slides(text: Any) -> bool:
    kinds = getattr(text, "layer_types", None)
    return True if kinds is None else "sliding_attention" in kinds


def untouched(cache: KVCache) -> None:
    """Give a cache new buffers on pages that nobody has written yet, as an allocation without filling would.

    The cache itself fills its buffers when it is made, so that no page is first touched within a measured step.
    """
    import mmap

    for name in ("keys", "values"):
        filled = getattr(cache, name)
        pages = mmap.mmap(-1, filled.nbytes)
        setattr(cache, name, np.frombuffer(pages, np.float32).reshape(filled.shape))
