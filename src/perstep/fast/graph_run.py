"""`fast.decode` with a step in fixed places: what can be captured, the call itself, and why another loop has to do it.

The prefill is transformers' own. Then keys and values move into fixed slots, and the host repeats the step and reads
one flag, late by a step, as the deferred loop does. Processors and criteria of the user that do not declare that they
can be captured are called between the halves of a step and behind it. Whatever is in the way is named, and the call
is done by the other loops.
"""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Hashable, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from perstep._words import plural
from perstep.fast._inside import InsideCriterion, InsideProcessor
from perstep.fast.decode_inputs import DecodingModel, InputIds
from perstep.fast.decode_loop import Call, LateFlag
from perstep.fast.graph_cache import SlotCache, bucket, cache_refusal
from perstep.fast.graph_capture import Work, capture
from perstep.fast.graph_inside import criterion_inside, processor_inside
from perstep.fast.graph_kept import Kept, drop_if_changed, find, keep, modules_of
from perstep.fast.graph_step import Begin, Step
from perstep.fast.noise import row_keys
from perstep.targets.transformers import one_forward, unobserved
from perstep.targets.transformers.protocols import Argument, Generated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import DynamicCache

_FOLLOWED = ("attention_mask", "position_ids", "past_key_values", "use_cache", "inputs_embeds")
"""Arguments of a forward that a step makes itself, or that are those of the prefill alone."""
_NEEDS_LOOP = ("attentions", "hidden_states")
TRIALS = 2
"""Steps whose logits are compared with those of the model's own cache before a step is believed."""


class NotCaptured(Exception):  # noqa: N818 - no error: it says which loop does the call
    """Why a call is done by another loop."""


def run_captured(call: Call, slots: int | None = None) -> Generated:
    """The call with a captured step, over this number of slots; None for the next power of two.

    Raises:
        NotCaptured: it cannot be done so; the call may go on in another loop, its prefill is kept.
    """
    why = _refusal(call)
    if why:
        raise NotCaptured(why)
    call.prefill()
    run = _Run(call, slots)
    with call.model._optimize_model_for_decode(), run.claimed() as kept:
        run.loop(kept)
    return call.result(run.undone, trimmed=True)


def _refusal(call: Call) -> str:
    """What stands in the way as far as it can be seen before the prefill."""
    model, limit = call.model, call.stops.max_length
    asked = [name for name in _NEEDS_LOOP if name in call.records]
    new = 0 if limit is None else limit - call.ids.length
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    reasons = {
        "a compiled forward is not captured again": call.forwards.is_compiled
        or model._compiled_call_impl is not None
        or hasattr(model.forward, "_torchdynamo_orig_callable"),
        "the call has no length at which it ends": limit is None,
        "one new token needs no decode step": limit is not None and new < 2,
        "without a cache there are no slots": not call.model_kwargs.get("use_cache"),
        f"{' and '.join(asked)} are asked for, which a captured forward does not give": bool(asked),
        f"prompt and new tokens are {plural(limit or 0, 'position')}, the model has {most}": limit is not None
        and isinstance(most, int)
        and limit > most,
        "the model is in training mode": bool(getattr(model, "training", False)),
        "autocast is on, whose casts a graph does not keep": torch.is_autocast_enabled(model.device.type),
    }
    why = next((reason for reason, holds in reasons.items() if holds), "")
    return why or _odd_arguments(call) or _python_inside(model)


def _odd_arguments(call: Call) -> str:
    """Which argument of the forward is a tensor that a step would not know how to go on with."""
    for name, value in call.model_kwargs.items():
        if name not in _FOLLOWED and isinstance(value, torch.Tensor):
            return f"the forward is given {name}, a tensor of the prompt"
    positions = call.model_kwargs.get("position_ids")
    if positions is not None and positions.shape[-2] != call.batch:
        return "position_ids are not those of every row"
    return ""


