"""Wrappers around the generate loop: about ten marks a step, none inside the forward.

They wrap what the loop looks up on the model (`prepare_inputs_for_generation`,
`forward`, `_has_unfinished_sequences` ...), the class of the stop check, and what
one call brings with it (streamer, cache, candidate generator). The loop itself
is transformers' own: no line of `generate` is copied.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident

from perstep.measure import RESIDUAL
from perstep.targets.transformers import words
from perstep.targets.transformers._lists import TimedLists, name_of
from perstep.targets.transformers._loop import Loop
from perstep.targets.transformers._wrap import Function, Make, Value, Wraps
from perstep.targets.transformers.protocols import Cache, Model, Streamer


@dataclass(frozen=True)
class Around:
    """What wrappers around the loop need.

    Attributes:
        loop: the state of the call.
        of_call: wrappers that go away when the call ends.
        on_compile: told when transformers decides to compile the forward of this call.
        on_cache: told of the cache that this call uses.
    """

    loop: Loop
    of_call: Wraps
    on_compile: Callable[[], None]
    on_cache: Callable[[Cache], None]


def wrap_loop(wraps: Wraps, model: Model, around: Around, *, steps_alone: bool = False) -> None:
    """Wrap the generate loop of a model, apart from `generate` and `forward` themselves.

    Args:
        wraps: takes the wrappers.
        model: the model.
        around: what the wrappers need.
        steps_alone: only what tells where steps begin and end, and whether the forward is compiled.
    """
    loop = around.loop
    methods: dict[str, Make] = {
        "prepare_inputs_for_generation": lambda original: _inputs(original, loop),
        "_has_unfinished_sequences": lambda original: _has_unfinished(original, loop),
        "_prefill": lambda original: _prefill(original, loop, whole=True),
        "_prefill_chunking": lambda original: _prefill(original, loop, whole=False),
        "_valid_auto_compile_criteria": lambda original: _auto_compile(original, around),
    }
    if not steps_alone:
        methods.update(_parts(model, around))
        _wrap_stop_checks(wraps, loop)
    for name, make in methods.items():
        if hasattr(model, name):  # which of them exist depends on the version (HOOK_POINTS in version.py)
            wraps.method(model, name, make)


def _parts(model: Model, around: Around) -> dict[str, Make]:
    """The wrappers that mark parts."""
    loop = around.loop
    methods: dict[str, Make] = {
        "_beam_search_has_unfinished_sequences": lambda original: _beams_unfinished(original, loop),
        "_get_logits_processor": lambda original: _listed(
            opaque(loop, words.SETUP_PROCESSORS)(original), loop, words.LOGITS, words.SAMPLE
        ),
        "_get_stopping_criteria": lambda original: _listed(
            opaque(loop, words.SETUP_CRITERIA)(original), loop, words.STOP, words.BOOKKEEPING
        ),
        "_reorder_cache": opaque(loop, words.KV_REORDER),
        "_prepare_cache_for_generation": lambda original: _cache(opaque(loop, words.SETUP_CACHE)(original), around),
        "_get_candidate_generator": lambda original: _candidates(original, around),
    }
    if _has_encoder(model):
        encoder = opaque(loop, words.ENCODER if model.config.is_encoder_decoder else words.VISION)
        methods["_maybe_prepare_encoder_kwargs_for_generation"] = encoder
        methods["_prepare_encoder_decoder_kwargs_for_generation"] = encoder
    return methods


def _wrap_stop_checks(wraps: Wraps, loop: Loop) -> None:
    from transformers.generation import utils

    for name in ("StopCheck", "DeferredStopCheck"):
        if hasattr(utils, name):
            wraps.function(getattr(utils, name), "__call__", timed(loop, words.SYNC))


def wrap_forward(wraps: Wraps, model: Model, loop: Loop, part: str, attribute: str = "forward") -> None:
    """Wrap the model's forward; what no other part covers in it goes to `part`."""
    wraps.method(model, attribute, lambda original: _forward(original, loop, part))


