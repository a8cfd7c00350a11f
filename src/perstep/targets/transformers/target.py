"""A transformers model as a target: unchanged `generate` calls, whose steps an `Instrument` tells apart.

A pass makes a call twice: the first, of two tokens, is not recorded. Both wrap the model alike; the second replays the
tokens (`replay.py`). What a device does is seen in profiled calls of their own, and so are syncs (law "clocks are never
mixed").
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep._words import plural
from perstep.data import mini_path
from perstep.errors import InputError, InvalidMeasurement
from perstep.measure import Clock, Recorder
from perstep.measure.device_work import Launches, TraceWork
from perstep.targets.reference.memory import refuse_if_too_large
from perstep.targets.reference.sample import GREEDY, Sampler
from perstep.targets.reference.tokenizer import FolderTokenizer
from perstep.targets.target import (
    BUILT_IN,
    PLAIN,
    STAGES,
    AnyRecorder,
    Argument,
    Buffer,
    CachedSteps,
    CacheKind,
    EitherModel,
    Ids,
    Logits,
    Target,
    Work,
    shown_name,
)
from perstep.targets.transformers import facts
from perstep.targets.transformers._loop import Marks
from perstep.targets.transformers._silence import silent
from perstep.targets.transformers.blocks import find_blocks
from perstep.targets.transformers.cuda import DeviceRecorder, device_of
from perstep.targets.transformers.device_check import refuse_if_no_room, refuse_if_spread
from perstep.targets.transformers.device_profile import KinetoProfiler, RangeRecorder, profile_steps
from perstep.targets.transformers.experts import Routers, find_routers
from perstep.targets.transformers.images import ImagePrompt, image_prompt, takes_images
from perstep.targets.transformers.instrument import DETAILS, Detail, Instrument
from perstep.targets.transformers.presets import (
    RANDOM_WEIGHTS,
    arch_bytes,
    arch_layers,
    build,
    encode,
    load,
    presets,
    stored_bytes,
)
from perstep.targets.transformers.replay import GenerateTrace, Replay, generators_kept, record
from perstep.targets.transformers.stages import StageInstrument
from perstep.targets.transformers.syncs import SyncRecorder, Syncs
from perstep.targets.transformers.weights import unknown_arithmetic
from perstep.targets.transformers.words import BOUNDARIES
from perstep.theory import TRANSFORMERS, TRANSFORMERS_EAGER, TRANSFORMERS_STATIC, Backend, kv_bytes, shape_of

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
AnyCache = Any
"""A dynamic or a static cache of transformers, whose layers differ in what they have."""

CACHES = {
    "dynamic": CacheKind("dynamic", True, TRANSFORMERS, TRANSFORMERS),
    "static": CacheKind("static", False, TRANSFORMERS_STATIC, TRANSFORMERS),
}


@dataclass(eq=False)
class TransformersTarget(Target):
    """Its `model` is a transformers model."""

    backend = "torch"
    library = "torch"
    boundaries = BOUNDARIES
    discarded = "a generate call of two tokens after each switch of arms"
    cache = "dynamic, a new one each call"
    details = ("modules", *(detail for detail in DETAILS if detail != "modules"))
    _generators: "torch.Tensor | None" = field(default=None, init=False, repr=False)
    _launched: list[Launches] = field(default_factory=list, init=False, repr=False)
    _kept: dict[str, tuple[object, object]] = field(default_factory=dict, init=False, repr=False)

    @property
    def config(self) -> dict[str, Json]:
        """With every default written out."""
        return dict(json.loads(self.model.config.to_json_string(use_diff=False)))

    @property
    def config_hash(self) -> str:
        """Apart from where it was loaded from and what wrote it."""
        return facts.config_hash(self.model)

    @property
    def theory(self) -> Backend:
        """By how attention is computed."""
        return TRANSFORMERS_EAGER if self.facts.get("attn_implementation") == "eager" else TRANSFORMERS

    @property
    def unknown_arithmetic(self) -> str:
        """By the layers that are there, quantised ones among them."""
        return unknown_arithmetic(self.model)

    @property
    def positions(self) -> int | None:
        """With an encoder the prompt is no part of what the decoder holds."""
        return None if self.model.config.is_encoder_decoder else super().positions

    @property
    def num_blocks(self) -> int:
        """Those that can be skipped."""
        return len(find_blocks(self.model).blocks)

    def encode(self, text: str) -> list[int]:
        """With the tokenizer of where it was loaded from."""
        if self.source == BUILT_IN:
            return FolderTokenizer(mini_path()).encode(text)
        if self.source is None:
            raise InputError(f"{self.name} has random weights and no tokenizer; give --prompt-tokens in place of text")
        return encode(self.source, text)

    def special_ids(self) -> Sequence[int]:
        """Those that the configuration gives a meaning."""
        return facts.special_ids(self.model)

    def check_memory(self, prompt_tokens: int, new_tokens: int, batch: int) -> None:
        """By the hidden states of the prefill and the logits of a step; on a device the cache as well."""
        dtype = self.model.dtype
        width = prompt_tokens * (self.facts["hidden"] or 1) + (self.facts["vocab"] or 1)
        needed, what = batch * width * dtype.itemsize, f"a prefill of {batch} x {plural(prompt_tokens, 'token')}"
        if self.device == "cpu":
            refuse_if_too_large(what, needed)
            return
        shape, spelt = shape_of(self.config), str(dtype).removeprefix("torch.")
        if shape is not None:
            needed += kv_bytes(shape, prompt_tokens + new_tokens - 1, batch=batch, dtype=spelt).used
        what = f"{what} and the cache of {new_tokens} more"
        refuse_if_no_room(what, needed, self.device, "give a smaller --batch or --prompt-tokens")

    def record(
        self,
        prompt_BT: Ids,
        new_tokens: int,
        sampler: Sampler = GREEDY,
        *,
        extra: Mapping[str, Argument] | None = None,
        vision_tokens: int = 0,
    ) -> Work:
        """What `generate` chooses."""
        import torch

        refuse_if_spread(self.model)
        inputs, options = self._inputs(prompt_BT, extra or {}), generate_options(self.model, sampler)
        with silent():
            try:
                trace = record(self.model, inputs, new_tokens, seed=sampler.seed, **options)
            except ValueError as error:
                raise InputError(f"generate refuses this model: {str(error).splitlines()[0]}") from error
        self._generators = torch.get_rng_state()
        return Work(prompt_BT, trace, sampler, extra or {}, vision_tokens)

    def replay(self, work: Work, recorder: AnyRecorder, detail: str | None, turn: int | None = None) -> int:
        """A generate call."""
        what = f"instrument {detail} {turn}"
        instrument = self._keep(what, recorder, lambda: self._instrument(recorder, detail, turn))
        with silent(), instrument:
            with generators_kept(self.model):
                self._generate(work, min(2, work.new_tokens))
            recorder.clear()
            return self._replay(work)

    def check_state(self, work: Work) -> None:
        """The random generator of torch is as before."""
        import torch

        if not torch.equal(cast("torch.Tensor", self._generators), torch.get_rng_state()):
            raise InvalidMeasurement("torch's random generator is not as it was before measuring")

    def logits(self, ids_T: Ids) -> NDArray[np.float64]:
        """On the host."""
        import torch

        with torch.inference_mode():
            ids = torch.as_tensor(ids_T[None], device=self.model.device)
            logits_TV = self.model(input_ids=ids, use_cache=False).logits[0]
            return np.asarray(logits_TV.double().cpu().numpy())

    def cache_kind(self, asked: str | None) -> CacheKind:
        """Dynamic, unless asked otherwise."""
        return CACHES[asked or "dynamic"]

    def cached_steps(self, ids_BT: Ids, kind: CacheKind) -> "TransformersSteps":
        """With transformers' own caches."""
        if self.model.config.is_encoder_decoder:
            raise InputError(f"{self.name} is an encoder-decoder model; give one that decodes from its own cache alone")
        text = self.model.config.get_text_config(decoder=True)
        kinds = getattr(text, "layer_types", None)
        slides = kinds is None or "sliding_attention" in kinds
        window = getattr(text, "sliding_window", None) if slides else None
        if window is not None and window <= ids_BT.shape[1]:
            raise InputError(
                f"{self.name} has layers with a sliding window of {plural(window, 'position')}, so an earlier position "
                f"cannot be restored; give --context up to {window - 2}"
            )
        return TransformersSteps(self.model, ids_BT, kind)

    def limit_threads(self, threads: int) -> None:
        """Torch's own."""
        import torch

        torch.set_num_threads(threads)

    def settings(self, sampler: Sampler, detail: str | None) -> dict[str, Json]:
        """The arguments of generate, what an Instrument notes, and what torch may do with matrices on a device."""
        from torch import backends

        options = generate_options(self.model, sampler)
        notes = Instrument(self.model, Recorder(), cast("Detail", detail)).notes
        on_device = self.model.device.type == "cuda"
        return {
            "generate": {name: value for name, value in options.items() if name != "pad_token_id"},
            "notes": notes + ([RANDOM_WEIGHTS] if self.random_weights else []),
            "tf32": backends.cuda.matmul.allow_tf32 if on_device else None,
            "cudnn_benchmark": backends.cudnn.benchmark if on_device else None,
        }

    def syncs(self, work: Work, detail: str | None) -> Mapping[str, Syncs]:
        """In one replay."""
        recorder = SyncRecorder(self.model.device.type)
        with silent(), recorder, self._instrument(recorder, detail):
            self._replay(work)
        return {kind: recorder.syncs(kind) for kind in recorder.kinds}

    def stage_clock(self, clock: Clock) -> Clock:
        """On CUDA, so that an interval holds the device's work and not only its launch; the wait is part of it."""
        return _DeviceClock(clock) if self.model.device.type == "cuda" else clock

    def stream_recorder(self, clock: Clock) -> DeviceRecorder | None:
        """With events on the stream."""
        device = device_of(self.model)
        return None if device is None else DeviceRecorder(device, clock)

    def profile(self, work: Work, detail: str | None) -> tuple[TraceWork, int] | None:
        """By torch's profiler; kernels are warm, since the round's other passes have run them."""
        if device_of(self.model) is None:
            return None
        recorder, differing = RangeRecorder(), 0

        def call() -> None:
            nonlocal differing
            differing = self._replay(work)

        with silent(), self._instrument(recorder, detail):
            seen = profile_steps(KinetoProfiler(str(self.model.device)), recorder, call, self._launched)
        # A graph is captured after the first steps: what they launched one by one tells its replays apart later.
        self._launched = self._launched or seen.launched
        if not seen.counts.kernels:
            raise InputError(
                "torch's profiler sees no kernel on this device, so none can be attributed: give --device-detail stream"
            )
        return seen, differing

    @property
    def takes_images(self) -> bool:
        """By its configuration."""
        return takes_images(self.model)

    def with_images(self, text_BT: Ids, num_images: int, image_size: int | None, *, seed: int) -> ImagePrompt:
        """Of random pixels."""
        return image_prompt(self.model, text_BT, num_images, image_size, seed=seed)

    def find_routers(self) -> Routers:
        """Those whose `top_k` decides."""
        return find_routers(self.model)

    def _instrument(self, recorder: Marks, detail: str | None, turn: int | None = None) -> Instrument:
        if detail == STAGES:
            return StageInstrument(self.model, recorder)
        if detail == PLAIN:
            return Instrument(self.model, recorder, plain=True)
        return Instrument(self.model, recorder, cast("Detail", detail), turn=turn)

    def _keep(self, what: str, of: object, make: Callable[[], T]) -> T:
        """What was made for the same object last time: making it anew takes 0.7 ms before each pass."""
        kept = self._kept.get(what)
        if kept is None or kept[0] is not of:
            kept = self._kept[what] = of, make()
        return cast("T", kept[1])

    def _replay(self, work: Work) -> int:
        trace = cast("GenerateTrace", work.trace)
        replay = self._keep("replay", trace, lambda: Replay(self.model, trace))
        replay.clear()
        with replay:
            self._generate(work, work.new_tokens)
        [call] = replay.calls
        if call.forwards != work.new_tokens:
            raise InvalidMeasurement(
                f"a replay of {plural(work.new_tokens, 'token')} made {plural(call.forwards, 'forward')}; one each was "
                "expected"
            )
        return call.differing

    def _generate(self, work: Work, new_tokens: int) -> None:
        inputs, options = self._inputs(work.prompt_BT, work.extra), generate_options(self.model, work.sampler)
        self.model.generate(**inputs, max_new_tokens=new_tokens, **options)

    def _inputs(self, prompt_BT: Ids, extra: Mapping[str, Argument]) -> dict[str, Argument]:
        import torch

        ids = torch.as_tensor(prompt_BT, device=self.model.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **extra}


