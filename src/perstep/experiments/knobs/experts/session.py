"""The measurement of `experts`: the same tokens with each number of experts."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.knobs import Arm, Configuration, KnobSession, Subject, prepare_models, record_all, with_quality
from perstep.experiments.knobs.experts.plan import Plan
from perstep.experiments.knobs.experts.samples import Conditions
from perstep.experiments.knobs.models import free_memory
from perstep.experiments.knobs.options import tokens_of
from perstep.experiments.knobs.quality import Scored, scored_tokens
from perstep.experiments.knobs.session import TRIED_TOKENS, measure_pass, recorded_in_full
from perstep.experiments.planning import between_first
from perstep.measure import Clock, Progress
from perstep.targets import Target, Work
from perstep.targets.transformers import IMPLEMENTATIONS, ExpertsPerToken, Routers, experts_implementation

_SHARE_OF_FREE = 0.3
"""Of the free memory: the copies are made twice, and what comes of them is not small either."""


@dataclass(frozen=True)
class _Checked:
    """What the plan means for a model: its routers, the experts a token, the prompts."""

    routers: Routers
    top_ks: list[int]
    prompts_BT: list[NDArray[np.int64]]


def prepare(plan: Plan, progress: Progress, clock: Clock) -> KnobSession:
    """Check the plan, load the model, find its routers, record its tokens, count syncs, measure quality, warm up.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
    """
    plan = plan.with_model()
    prompts = plan.checked_prompts()

    def check(one: Plan, target: Target) -> _Checked:
        routers = target.find_routers()
        top_ks = _top_ks(one, routers.num_experts)
        return _Checked(routers, top_ks, one.make_prompts(prompts, target, tokens_of(one.new_tokens)))

    def make(one: Plan, target: Target, checked: _Checked, progress: Progress) -> Subject:
        return _subject(one, target, checked, progress, clock)

    return prepare_models("experts", plan, check, make, progress, clock)


def _subject(plan: Plan, target: Target, checked: _Checked, progress: Progress, clock: Clock) -> Subject:
    """One model: its tokens recorded, its implementations tried, its syncs counted, its quality measured."""
    routers, top_ks = checked.routers, checked.top_ks
    own = experts_implementation(target.model)
    tried_first = plan.fast and plan.new_tokens is None
    count = TRIED_TOKENS if tried_first else tokens_of(plan.new_tokens)
    works = record_all(target, checked.prompts_BT, count, progress)

    def setting(top_k: int, implementation: str) -> Callable[[], AbstractContextManager[object]]:
        return lambda: ExpertsPerToken(routers, top_k, implementation)

    def runs(name: str) -> None:
        with setting(top_ks[0], name)():
            measure_pass(target, works[0].shortened(min(2, tokens_of(plan.new_tokens))), clock)

    names, warnings = _implementations(plan, runs)
    longest = plan.batch * max(prompt_BT.shape[1] for prompt_BT in checked.prompts_BT)
    too_large = _too_large(plan, routers, top_ks, longest) if "batched_mm" in names else {}
    warnings += too_large.values()
    settings = {
        _label(k, name): setting(k, name)
        for name in names
        for k in top_ks
        if name != "batched_mm" or k not in too_large
    }
    scored = _scored(plan, target, works)
    total = target.num_blocks
    arms = [
        Arm(_configuration(plan, works, total, k, name), works, settings[label])
        for name in names
        for k in top_ks
        if (label := _label(k, name)) in settings
    ]
    unchanged = [
        index
        for index, arm in enumerate(arms)
        if (arm.configuration.top_k, arm.configuration.experts_implementation) == (routers.top_k, own)
    ]
    conditions = partial(
        Conditions,
        num_experts=routers.num_experts,
        own_top_k=routers.top_k,
        own_implementation=own,
        quality_of=None if scored is None else scored.source,
    )
    return Subject(
        target,
        arms,
        unchanged,
        conditions,
        warnings,
        may_shorten=plan.new_tokens is None,
        droppable=_droppable(plan, arms, unchanged, own),
        more=partial(_in_full, plan, target, checked) if tried_first else partial(_more, target, scored),
    )


def _scored(plan: Plan, target: Target, works: Sequence[Work]) -> Scored | None:
    return scored_tokens(target, works, plan.text, plan.quality_tokens) if plan.quality_tokens else None


def _label(top_k: int, implementation: str) -> str:
    return f"k = {top_k}, {implementation}"


def _configuration(plan: Plan, works: Sequence[Work], total: int, top_k: int, implementation: str) -> Configuration:
    return Configuration(
        label=_label(top_k, implementation),
        knob=float(top_k),
        num_active_blocks=total,
        num_total_blocks=total,
        active_block_indices=list(range(total)),
        num_vision_tokens=0,
        num_output_tokens=tokens_of(plan.new_tokens),
        top_k=top_k,
        experts_implementation=implementation,
        **plan.input_tokens(works),
    )


def _too_large(plan: Plan, routers: Routers, top_ks: Sequence[int], tokens: int) -> dict[int, str]:
    """The numbers of experts whose weights `batched_mm` cannot copy for each token, with a sentence for each.

    Raises:
        InputError: it was asked for by name.
    """
    free, reasons = free_memory(plan.device), {}
    for k in top_ks:
        needed = routers.gathered_bytes(k, tokens)
        if needed <= free * _SHARE_OF_FREE:
            continue
        why = (
            f"it copies the weights of each token's experts, {needed / 1e9:.1f} GB at {plural(tokens, 'token')}, and "
            f"{free / 1e9:.1f} GB are free"
        )
        if plan.implementations is not None:
            raise InputError(f"--implementations batched_mm with k = {k}: {why}; give a smaller --top-k or prompt")
        reasons[k] = f"k = {k}, batched_mm was left out: {why}"
    return reasons


def _more(target: Target, scored: Scored | None, arms: Sequence[Arm], progress: Progress) -> list[Arm]:
    """The quality of each configuration, and its syncs."""
    updated = []
    for arm in with_quality(target, scored, arms, progress):
        progress(0.0, f"syncs of {arm.configuration.label}")
        syncs = _syncs(target, arm.works[0], arm.setting)
        updated.append(replace(arm, configuration=msgspec.structs.replace(arm.configuration, syncs_per_step=syncs)))
    return updated


def _in_full(plan: Plan, target: Target, checked: _Checked, arms: Sequence[Arm], progress: Progress) -> Sequence[Arm]:
    """The same for arms that were recorded for trying alone; without a text quality is of what is recorded now."""
    recorded = recorded_in_full(target, checked.prompts_BT, arms, progress)
    scored = _scored(plan, target, recorded[0].works) if recorded else None
    return _more(target, scored, recorded, progress)


def _droppable(plan: Plan, arms: Sequence[Arm], unchanged: Sequence[int], own: str) -> list[int]:
    """What may be left out of what is left open: other implementations, then numbers of experts."""
    names = [arm.configuration.experts_implementation for arm in arms]
    dearest = sorted(range(len(arms)), key=lambda index: -arms[index].configuration.knob)
    others = [index for index in dearest if names[index] != own] if plan.implementations is None else []
    same = [index for index, name in enumerate(names) if name == (own if own in names else names[0])]
    between = [same[place] for place in between_first(len(same))] if plan.top_k is None else []
    most = same[-1:] if plan.top_k is None else []
    return [index for index in dict.fromkeys([*others, *between, *most]) if index not in unchanged]


def _top_ks(plan: Plan, num_experts: int) -> list[int]:
    if plan.top_k is None:
        return [2**power for power in range(num_experts.bit_length()) if 2**power <= num_experts]
    if max(plan.top_k) > num_experts:
        raise InputError(f"--top-k {max(plan.top_k)}: the routers choose among {plural(num_experts, 'expert')}")
    return list(plan.top_k)


def _implementations(plan: Plan, runs: Callable[[str], None]) -> tuple[list[str], list[str]]:
    """Those that run here, and what was left out: one that was asked for by name must run."""
    asked = None if plan.implementations is None else [name.strip() for name in plan.implementations.split(",")]
    names, left_out = [], []
    for name in dict.fromkeys(asked or IMPLEMENTATIONS):
        try:
            runs(name)
        except (InputError, RuntimeError, NotImplementedError, ImportError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if asked is not None:
                raise InputError(f"--implementations {name} does not run here: {reason}") from error
            left_out.append(f"{name} was left out: {reason}")
        else:
            names.append(name)
    if not names:
        raise InputError(f"no experts implementation runs here: {'; '.join(left_out)}")
    return names, left_out


def _syncs(target: Target, work: Work, setting: Callable[[], AbstractContextManager[object]]) -> float | None:
    """Host syncs in a decode step, counted in a short call that is not timed."""
    if work.new_tokens < 2:
        return None
    with setting():
        return target.syncs(work.shortened(4), "phases")["decode"].per_step
