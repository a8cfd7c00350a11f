"""`fast.decode`: a decode loop for transformers' `generate`, handed over as `custom_generate`.

It gives `generate`'s greedy tokens and draws from the same distribution (law "a drop-in proves its guarantee"). Its
noise is keyed by seed, row, position and token id, so the draws are not those of `torch.multinomial`. It refuses by
name what it does not support. It needs transformers 5 with its separate prefill.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Hashable
from types import FrameType
from typing import TYPE_CHECKING

import torch
from transformers import GenerationMixin
from transformers.generation import GenerationMode

from perstep.errors import InputError
from perstep.fast._processor import Process
from perstep.fast.decode_choose import Chooser, works_over_allowed
from perstep.fast.decode_inputs import DecodingModel
from perstep.fast.decode_loop import Call, Report, run_deferred, run_on_host
from perstep.fast.graph_run import NotCaptured, run_captured
from perstep.fast.token_mask import TokenMask
from perstep.targets.transformers import is_recorded
from perstep.targets.transformers.protocols import (
    Argument,
    Generated,
    GenerationConfig,
    StoppingCriterion,
    Streamer,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Decode", "decode"]


class Decode:
    """A decode loop: `model.generate(..., custom_generate=perstep.fast.decode)`.

    Args:
        on_host: read the tokens on the host at every step; a mask's allowed ids, restricted head and chunks need this.
            None: only on the CPU, where reading is free; elsewhere the loop never waits for the device.
        chunks: process consecutive forced tokens as one chunk. Keys and values then differ by rounding from those of
            single steps. None: only in float32, where this changes only choices between nearly equal tokens; in half
            precision it would change one choice in a few hundred.
        captured: run the decode step in fixed places, as one CUDA graph where the device has them: the whole step, with
            perstep's processors and criteria, is then one launch. None: only on a CUDA device, unless `on_host`. What
            cannot be captured is done by the other loops, and `last.why` says why.
        slots: of such a step's cache; attention reads all of them in every step. None: the next power of two, so that
            few lengths need a graph of their own. A call that needs more is done by the other loops.

    Attributes:
        last: what the last call did.

    Raises:
        InputError: `on_host` with `captured`, or no number of slots.
    """

    def __init__(
        self,
        *,
        on_host: bool | None = None,
        chunks: bool | None = None,
        captured: bool | None = None,
        slots: int | None = None,
    ) -> None:
        if on_host and captured:
            raise InputError("a captured step does not wait for the host: give on_host or captured, not both")
        if slots is not None and (not isinstance(slots, int) or slots < 1):
            raise InputError(f"slots {slots!r}: it is the number of tokens that a captured cache holds, as in 512")
        self._on_host = on_host
        self._slots = slots
        self._captured = captured
        self._chunks = chunks
        self.last = Report()
        self._ways: weakref.WeakKeyDictionary[DecodingModel, dict[Hashable, str]] = weakref.WeakKeyDictionary()

    def __call__(
        self,
        model: DecodingModel,
        input_ids: torch.Tensor,
        logits_processor: Sequence[Process] = (),
        stopping_criteria: Sequence[StoppingCriterion] = (),
        generation_config: GenerationConfig | None = None,
        synced_gpus: bool = False,
        streamer: Streamer | None = None,
        seed: int | None = None,
        **model_kwargs: Argument,
    ) -> Generated:
        """The loop itself; called by `generate` with what it has prepared.

        Args:
            seed: of the draws, from 0 to 2**64 - 1; may be given to `generate`. None takes one from torch's
                generator, so that `torch.manual_seed` decides.

        Returns:
            What `generate` returns: ids [B, T], or a `GenerateDecoderOnlyOutput`.

        Raises:
            InputError: if the call asks for something that this loop does not do.
        """
        given = _given_to_generate(model)
        streamer = given.get("streamer") if streamer is None else streamer
        if generation_config is None:
            raise InputError("fast.decode is called by generate: model.generate(..., custom_generate=fast.decode)")
        _refuse(model, generation_config, given, synced_gpus)
        processors = list(logits_processor)
        _check_signatures(processors)
        for processor in processors:
            if isinstance(processor, TokenMask):
                processor.reset()
        self.last = report = Report()
        chooser = Chooser(_seed(seed) if generation_config.do_sample else None, input_ids.shape[0])
        call = Call(
            model, input_ids, processors, stopping_criteria, generation_config, streamer, model_kwargs, chooser, report
        )
        try:
            return self._run(call)
        finally:
            self._compare_ways(call)

    def _compare_ways(self, call: Call) -> None:
        """See whether a call that is observed was done as such a call is otherwise."""
        kinds = (type(one) for one in (*call.processors, *call.criteria))
        like, ways = (call.batch, call.stops.max_length, *kinds), self._ways.setdefault(call.model, {})
        if not is_recorded():
            ways[like] = call.report.way
        elif ways.get(like, call.report.way) != call.report.way:
            call.report.other_way = ways[like]

    def _run(self, call: Call) -> Generated:
        input_ids, report, processors = call.prompt_BT, call.report, call.processors
        if self._captured or (self._captured is None and not self._on_host and input_ids.is_cuda):
            try:
                return run_captured(call, self._slots)
            except NotCaptured as why:
                report.why = str(why)
        on_host = input_ids.device.type == "cpu" if self._on_host is None else self._on_host
        if not on_host and _may_defer(call):
            return run_deferred(call)
        mask = _mask_to_take_over(call)
        if mask is not None and on_host:
            mask.check(call.batch, call.model.config.get_text_config().vocab_size)
            call.tables = [mask.table_of_row(row, call.batch) for row in range(call.batch)]
            call.processors = processors[1:]
            call.chunks = call.model.dtype.itemsize >= 4 if self._chunks is None else self._chunks
        return run_on_host(call)


decode = Decode()
"""The loop with its own settings: chosen by the device and the dtype of the model."""


def _mask_to_take_over(call: Call) -> TokenMask | None:
    """The mask, if it comes first, what is behind it works over the allowed ids, and nobody asks for all scores."""
    first = next(iter(call.processors), None)
    if not isinstance(first, TokenMask) or call.records:
        return None
    return first if all(works_over_allowed(other) for other in call.processors[1:]) else None


def _may_defer(call: Call) -> bool:
    """Whether an extra forward can be undone."""
    return not call.cache_is_returned() or call.forwards.can_undo()


def _seed(seed: int | None) -> int:
    if seed is None:
        return int(torch.randint(2**63 - 1, ()))
    if not 0 <= seed < 2**64:
        raise InputError(f"seed must be an integer from 0 to 2**64 - 1, found {seed}")
    return seed


def _check_signatures(processors: Sequence[Process]) -> None:
    for processor in processors:
        names = list(inspect.signature(processor).parameters)
        if len(names) > 2:
            raise InputError(
                f"{type(processor).__name__} wants {', '.join(names[2:])} beside ids and scores, which generate "
                "does not give: leave it out"
            )


def _given_to_generate(model: DecodingModel) -> dict[str, Argument]:
    """The arguments of the `generate` call we are in.

    transformers 5 hands a callable neither streamer nor assistant, without a word (`_extract_generation_mode_kwargs`),
    so they are read from the caller's frame: a streamer has to be fed, an assistant to be refused.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "generate" and frame.f_locals.get("self") is model:
            names = ("streamer", "assistant_model", "synced_gpus")
            return {name: frame.f_locals.get(name) for name in names}
        frame = frame.f_back
    return {}


def _refuse(model: DecodingModel, config: GenerationConfig, given: dict[str, Argument], synced_gpus: bool) -> None:
    usual = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    if "next_sequence_length" not in usual or not hasattr(model, "_prefill"):
        raise InputError(
            "fast.decode needs transformers 5, whose generate prefills apart from its loop; with this version use "
            "fast.TokenMask in generate itself"
        )
    mode = config.get_generation_mode(given.get("assistant_model"))
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise InputError(f"fast.decode does greedy search and sampling, not {mode.value}: leave custom_generate out")
    if model.config.is_encoder_decoder:
        raise InputError("fast.decode is for decoder-only models: leave custom_generate out")
    if synced_gpus or given.get("synced_gpus"):
        raise InputError("fast.decode does not synchronise several GPUs: leave synced_gpus out")
