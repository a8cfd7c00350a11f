"""The NumPy decoder as a target: `mini`, and any other Llama-family folder."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep._words import plural
from perstep.data import mini_path
from perstep.errors import InputError, InvalidMeasurement
from perstep.measure import no_mark
from perstep.targets.loop_target import LoopTarget
from perstep.targets.reference.load import load, stored_bytes
from perstep.targets.reference.loop import ReferenceLoop
from perstep.targets.reference.memory import refuse_if_too_large
from perstep.targets.reference.model import Reference, decode_one_token, decoder, forward, head, prefill
from perstep.targets.reference.parts import BOUNDARIES
from perstep.targets.reference.sample import Sampler
from perstep.targets.target import BUILT_IN, Buffer, CachedSteps, CacheKind, Ids, Logits, Target, Work
from perstep.theory import REFERENCE, Backend, bytes_each

BUILT_IN_CACHE = CacheKind("built-in", False, REFERENCE, REFERENCE)
_STAGES = {"embed": "forward", "sample": "sample", "stop": "stop"}
PREFILL_CHUNK = 512
"""Positions prefilled at once: the scores of a chunk take batch x heads x 512 x context numbers."""


@dataclass(eq=False)
class ReferenceTarget(LoopTarget[ReferenceLoop]):
    """A decoder in NumPy; its `model` is a `Reference`."""

    backend = "numpy"
    library = "numpy"
    boundaries = BOUNDARIES
    stages = _STAGES
    model: Reference

    @property
    def config(self) -> dict[str, Json]:
        """As the folder's config.json has it."""
        c = self.model.config
        return {
            "model_type": c.model_type,
            "vocab_size": c.vocab,
            "hidden_size": c.hidden,
            "intermediate_size": c.intermediate,
            "num_hidden_layers": c.num_layers,
            "num_attention_heads": c.heads,
            "num_key_value_heads": c.kv_heads,
            "head_dim": c.head_dim,
            "max_position_embeddings": c.max_positions,
            "attention_bias": c.out_bias,
            "mlp_bias": c.mlp_bias,
            "tie_word_embeddings": c.tied,
        }

    @property
    def config_hash(self) -> str:
        """Of the folder's config.json."""
        return self.model.config_hash

    @property
    def theory(self) -> Backend:
        """Every operator of the decoder is known."""
        return REFERENCE

    def encode(self, text: str) -> list[int]:
        """With the folder's tokenizer."""
        return self.model.encode(text)

    def check_memory(self, prompt_tokens: int, new_tokens: int, batch: int) -> None:
        """By the scores of the prefill."""
        refuse_if_too_large(
            f"a prefill of {batch} x {plural(prompt_tokens, 'token')}", self.scores_bytes(prompt_tokens, batch)
        )

    def scores_bytes(self, tokens: int, batch: int) -> int:
        """They are written down."""
        config = self.model.config
        return int(batch * config.heads * tokens**2 * bytes_each(config.dtype))

    def check_state(self, work: Work) -> None:
        """The cache holds what the trace leaves in it."""
        length, expected = self.loop_of(work).cache.current_length(), work.positions
        if length != expected:
            raise InvalidMeasurement(
                f"the KV cache holds {plural(length, 'position')} after the last pass, not {expected}"
            )

    def logits(self, ids_T: Ids) -> NDArray[np.float64]:
        """In float64."""
        return np.asarray(forward(self.model, ids_T[None])[0], np.float64)

    def cache_kind(self, asked: str | None) -> CacheKind:
        """There is one."""
        if asked is not None:
            raise InputError(f"--cache {asked} is of transformers models; the NumPy decoder has a cache of its own")
        return BUILT_IN_CACHE

    def cached_steps(self, ids_BT: Ids, kind: CacheKind) -> "ReferenceSteps":
        """With one cache."""
        return ReferenceSteps(self.model, ids_BT)

    def open_loop(self, batch: int, positions: int, sampler: Sampler) -> ReferenceLoop:
        """With a cache of this number of positions."""
        return ReferenceLoop(self.model, batch, positions, sampler)