def _python_inside(model: DecodingModel) -> str:
    """Which module runs code that a graph would not repeat: hooks, and forwards that somebody has replaced."""
    if nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks:
        return "torch has forward hooks for all modules, which a graph would not call"
    devices = set()
    for module in modules_of(model):
        devices.update([one.device for one in module._parameters.values() if one is not None])
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{_name_of(module, model)} has a forward hook, which a graph would not call"
        own = vars(module).get("forward")
        while getattr(getattr(own, "__func__", own), "__globals__", {}).get("__name__", "").startswith("perstep."):
            own = getattr(own, "__wrapped__", None)  # a ledger's marks do not count
            own = None if own is getattr(type(module), "forward", None) else own
        if own is not None:
            by = getattr(own, "__qualname__", "a callable")
            return f"the forward of {_name_of(module, model)} was replaced by {by}"
    return f"the model lies on {plural(len(devices), 'device')}" if len(devices) > 1 else ""


def _name_of(module: nn.Module, model: DecodingModel) -> str:
    names = (name for name, one in cast("nn.Module", model).named_modules() if one is module)
    return next(names, "") or "the model"


class _Run:
    """One call."""

    def __init__(self, call: Call, slots: int | None) -> None:
        self.call = call
        self.undone = 0
        cache: DynamicCache = call.forwards.cache
        why = cache_refusal(cache)
        if why:
            raise NotCaptured(why)
        self._cache = cache
        self._held = int(cache.get_seq_length())
        limit = call.stops.max_length or 0
        needed = self._held + limit - call.ids.length
        self._slots = bucket(needed) if slots is None else slots
        if needed > self._slots:
            raise NotCaptured(f"the call needs {plural(needed, 'slot')}, and Decode(slots={slots}) has fewer")
        self._outside = call.stops.others
        insides = [processor_inside(one) for one in call.processors]
        inside = [one for one in insides if one is not None]
        odd = [type(one).__name__ for one, inner in zip(call.processors, insides, strict=True) if inner is None]
        self._processors: list[InsideProcessor] | None = inside
        if odd or call.records:
            self._processors = None
            what = f"{odd[0]} does not declare that it can be captured" if odd else "scores are to be returned"
            call.report.why = f"{what}: processors are called between two graphs"
        criteria = [criterion_inside(one) for one in self._outside]
        self._criteria: list[InsideCriterion] = [one for one in criteria if one is not None]
        self._outside = [one for one, inner in zip(self._outside, criteria, strict=True) if inner is None]

    # Where the call begins

    def _begin(self, width: int) -> Begin:
        call, ids = self.call, self.call.ids()
        mask, positions = call.model_kwargs.get("attention_mask"), call.model_kwargs.get("position_ids")
        if mask is not None and mask.shape != (call.batch, self._held):
            raise NotCaptured(
                f"the attention mask is {list(mask.shape)}, the cache holds {plural(self._held, 'position')}"
            )
        seed, end_ids = call.chooser.seed, call.stops.end_ids_E
        insides = [*(self._processors or ()), *self._criteria]
        return Begin(
            ids,
            mask,
            None if positions is None else positions[..., -1:] + 1,
            None if seed is None else row_keys(seed, call.batch, ids.device),
            None if end_ids is None else end_ids.flatten().to(ids.device),
            call.pad_id if call.stops.has_end else None,
            [one.graph_begin(ids, width) for one in insides],
        )

    def _key(self, begin: Begin, width: int) -> Hashable:
        """What two calls have in common that one graph can serve."""
        call, device = self.call, begin.ids_BT.device
        keys = [one.graph_key() for one in (*(self._processors or ()), *self._criteria)]
        shapes = [None if one is None else (one.shape, one.dtype) for one in (begin.positions, begin.ends_E, begin.pad)]
        mask = None if begin.mask_BT is None else begin.mask_BT.dtype
        dtypes = [(layer.keys.dtype, layer.keys.shape[1::2]) for layer in self._cache.layers]
        return (
            call.batch, self._slots, width, device, tuple(dtypes), mask, tuple(shapes), begin.keys_B is None,
            self._processors is None, tuple(keys), tuple(sorted((k, repr(v)) for k, v in self._others().items())),
        )  # fmt: skip

    def _others(self) -> dict[str, Argument]:
        return {name: value for name, value in self.call.model_kwargs.items() if name not in _FOLLOWED}

    @contextmanager
    def claimed(self) -> Iterator[Kept]:
        """The step of this call, found or built, begun behind the first token, and held as long as it is used.

        Raises:
            NotCaptured: there is none, or another call uses it.
        """
        call = self.call
        logits_BV = call.prefill().logits[:, -1].to(copy=True, dtype=torch.float32, device=call.prompt_BT.device)
        begin = self._begin(logits_BV.shape[1])
        key = self._key(begin, logits_BV.shape[1])
        if drop_if_changed(call.model):
            call.report.rebuilt = (
                "the model has changed since a step was kept: it was moved or cast, or has other weights or settings"
            )
        kept = find(call.model, key)
        if isinstance(kept, str):
            raise NotCaptured(kept)
        if kept is None:
            kept = self._built(key, begin, logits_BV)
        if kept.busy.locked():
            raise NotCaptured("another call is using the graph of this model just now")
        with kept.busy:  # not `finally`: a Ctrl-C there would leave the graph busy for ever
            if kept.done is not None:
                kept.done.wait()  # by the stream, not by the host: the call before may have run on another
            kept.step.slots.fill(self._cache, self._held)
            kept.step.start(begin)
            if not call.cache_is_returned():
                self._cache.layers.clear()  # it is generate's own, and nobody sees it again
            call.report.slots, call.report.replayed = self._slots, kept.captured
            call.report.way = "split" if self._processors is None else "captured"
            kept.step.choose(call.processed(logits_BV) if self._processors is None else logits_BV)
            yield kept
            if call.prompt_BT.is_cuda:
                kept.done = torch.cuda.current_stream().record_event()
        call.report.kept_bytes = keep(call.model, key, kept)

    def _built(self, key: Hashable, begin: Begin, logits_BV: torch.Tensor) -> Kept:
        """A new step, tried before it is captured and after.

        Raises:
            NotCaptured: it cannot be captured, or gives something else than the model with its own cache.
        """
        call, device = self.call, begin.ids_BT.device
        began = time.perf_counter()
        try:
            # What outlives the call must not be made in inference mode: it could not be written into outside of it.
            with unobserved(), torch.inference_mode(False), torch.no_grad():
                slots = SlotCache(self._cache, self._slots)
                step = Step(slots, begin, self._processors, self._criteria, self._others(), logits_BV.shape[1])

                def rewind() -> None:
                    slots.fill(self._cache, self._held)
                    step.start(begin)
                    step.tokens_B1.copy_(logits_BV.argmax(dim=-1, keepdim=True))

                halves = [partial(half, weakref.proxy(call.model)) for half in step.halves()]
                rewind()
                self._compare_logits(step, begin)
                replays = capture(halves, rewind, device)
                if replays != halves:
                    _compare_replays(step, halves, replays, rewind)
        except NotCaptured as odd:
            keep(call.model, key, str(odd))
            raise
        except torch.OutOfMemoryError as error:
            if device.type == "cuda":
                torch.cuda.empty_cache()
            needed = f"{plural(self._slots, 'slot')} for {plural(call.batch, 'row')}"
            raise NotCaptured(f"there is too little memory beside the rest for {needed}") from error
        except Exception as error:  # whatever a model does that a graph cannot do: the other loops can
            said = (str(error).splitlines() or [""])[0]
            why = f"the step could not be captured: {type(error).__name__}: {said}"
            keep(call.model, key, why)
            raise NotCaptured(why) from error
        call.report.built_s = time.perf_counter() - began
        return Kept(step, replays, device.type == "cuda")

    def _compare_logits(self, step: Step, begin: Begin) -> None:
        """See that a few steps over the slots give the logits of the model with its own cache.

        Raises:
            NotCaptured: they differ by more than rounding.
        """
        model, cache, mask = self.call.model, copy.deepcopy(self._cache), begin.mask_BT
        for number in range(TRIALS):
            mask = None if mask is None else torch.nn.functional.pad(mask, (0, 1), value=1)
            inputs = model.prepare_inputs_for_generation(
                step.tokens_B1, next_sequence_length=1, past_key_values=cache, attention_mask=mask, use_cache=True,
                position_ids=None if begin.positions is None else begin.positions + number, **self._others(),
            )  # fmt: skip
            wanted = model(**inputs, return_dict=True).logits[:, -1]
            rounding = torch.finfo(wanted.dtype).eps ** 0.5 * float(wanted.abs().max())
            apart = float((step.forward(model) - wanted).abs().max())
            if not apart <= rounding:
                raise NotCaptured(
                    "over fixed slots the model gives other logits, "
                    f"{apart / rounding if rounding else apart:,.1f} times as far apart as rounding explains"
                )
            step.tokens_B1.copy_(wanted.argmax(dim=-1, keepdim=True))

    # The loop

    def loop(self, kept: Kept) -> None:
        """Steps until every row is finished; the first token is chosen already."""
        call, step = self.call, kept.step
        length, remembers = call.ids.length, bool(self._outside) or self._processors is None
        flag = LateFlag(call.prompt_BT.device, call.streamer)
        while True:
            length += 1
            if remembers:
                call.ids.append(step.tokens_B1.clone())
            self._ask_outside(step)
            stop = flag.put(step.going, step.tokens_B1[:, 0]) or call.stops.full(length)
            if not call.model._has_unfinished_sequences(stop, synced_gpus=False, device=step.going.device):
                break
            self._repeat(kept)
            call.forwards.count += 1
        self.undone = flag.finish()
        self._finish(step, length - self.undone)

    def _repeat(self, kept: Kept) -> None:
        step = kept.step
        with one_forward() if kept.captured else nullcontext():
            kept.replays[0]()
        if self._processors is not None:
            return
        scores_BV = self.call.processed(step.scores_BV.clone())
        if scores_BV.dtype == step.scores_BV.dtype and scores_BV.shape == step.scores_BV.shape:
            step.scores_BV.copy_(scores_BV)
            kept.replays[1]()
        else:  # a processor made something else of them: the choice is that of its scores
            step.choose(scores_BV)

    def _ask_outside(self, step: Step) -> None:
        """Let the criteria that are called outside stop rows."""
        call = self.call
        for criterion in self._outside:
            said = criterion(call.ids(), tuple(call.records["scores"]) if "scores" in call.records else None)
            step.going_B.logical_and_(~torch.as_tensor(said, device=step.going_B.device))
        if self._outside:
            step.going.copy_(step.going_B.any())

    def _finish(self, step: Step, length: int) -> None:
        """Leave text, cache, processors and criteria as they are behind a text of this length."""
        call, begun = self.call, self.call.prompt_BT.shape[1]
        ids_BT = step.text(length)
        call.ids = InputIds(ids_BT)
        if call.cache_is_returned():
            step.slots.give_back(self._cache, self._held, self._held + length - begun - 1)
        for inside, state in zip((*(self._processors or ()), *self._criteria), step.states(), strict=True):
            inside.graph_end(ids_BT, state, self.undone)


def _compare_replays(step: Step, halves: Sequence[Work], replays: Sequence[Work], rewind: Work) -> None:
    """See that the graph chooses what the step chooses that it was made of.

    Raises:
        NotCaptured: it does not, so something of the step runs on the host.
    """
    chosen = []
    for parts in (halves, replays):
        rewind()
        tokens = []
        for _ in range(TRIALS):
            for part in parts:
                part()
            tokens.append(step.tokens_B1.clone())
        chosen.append(torch.cat(tokens))
    if not torch.equal(*chosen):
        raise NotCaptured("the graph chose other tokens than the step that it was captured from")