def wrap_hooks(wraps: Wraps, model: Model, loop: Loop) -> None:
    """Wrap what calls the model's forward hooks and pre-hooks, if it has any; the forward lies inside."""
    from torch.nn.modules import module

    hooks = (model._forward_pre_hooks, model._forward_hooks)
    if any(hooks) or module._global_forward_pre_hooks or module._global_forward_hooks:
        wraps.method(model, "_call_impl", lambda original: _hooks(original, loop))


def wrap_streamer(wraps: Wraps, streamer: Streamer, loop: Loop) -> None:
    """Wrap a streamer's `put`."""
    if hasattr(streamer, "__dict__"):
        wraps.method(streamer, "put", opaque(loop, f"{words.STREAM}/{name_of(streamer)}"))


def wrap_update(wraps: Wraps, model: Model, loop: Loop) -> None:
    """Wrap the update of the arguments: `bookkeeping` begins there, where it does not begin at the forward's end."""
    name = "_update_model_kwargs_for_generation"
    if hasattr(model, name):
        wraps.method(model, name, lambda original: _update(original, loop))


def timed(loop: Loop, part: str) -> Make:
    """Make a wrapper whose call is a part, apart from the parts inside it; at a layer the part is named by it."""
    mark, this_thread = loop.mark, get_ident

    def make(original: Function) -> Function:
        def wrapper(*args: object, **kwargs: object) -> object:
            if loop.live != this_thread():
                return original(*args, **kwargs)
            before = loop.part
            here = loop.part = part + loop.suffix
            mark(here)
            try:
                return original(*args, **kwargs)
            finally:
                loop.part = before
                mark(before)

        return wrapper

    return make


def opaque(loop: Loop, part: str) -> Make:
    """Make a wrapper whose call is one part, whatever happens inside it: nothing in it is looked at."""

    def make(original: Function) -> Function:
        def wrapper(*args: object, **kwargs: object) -> object:
            if loop.outside():
                return original(*args, **kwargs)
            before, watched, live = loop.part, loop.watched, loop.live
            loop.enter(part)
            loop.watched = loop.live = 0
            try:
                return original(*args, **kwargs)
            finally:
                loop.watched, loop.live = watched, live
                loop.enter(before)

        return wrapper

    return make


def _has_encoder(model: Model) -> bool:
    text = model.config.get_text_config(decoder=True)
    return bool(model.config.is_encoder_decoder) or text is not model.config


def _inputs(original: Function, loop: Loop) -> Function:
    mark, this_thread, part, residual = loop.mark, get_ident, words.INPUTS, RESIDUAL

    def prepare_inputs_for_generation(self: object, *args: object, **kwargs: object) -> object:
        if loop.watched != this_thread():
            return original(self, *args, **kwargs)
        if not (loop.stepping and loop.guided):
            loop.arrive()
        if loop.live:
            loop.part = part
            mark(part)
        try:
            return original(self, *args, **kwargs)
        finally:
            if loop.compiled:  # its forward is not wrapped: it runs from here to the update of the arguments
                loop.forwarded = True
                loop.forwards += 1
                loop.enter(words.FORWARD)
            elif loop.live:
                loop.part = residual
                mark(residual)

    return prepare_inputs_for_generation


def _forward(original: Function, loop: Loop, part: str) -> Function:
    mark, this_thread = loop.mark, get_ident

    def forward(self: object, *args: object, **kwargs: object) -> object:
        watched = loop.watched
        if watched != this_thread():
            return original(self, *args, **kwargs)
        if not (loop.stepping and loop.guided):
            loop.arrive()
        if loop.live:
            loop.part = part
            mark(part)
        loop.watched = 0
        try:
            return original(self, *args, **kwargs)
        finally:
            if loop.live:
                loop.part = after = loop.after_forward
                mark(after)
            loop.watched = watched
            loop.forwarded = True
            loop.forwards += 1

    return forward


def _hooks(original: Function, loop: Loop) -> Function:
    def _call_impl(self: object, *args: object, **kwargs: object) -> object:
        if loop.watched != get_ident():
            return original(self, *args, **kwargs)
        if not (loop.stepping and loop.guided):
            loop.arrive()
        after, loop.after_forward = loop.after_forward, words.FORWARD_HOOKS
        loop.enter(words.FORWARD_HOOKS)
        try:
            return original(self, *args, **kwargs)
        finally:
            loop.after_forward = after
            loop.enter(after)

    return _call_impl