def generate_options(model: EitherModel, sampler: Sampler) -> dict[str, Argument]:
    """The arguments of generate for a way to choose tokens; nothing of the model's own defaults for it is left.

    Args:
        model: whose generate.
        sampler: how tokens are chosen.
    """
    pad = model.generation_config.pad_token_id
    # The padding is given, so that generate does not warn of choosing one itself.
    options: dict[str, Argument] = {"use_cache": True, "pad_token_id": 0 if pad is None else pad}
    given = (model.generation_config.decoder_start_token_id, model.generation_config.bos_token_id)
    if model.config.is_encoder_decoder and given == (None, None):  # a config.json may leave it out
        options["decoder_start_token_id"] = options["pad_token_id"]  # as T5 begins
    if sampler.temperature == 0:
        return {**options, "do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    drawn = {"temperature": sampler.temperature, "top_k": sampler.top_k, "top_p": sampler.top_p}
    return {**options, "do_sample": True, **drawn}


class _DeviceClock:
    """A host clock that is read once the device has done everything queued before."""

    def __init__(self, clock: Clock) -> None:
        import torch

        self._now, self._synchronize = clock.now, torch.cuda.synchronize

    def now(self) -> int:
        """Nanoseconds of the host."""
        self._synchronize()
        return self._now()


class TransformersSteps(CachedSteps):
    """A dynamic cache for each context, or one static one for all."""

    def __init__(self, model: EitherModel, ids_BT: Ids, kind: CacheKind) -> None:
        import torch

        self._model, self._grows = model, kind.grows
        self._ids_BT = torch.as_tensor(ids_BT, device=model.device)
        self.capacity = None if kind.grows else ids_BT.shape[1]
        self._caches: dict[int, AnyCache] = {}
        self._at = 0

    def fill(self, contexts: Sequence[int]) -> None:
        """A static cache holds the longest context; each dynamic one its own."""
        import torch
        from transformers import DynamicCache, StaticCache

        with torch.inference_mode():
            if self._grows:
                self._caches = {context: DynamicCache(config=self._model.config) for context in contexts}
                for context, cache in self._caches.items():
                    self._forward(0, context, cache)
            else:
                static: AnyCache = StaticCache(config=self._model.config, max_cache_len=self.capacity or 1)
                self._forward(0, max(contexts), static)
                self._caches = dict.fromkeys(contexts, static)
        for cache in self._caches.values():
            if not all(isinstance(getattr(layer, "keys", None), torch.Tensor) for layer in cache.layers):
                raise InputError(f"{type(self._model).__name__} has layers whose state cannot be restored: no KV cache")

    def rewind(self, context: int) -> None:
        """The cursor of a static cache is one number a layer; a dynamic cache forgets what it has too much."""
        import torch

        self._at, cache = context, self._caches[context]
        with torch.inference_mode():
            if self._grows:
                cache.crop(-max(0, int(cache.get_seq_length()) - context))
                return
            for layer in cache.layers:
                layer.cumulative_length.fill_(context)
                if layer.is_sliding:  # counts a second time, on the host
                    layer.cumulative_length_int = context

    def step_with(self, context: int) -> Logits:
        """One position through the cache; the choice is read back, so that a device has finished."""
        return self._chosen(self._forward(context, context + 1, self._caches[context]))

    def step_without(self, context: int) -> Logits:
        """All positions, logits of the last one alone, as with a cache."""
        return self._chosen(self._forward(0, context + 1, None))

    def logits(self, result: Logits) -> NDArray[np.float32]:
        """On the host, in float32."""
        return np.asarray(result.float().cpu().numpy())

    def buffers(self) -> list[Buffer]:
        """Keys and values of each layer."""
        tensors = [t for layer in self._caches[self._at].layers for t in (layer.keys, layer.values)]
        return [Buffer(t.data_ptr(), t.numel() * t.element_size()) for t in tensors]

    def used_bytes(self) -> int:
        """A static cache's share that is filled."""
        used = sum(buffer.num_bytes for buffer in self.buffers())
        return used if self.capacity is None else used // self.capacity * int(self._caches[self._at].get_seq_length())

    def _forward(self, start: int, stop: int, cache: AnyCache | None) -> Logits:
        import torch

        with torch.inference_mode():
            ids_BT = self._ids_BT[:, start:stop]
            output = self._model(ids_BT, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1)
            return output.logits[:, -1]

    @staticmethod
    def _chosen(logits_BV: Logits) -> Logits:
        logits_BV.argmax(-1).tolist()
        return logits_BV


def open_model(name: str, *, arch: str | None, layers: int | None, dtype: str | None, device: str, seed: int) -> Target:
    """A stored model, a hub id, or an architecture with random weights; see `targets.open_model`."""
    total = None
    if arch is not None:
        model = build(arch, layers=layers, dtype=dtype or "float32", seed=seed, device=device)
        total = layers if layers is None else arch_layers(arch)
        shown = shown_name(arch if arch in presets() else _folder_name(arch), layers, total)
    else:
        model = load(mini_path() if name == BUILT_IN else name, dtype=dtype)
        shown = _folder_name(name) if Path(name).is_dir() else name
        model = facts.to_device(model, device)
    described = {**facts.describe(shown, model), **({} if total == layers else {"total_layers": total})}
    return TransformersTarget(shown, model, arch is not None, described, None if arch is not None else name)


def weight_bytes(name: str, *, arch: str | None, layers: int | None, dtype: str | None) -> int:
    """What the weights take in memory, by shapes."""
    if arch is not None:
        return arch_bytes(arch, layers=layers, dtype=dtype or "float32")
    return stored_bytes(mini_path() if name == BUILT_IN else name, dtype=dtype)


def _folder_name(path: str) -> str:
    resolved = Path(path).resolve()
    return resolved.parent.name if resolved.name == "config.json" else resolved.name
