"""The parts inside a forward: its modules, by type, and the functions between them.

Which module is what is read from its class and its children, so that a new
architecture is covered without a line here; the outermost module that is
recognised makes the part. A module that nothing matches is looked into, and what
is left over is `forward.other`. Compiled modules are never touched.
"""

import re
import sys
from collections.abc import Iterator, MutableMapping
from threading import get_ident
from types import ModuleType
from typing import TYPE_CHECKING

from perstep.targets.transformers import words
from perstep.targets.transformers._loop import Loop
from perstep.targets.transformers._phases import opaque, timed
from perstep.targets.transformers._wrap import Function, Make, Wraps
from perstep.targets.transformers.protocols import Cache, Model, Parts

if TYPE_CHECKING:
    from torch.nn import Module

_VISION = re.compile(r"Vision|MultiModalProjector|Connector$|PatchMerger$|Projector$|Molmo2Adapter$")
_ROTARY = re.compile(r"Rotary|RoPE|Rope")
_EMBED = re.compile(r"Embeddings?$")
_NORM = re.compile(r"Norm$|RMSNorm|LayerNorm")
_ATTENTION = re.compile(r"Attention\d*$|Attn$")
_MIXER = re.compile(r"Mixer$|DeltaNet$|ShortConv$|RecurrentBlock$|SSM$|RWKV|Rwkv.*FeedForward$")
_MOE = re.compile(r"MoE$|Moe$|MoeBlock$|MoEBlock$|MoeMLP$|MoeMlp$")
_MLP = re.compile(r"MLP$|Mlp$|FeedForward$|FFN$|ActDense$|GatedDense$")
_HEADS = ("lm_head", "output", "head", "unembed", "embed_out")
_HALVES_OF_AN_MLP = ("fc1", "fc2", "fc_in", "fc_out")

_MASKS = (
    "create_causal_mask",
    "create_sliding_window_causal_mask",
    "create_chunked_causal_mask",
    "create_recurrent_attention_mask",
    "create_bidirectional_mask",
    "create_masks_for_generate",
    "_prepare_4d_causal_attention_mask",
    "_prepare_4d_causal_attention_mask_for_sdpa",
)
_ROPE_FUNCTION = re.compile(r"^apply_(\w*_)?(rotary|rope)\w*$")
_EAGER = "eager_attention_forward"


def classify(model: Model) -> "Iterator[tuple[Module, str, int | None]]":
    """The modules of a model that are parts: (module, part, layer counted from 0 or None).

    The encoder of an encoder-decoder model is left out: it runs once, as `encoder`.
    """
    lm_head = _head(model)
    skip = model.get_encoder() if getattr(getattr(model, "config", None), "is_encoder_decoder", False) else None
    seen = {id(skip)} if skip is not None else set()
    yield from _walk(model, lm_head, None, seen)


def _head(model: Model) -> "Module | None":
    """The projection to the vocabulary; of a module that is none of transformers' by its name."""
    if hasattr(model, "get_output_embeddings"):
        return model.get_output_embeddings()
    return next((module for name, module in model.named_children() if name in _HEADS), None)


def _walk(
    parent: Parts, lm_head: "Module | None", layer: int | None, seen: set[int]
) -> "Iterator[tuple[Module, str, int | None]]":
    from torch.nn import ModuleList

    for name, module in parent.named_children():
        if id(module) in seen:
            continue
        seen.add(id(module))
        index = int(name) if layer is None and isinstance(parent, ModuleList) else layer
        part = words.LM_HEAD if module is lm_head else _part_of(name, module)
        if part is None:
            yield from _walk(module, lm_head, index, seen)
        else:
            yield module, part, index


def _part_of(name: str, module: "Module") -> str | None:
    from torch.nn import Linear

    kind = type(module).__name__
    children = dict(module.named_children())
    if _VISION.search(kind):
        return words.VISION
    if _ROTARY.search(kind):
        return words.ATTN_ROPE
    if _EMBED.search(kind):
        return words.EMBED
    if _NORM.search(kind):
        return words.NORM
    if "experts" in children or _MOE.search(kind):
        return words.MOE
    if _ATTENTION.search(kind):
        return None if _is_sublayer(children) else words.ATTN
    if _MIXER.search(kind):
        return words.MIXER
    if _MLP.search(kind) or (isinstance(module, Linear) and name in _HALVES_OF_AN_MLP):
        return words.MLP
    return None


def _is_sublayer(children: "dict[str, Module]") -> bool:
    """Whether a module is an attention together with its norm, as in T5: then its children are the parts."""
    kinds = [type(child).__name__ for child in children.values()]
    return any(map(_ATTENTION.search, kinds)) and any(map(_NORM.search, kinds))