def _update(original: Function, loop: Loop) -> Function:
    def _update_model_kwargs_for_generation(self: object, *args: object, **kwargs: object) -> object:
        if loop.live == get_ident() and loop.part != words.BOOKKEEPING:
            loop.enter(words.BOOKKEEPING)
        return original(self, *args, **kwargs)

    return _update_model_kwargs_for_generation


def _has_unfinished(original: Function, loop: Loop) -> Function:
    this_thread = get_ident

    def _has_unfinished_sequences(self: object, this_peer_finished: object, *args: object, **kwargs: object) -> object:
        if loop.watched != this_thread():
            return original(self, this_peer_finished, *args, **kwargs)
        before = loop.part
        if not isinstance(this_peer_finished, bool):  # a tensor: to ask it is to wait for the device
            loop.enter(words.SYNC)
        again = original(self, this_peer_finished, *args, **kwargs)
        if not loop.turn(again):
            loop.enter(before)
        return again

    return _has_unfinished_sequences


def _beams_unfinished(original: Function, loop: Loop) -> Function:
    wait = timed(loop, words.SYNC)(lambda *args, **kwargs: bool(original(*args, **kwargs)))

    def _beam_search_has_unfinished_sequences(self: object, *args: object, **kwargs: object) -> bool:
        return bool(wait(self, *args, **kwargs))  # the loop's next word is `not`, which would wait all the same

    return _beam_search_has_unfinished_sequences


def _prefill(original: Function, loop: Loop, *, whole: bool) -> Function:
    def prefill(self: object, *args: object, **kwargs: object) -> object:
        if loop.outside():
            return original(self, *args, **kwargs)
        loop.in_prefill = True
        try:
            result = original(self, *args, **kwargs)
        finally:
            loop.in_prefill = False
        if whole:
            loop.prefilled = True
        else:  # the one of transformers 4 leaves the last token, and with it the first logits, to the loop
            loop.forwarded = False
        return result

    return prefill


def _listed(original: Function, loop: Loop, prefix: str, after: str) -> Function:
    lists = TimedLists(loop, prefix, after)

    def get_list(self: object, *args: Value, **kwargs: Value) -> object:
        components = original(self, *args, **kwargs)
        if loop.outside():
            return components
        if "input_ids_seq_length" in kwargs:  # of the processors
            loop.call.prompt_tokens = kwargs["input_ids_seq_length"]
        return lists.timed(components)

    return get_list


def _cache(original: Function, around: Around) -> Function:
    def _prepare_cache_for_generation(self: object, *args: Value, **kwargs: Value) -> object:
        result = original(self, *args, **kwargs)
        config = kwargs["generation_config"] if "generation_config" in kwargs else args[0]
        if not around.loop.outside():
            around.loop.call.cached = config.use_cache is not False
        model_kwargs = kwargs["model_kwargs"] if "model_kwargs" in kwargs else args[1]
        cache = model_kwargs.get("past_key_values")
        if cache is not None and not around.loop.outside():
            # Not in every call: an instance that was given an attribute is slower to read, 6 µs a step.
            if (config.num_beams or 1) > 1 and hasattr(cache, "reorder_cache"):
                around.of_call.method(cache, "reorder_cache", opaque(around.loop, words.KV_REORDER))
            around.on_cache(cache)
        return result

    return _prepare_cache_for_generation


def _candidates(original: Function, around: Around) -> Function:
    loop = around.loop

    def _get_candidate_generator(self: Model, *args: Value, **kwargs: Value) -> object:
        generator = original(self, *args, **kwargs)
        if loop.outside():
            return generator
        if not kwargs.get("logits_processor"):  # then no list is called, and choosing begins after the forward
            loop.after_forward = words.SAMPLE
        around.of_call.method(generator, "get_candidates", opaque(loop, words.DRAFT))
        wrap_update(around.of_call, self, loop)
        return generator

    return _get_candidate_generator


def _auto_compile(original: Function, around: Around) -> Function:
    def _valid_auto_compile_criteria(self: object, *args: object, **kwargs: object) -> object:
        will_compile = original(self, *args, **kwargs)
        if will_compile and not around.loop.outside():
            around.on_compile()
        return will_compile

    return _valid_auto_compile_criteria
