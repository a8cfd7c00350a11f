"""The measurement of `context`: prompts of several lengths, with images before them where the model takes any."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.knobs import Arm, Configuration, KnobSession, Subject, prepare_models
from perstep.experiments.knobs.context.plan import DEFAULT_LENGTHS, Plan
from perstep.experiments.knobs.options import DEFAULT_PROMPT_TOKENS, tokens_of
from perstep.experiments.knobs.session import TRIED_TOKENS
from perstep.experiments.memory import is_out_of_memory, out_of_memory
from perstep.measure import Clock, Progress
from perstep.targets import Target, Work


@dataclass(frozen=True)
class _Input:
    """One configuration's prompt."""

    text_tokens: int
    images: int
    image_size: int | None

    @property
    def label(self) -> str:
        if not self.images:
            return f"{self.text_tokens:,} text"
        size = "" if self.image_size is None else f" of {self.image_size} px"
        return f"{self.text_tokens:,} text, {self.images} image{'' if self.images == 1 else 's'}{size}"


def prepare(plan: Plan, progress: Progress, clock: Clock) -> KnobSession:
    """Check the plan, load the model, record a call for each input, warm up.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
    """
    plan.effort()

    def check(one: Plan, target: Target) -> list[_Input]:
        inputs = _inputs(one, target)
        target.check_fits(_longest(inputs), tokens_of(one.new_tokens))
        return inputs

    return prepare_models("context", plan, check, _subject, progress, clock)


def _longest(inputs: Sequence[_Input]) -> int:
    return max(given.text_tokens for given in inputs)


def _subject(plan: Plan, target: Target, inputs: Sequence[_Input], progress: Progress) -> Subject:
    """One model: a call recorded for each input."""
    text_BT = target.prompt(text=None, num_tokens=_longest(inputs), batch=plan.batch, seed=plan.seed)
    total = target.num_blocks
    tried_first = plan.fast and plan.new_tokens is None
    arms = []
    for given in inputs:
        progress(0.0, f"record {given.label}")
        work, failed = _record(plan, target, given, text_BT, TRIED_TOKENS if tried_first else None)
        vision_tokens = 0 if work is None else work.vision_tokens
        configuration = Configuration(
            label=given.label,
            knob=float(given.text_tokens + vision_tokens),
            num_active_blocks=total,
            num_total_blocks=total,
            active_block_indices=list(range(total)),
            num_input_text_tokens=given.text_tokens if work is None else work.text_tokens,
            num_vision_tokens=vision_tokens,
            num_output_tokens=tokens_of(plan.new_tokens),
            failed=failed,
        )
        arms.append(Arm(configuration, [] if work is None else [work], nullcontext))
    by_label = {given.label: given for given in inputs}

    def in_full(kept: Sequence[Arm], progress: Progress) -> Sequence[Arm]:
        """Arms that were recorded for trying alone."""
        recorded = []
        for arm in kept:
            progress(0.0, f"record {arm.configuration.label}")
            given, count = by_label[arm.configuration.label], arm.configuration.num_output_tokens
            work = None if arm.configuration.failed else _record(plan, target, given, text_BT, count)[0]
            recorded.append(arm if work is None else replace(arm, works=[work]))
        return recorded

    subject = Subject(
        target,
        arms,
        range(len(arms)),
        may_shorten=plan.new_tokens is None,
        droppable=range(len(arms) - 1, 0, -1) if plan.prompt_tokens is None else (),
    )
    return replace(subject, more=in_full) if tried_first else subject


def _inputs(plan: Plan, target: Target) -> list[_Input]:
    if not target.takes_images and (plan.images is not None or plan.image_size is not None):
        raise InputError(f"{target.name} is a text model: --images and --image-size go with a vision-language model")
    images = plan.images if plan.images is not None else (1,) if plan.image_size is not None else (0,)
    sizes = [None] if plan.image_size is None else list(plan.image_size)
    if plan.prompt_tokens is not None:
        lengths = list(plan.prompt_tokens)
    elif images != (0,):
        lengths = [DEFAULT_PROMPT_TOKENS]
    else:
        positions = target.positions or max(DEFAULT_LENGTHS) + tokens_of(plan.new_tokens)
        lengths = [length for length in DEFAULT_LENGTHS if length + tokens_of(plan.new_tokens) - 1 <= positions] or [1]
    return [
        _Input(length, count, size if count else None)
        for length in lengths
        for count in images
        for size in (sizes if count else [None])
    ]


def _record(
    plan: Plan, target: Target, given: _Input, text_BT: NDArray[np.int64], new_tokens: int | None = None
) -> tuple[Work | None, str]:
    """The work of a configuration, or why there is no memory for it.

    Args:
        plan: the options.
        target: the model.
        given: what the configuration begins with.
        text_BT: the longest prompt.
        new_tokens: of the call; those of the plan by default.
    """
    ids_BT, extra, vision_tokens = text_BT[:, : given.text_tokens], None, 0
    try:
        if given.images:
            prepared = target.with_images(ids_BT, given.images, given.image_size, seed=plan.seed)
            ids_BT, extra, vision_tokens = prepared.ids_BT, prepared.extra, prepared.vision_tokens
            target.check_fits(ids_BT.shape[1], tokens_of(plan.new_tokens))
        count = tokens_of(plan.new_tokens) if new_tokens is None else new_tokens
        work = target.record(ids_BT, count, extra=extra, vision_tokens=vision_tokens)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None, out_of_memory(error)
    return work, ""