def wrap_inside(wraps: Wraps, model: Model, loop: Loop, *, layers: bool) -> None:
    """Wrap the modules of any model, and of one of transformers' the functions that it calls between them."""
    wrap_modules(wraps, model, loop, layers=layers)
    if hasattr(model, "config") and _modeling_modules(model):
        wrap_functions(wraps, model, loop)


def wrap_modules(wraps: Wraps, model: Model, loop: Loop, *, layers: bool) -> None:
    """Wrap the forward of every module that is a part.

    Args:
        wraps: takes the wrappers.
        model: the model.
        loop: the state of the call.
        layers: name the parts by layer, as in `attn/3`.
    """
    for module, part, layer in classify(model):
        if part == words.VISION:
            make = opaque(loop, part)
        elif layers and layer is not None:
            make = _timed_at_layer(loop, words.at_layer(part, layer), f"/{layer}")
        else:
            make = timed(loop, part)
        # The hooks of a module run around its forward, and belong to its part.
        hooked = module._forward_hooks or module._forward_pre_hooks
        wraps.method(module, "_call_impl" if hooked else "forward", make)


def _timed_at_layer(loop: Loop, part: str, suffix: str) -> Make:
    mark, this_thread = loop.mark, get_ident

    def make(original: Function) -> Function:
        def wrapper(*args: object, **kwargs: object) -> object:
            if loop.live != this_thread():
                return original(*args, **kwargs)
            before = loop.part
            loop.part = part
            loop.suffix = suffix
            mark(part)
            try:
                return original(*args, **kwargs)
            finally:
                loop.part = before
                loop.suffix = ""
                mark(before)

        return wrapper

    return make


def wrap_functions(wraps: Wraps, model: Model, loop: Loop) -> None:
    """Wrap the functions that a forward calls between its modules: masks, rotary embedding, attention.

    They are globals of the modules that the model's classes come from, so while they are wrapped
    other models of the family pass through the wrappers too, and are left alone by them.
    """
    from transformers.generation import utils

    for module in _modeling_modules(model):
        for name in list(vars(module)):
            part = _part_of_function(name)
            if part is not None and callable(getattr(module, name)):
                wraps.function(module, name, timed(loop, part))
    if hasattr(utils, "create_masks_for_generate"):
        wraps.function(utils, "create_masks_for_generate", timed(loop, words.ATTN_MASK_BUILD))
    if hasattr(type(model), "create_masks_for_generate"):
        wraps.method(model, "create_masks_for_generate", timed(loop, words.ATTN_MASK_BUILD))
    _wrap_attention_interface(wraps, model, loop)


def wrap_cache(wraps: Wraps, cache: Cache, loop: Loop) -> None:
    """Wrap the update of a cache; of an encoder-decoder's, the update of both.

    In its class, like the functions above: an instance that was given an attribute is slower to read, 10 µs a step.
    """
    halves = [
        getattr(cache, half) for half in ("self_attention_cache", "cross_attention_cache") if hasattr(cache, half)
    ]
    classes = set()
    for each in (*halves, cache):
        if getattr(each.update, "__func__", None) is type(each).update:
            classes.add(next(kind for kind in type(each).__mro__ if "update" in vars(kind)))
        else:  # it has one of its own
            wraps.method(each, "update", timed(loop, words.KV_APPEND))
    for kind in classes:
        wraps.function(kind, "update", timed(loop, words.KV_APPEND))


def _modeling_modules(model: Model) -> list[ModuleType]:
    names = {type(module).__module__ for module in model.modules()}
    return [sys.modules[name] for name in sorted(names) if ".modeling_" in name and name in sys.modules]


def _part_of_function(name: str) -> str | None:
    if name in _MASKS:
        return words.ATTN_MASK_BUILD
    if _ROPE_FUNCTION.match(name):
        return words.ATTN_ROPE
    return words.ATTN_CORE if name == _EAGER else None


def _wrap_attention_interface(wraps: Wraps, model: Model, loop: Loop) -> None:
    """Wrap the attention functions that this model's configurations name, in the table that models ask."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    table: MutableMapping[str, Function] = ALL_ATTENTION_FUNCTIONS._local_mapping
    configs = [model.config, model.config.get_text_config(decoder=True)]
    for name in {config._attn_implementation for config in configs}:
        if isinstance(name, str) and name in ALL_ATTENTION_FUNCTIONS:
            wraps.item(table, name, timed(loop, words.ATTN_CORE), ALL_ATTENTION_FUNCTIONS[name])
