"""The measurement of `experts`: the same tokens with each number of experts."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.knobs import Arm, Configuration, KnobSession, Subject, prepare_models, record_all
from perstep.experiments.knobs.experts.plan import Plan
from perstep.experiments.knobs.experts.samples import Conditions
from perstep.experiments.knobs.quality import measure_quality, scored_tokens
from perstep.experiments.knobs.session import measure_pass
from perstep.experiments.options import at_least
from perstep.measure import Clock, Progress
from perstep.targets import Target, Work
from perstep.targets.transformers import IMPLEMENTATIONS, ExpertsPerToken, Routers, experts_implementation


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
    prompts = plan.checked_prompts()
    at_least(1, new_tokens=plan.new_tokens)
    at_least(0, quality_tokens=plan.quality_tokens)

    def check(one: Plan, target: Target) -> _Checked:
        routers = target.find_routers()
        top_ks = _top_ks(one, routers.num_experts)
        return _Checked(routers, top_ks, one.make_prompts(prompts, target, one.new_tokens))

    def make(one: Plan, target: Target, checked: _Checked, progress: Progress) -> Subject:
        return _subject(one, target, checked, progress, clock)

    return prepare_models("experts", plan, check, make, progress, clock)


def _subject(plan: Plan, target: Target, checked: _Checked, progress: Progress, clock: Clock) -> Subject:
    """One model: its tokens recorded, its implementations tried, its syncs counted, its quality measured."""
    routers, top_ks = checked.routers, checked.top_ks
    own = experts_implementation(target.model)
    works = record_all(target, checked.prompts_BT, plan.new_tokens, progress)

    def setting(top_k: int, implementation: str) -> Callable[[], AbstractContextManager[object]]:
        return lambda: ExpertsPerToken(routers, top_k, implementation)

    def runs(name: str) -> None:
        with setting(top_ks[0], name)():
            measure_pass(target, works[0].shortened(min(2, plan.new_tokens)), clock)

    names, warnings = _implementations(plan, runs)
    settings = {f"k = {k}, {name}": setting(k, name) for name in names for k in top_ks}
    quality = {}
    if plan.quality_tokens:
        scored = scored_tokens(target, works, plan.text, plan.quality_tokens)
        quality = measure_quality(target, scored, settings, progress)
    total = target.num_blocks
    arms = []
    for name in names:
        for k in top_ks:
            label = f"k = {k}, {name}"
            progress(0.0, f"syncs of {label}")
            configuration = Configuration(
                label=label,
                knob=float(k),
                num_active_blocks=total,
                num_total_blocks=total,
                active_block_indices=list(range(total)),
                num_vision_tokens=0,
                num_output_tokens=plan.new_tokens,
                top_k=k,
                experts_implementation=name,
                quality=quality.get(label),
                syncs_per_step=_syncs(target, works[0], settings[label]),
                **plan.input_tokens(works),
            )
            arms.append(Arm(configuration, works, settings[label]))
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
        quality_of=scored.source if plan.quality_tokens else None,
    )
    return Subject(target, arms, unchanged, conditions, warnings)


def _top_ks(plan: Plan, num_experts: int) -> list[int]:
    if plan.top_k is None:
        return [2**power for power in range(num_experts.bit_length()) if 2**power <= num_experts]
    at_least(1, top_k=min(plan.top_k))
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
