"""The measurement of `depth`: configurations of active blocks that replay one model's tokens."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.knobs import Arm, Configuration, KnobSession, Subject, prepare_models, record_all, with_quality
from perstep.experiments.knobs.depth.plan import Plan, check
from perstep.experiments.knobs.depth.samples import Conditions
from perstep.experiments.knobs.options import tokens_of
from perstep.experiments.knobs.quality import Scored, importance, scored_tokens
from perstep.experiments.planning import between_first
from perstep.measure import Clock, Progress
from perstep.targets import BlockMask, Target
from perstep.targets.block_mask import active_indices, forward_weight_bytes

_Wanted = list[int] | tuple[tuple[int, ...], ...]
_Prompts = list[NDArray[np.int64]]


def prepare(plan: Plan, progress: Progress, clock: Clock) -> KnobSession:
    """Check the plan, load the model, record its tokens, measure quality, warm up.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
    """
    prompts = plan.checked_prompts()
    check(plan)

    def checked(one: Plan, target: Target) -> tuple[_Wanted, _Prompts]:
        return _wanted(one, target.num_blocks), one.make_prompts(prompts, target, tokens_of(one.new_tokens))

    return prepare_models("depth", plan, checked, _subject, progress, clock)


def _subject(plan: Plan, target: Target, checked: tuple[_Wanted, _Prompts], progress: Progress) -> Subject:
    """One model: its tokens recorded, its blocks chosen, its quality measured."""
    wanted, prompts_BT = checked
    total = target.num_blocks
    works = record_all(target, prompts_BT, tokens_of(plan.new_tokens), progress)
    scored = scored_tokens(target, works, plan.text, plan.quality_tokens) if plan.quality_tokens else None
    ranking = _ranking(plan, target, scored, total, progress)
    active = [active_indices(given, total) for given in _sets(plan, wanted, ranking, total)]
    labels = _labels(plan, active, total)
    masks = {label: BlockMask(target.model, blocks) for label, blocks in zip(labels, active, strict=True)}
    settings = {label: _setting(mask) for label, mask in masks.items()}
    arms = [
        Arm(
            Configuration(
                label=label,
                knob=float(len(blocks)),
                num_active_blocks=len(blocks),
                num_total_blocks=total,
                active_block_indices=list(blocks),
                num_vision_tokens=0,
                num_output_tokens=tokens_of(plan.new_tokens),
                weight_bytes=forward_weight_bytes(target.model, blocks),
                **plan.input_tokens(works),
            ),
            works,
            settings[label],
        )
        for label, blocks in zip(labels, active, strict=True)
    ]
    conditions = partial(
        Conditions,
        strategy="by index" if plan.active_block_indices is not None else plan.strategy,
        quality_of=None if scored is None else scored.source,
        importance=ranking if plan.strategy == "importance" else None,
    )
    unchanged = [index for index, blocks in enumerate(active) if len(blocks) == total]
    open_knob = plan.num_active_blocks is None and plan.active_block_indices is None
    return Subject(
        target,
        arms,
        unchanged,
        conditions,
        may_shorten=plan.new_tokens is None,
        droppable=between_first(len(arms)) if open_knob else (),
        more=partial(with_quality, target, scored),
    )


def _wanted(plan: Plan, total: int) -> _Wanted:
    """Numbers of blocks, or sets of them."""
    if plan.active_block_indices is not None:
        for given in plan.active_block_indices:
            active_indices(given, total)
        return plan.active_block_indices
    counts = list(range(1, total + 1)) if plan.num_active_blocks is None else list(plan.num_active_blocks)
    if counts[-1] > total:
        raise InputError(f"--num-active-blocks {counts[-1]}: the model has {plural(total, 'block')}")
    return counts


def _ranking(plan: Plan, target: Target, scored: Scored | None, total: int, progress: Progress) -> list[int]:
    """The blocks in the order in which a strategy takes them; for `uniform`, which has none, as they stand."""
    if plan.strategy == "last":
        return list(range(total - 1, -1, -1))
    if plan.strategy == "random":
        return [int(index) for index in np.random.default_rng([plan.seed, 2]).permutation(total)]
    if plan.strategy == "importance" and plan.active_block_indices is None:
        assert scored is not None  # noqa: S101 - checked before anything was loaded
        lost = importance(target, scored, total, progress)
        return sorted(range(total), key=lambda index: (-lost[index], index))
    return list(range(total))


def _sets(plan: Plan, wanted: Sequence[Json], ranking: list[int], total: int) -> list[Sequence[int]]:
    """The active blocks of each configuration."""
    if plan.active_block_indices is not None:
        return list(wanted)
    if plan.strategy == "uniform":
        return [[place * total // count for place in range(count)] for count in wanted]
    return [ranking[:count] for count in wanted]


def _labels(plan: Plan, active: Sequence[tuple[int, ...]], total: int) -> list[str]:
    if plan.active_block_indices is None:
        return [f"{len(blocks)} of {total}" for blocks in active]
    labels = ["blocks " + ",".join(map(str, blocks)) for blocks in active]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise InputError(f"--active-block-indices: {twice[0]} is given twice; name each configuration once")
    return labels


def _setting(mask: BlockMask) -> Callable[[], AbstractContextManager[object]]:
    return lambda: mask