class ReferenceSteps(CachedSteps):
    """One cache for all contexts. Its first S positions are those of a prefill of S tokens."""

    def __init__(self, model: Reference, ids_BT: Ids) -> None:
        self._model, self._ids_BT = model, ids_BT
        self.capacity = ids_BT.shape[1]
        self.kv = model.new_cache(len(ids_BT), self.capacity)

    def fill(self, contexts: Sequence[int]) -> None:
        """In chunks."""
        self.kv.reset()
        for start in range(0, max(contexts), PREFILL_CHUNK):
            prefill(self._model, self._ids_BT[:, start : min(start + PREFILL_CHUNK, max(contexts))], self.kv)

    def rewind(self, context: int) -> None:
        """What lies behind the cursor stays written, so the cursor may go forward again."""
        self.kv.reset()
        self.kv.advance(context)

    def step_with(self, context: int) -> Logits:
        """One position through the cache."""
        logits_BV = decode_one_token(self._model, self._ids_BT[:, context], self.kv)
        logits_BV.argmax(axis=-1)
        return logits_BV

    def step_without(self, context: int) -> Logits:
        """All positions through the same decoder; the head runs for the last one alone, as with a cache."""
        x_BTD = decoder(self._model, self._ids_BT[:, : context + 1], None, no_mark)
        logits_BV = head(self._model, x_BTD[:, -1], no_mark)
        logits_BV.argmax(axis=-1)
        return logits_BV

    def logits(self, result: Logits) -> NDArray[np.float32]:
        """They are an array already."""
        return np.asarray(result)

    def buffers(self) -> list[Buffer]:
        """Keys and values of all layers are one array each, whatever they hold."""
        return [Buffer(each.ctypes.data, each.nbytes) for each in (self.kv.keys, self.kv.values)]

    def used_bytes(self) -> int:
        """As the cache says."""
        return self.kv.bytes_used()

    def held_at(self, context: int) -> Ids:
        """Keys lie one position a column, values one position a row."""
        runs = []
        keys, values = self.kv.keys, self.kv.values
        for array, used in ((keys, context * keys.itemsize), (values, context * values.shape[-1] * values.itemsize)):
            stride = array.strides[-2] if array is keys else array.strides[-3]
            starts = array.ctypes.data + stride * np.arange(array.nbytes // stride, dtype=np.int64)
            runs.append(np.stack([starts, starts + used], axis=1))
        return np.concatenate(runs)

    def on_new_pages(self) -> None:
        """As an allocation without filling would give them."""
        for name in ("keys", "values"):
            filled = getattr(self.kv, name)
            pages = mmap.mmap(-1, filled.nbytes)
            setattr(self.kv, name, np.frombuffer(pages, np.float32).reshape(filled.shape))


def open_model(name: str, *, arch: str | None, layers: int | None, dtype: str | None, device: str, seed: int) -> Target:
    """`mini`, or a folder with config.json and safetensors; see `targets.open_model`."""
    if arch is not None:
        raise InputError("--arch builds a transformers model; leave out --backend numpy")
    if device != "cpu":
        raise InputError(f"--device {device}: the NumPy decoder runs on the cpu; give --backend torch")
    model = load(_folder(name))
    if dtype not in {None, model.config.dtype}:
        raise InputError(f"--dtype {dtype}: the NumPy decoder runs {name} in {model.config.dtype}; leave it out")
    shown = name if name == BUILT_IN else Path(name).resolve().name
    return ReferenceTarget(shown, model, False, describe(shown, model), name)


def weight_bytes(name: str, *, arch: str | None, layers: int | None, dtype: str | None) -> int:
    """What the weights take in memory, by shapes."""
    return stored_bytes(mini_path() if name == BUILT_IN else Path(name))


def _folder(name: str) -> Path:
    if name == BUILT_IN:
        return mini_path()
    if not Path(name).is_dir():
        raise InputError(
            f"no model {name!r}: it is not `{BUILT_IN}`, and not a folder with config.json and model.safetensors"
        )
    return Path(name)


def describe(name: str, model: Reference) -> dict[str, Json]:
    """A decoder's shapes for a manifest."""
    c = model.config
    return {
        "name": name,
        "backend": "numpy",
        "model_type": c.model_type,
        "num_layers": c.num_layers,
        "hidden": c.hidden,
        "heads": c.heads,
        "kv_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate": c.intermediate,
        "vocab": c.vocab,
        "max_positions": c.max_positions,
        "tied_head": c.tied,
        "dtype": c.dtype,
        "num_parameters": model.num_parameters,
        "weight_bytes": model.weight_bytes,
    }
