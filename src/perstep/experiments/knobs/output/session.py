"""The measurement of `output`: calls of several lengths."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from perstep.experiments.knobs import Arm, Configuration, KnobSession, Subject, prepare_models, record_all
from perstep.experiments.knobs.output.plan import Plan
from perstep.experiments.knobs.session import TRIED_TOKENS, recorded_in_full
from perstep.measure import Clock, Progress
from perstep.targets import Target


def prepare(plan: Plan, progress: Progress, clock: Clock) -> KnobSession:
    """Check the plan, load the model, record the longest call, of which the others are beginnings, warm up.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
    """
    prompts = plan.checked_prompts()

    def check(one: Plan, target: Target) -> list[NDArray[np.int64]]:
        return one.make_prompts(prompts, target, max(one.new_tokens))

    return prepare_models("output", plan, check, _subject, progress, clock)


def _subject(plan: Plan, target: Target, prompts_BT: list[NDArray[np.int64]], progress: Progress) -> Subject:
    """One model: its longest call recorded, with `--fast` the longest of those that the budget holds."""
    is_open = plan.new_tokens == Plan().new_tokens
    tried_first = plan.fast and is_open
    most = TRIED_TOKENS if tried_first else max(plan.new_tokens)
    longest = record_all(target, prompts_BT, most, progress)
    total = target.num_blocks
    arms = [
        Arm(
            Configuration(
                label=f"{count:,}",
                knob=float(count),
                num_active_blocks=total,
                num_total_blocks=total,
                active_block_indices=list(range(total)),
                num_vision_tokens=0,
                num_output_tokens=count,
                **plan.input_tokens(longest),
            ),
            [work.shortened(count) for work in longest],
            nullcontext,
        )
        for count in plan.new_tokens
    ]

    droppable = range(len(arms) - 1, 0, -1) if is_open else ()
    subject = Subject(target, arms, range(len(arms)), droppable=droppable)
    return replace(subject, more=partial(recorded_in_full, target, prompts_BT)) if tried_first else subject
