"""The options of `cache`, and what is wrong with them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.cache.findings import theory_bytes
from perstep.experiments.cache.samples import Conditions, Workload
from perstep.experiments.models import ModelOptions
from perstep.experiments.options import Counts, parse_counts
from perstep.targets import Target
from perstep.targets.reference.memory import refuse_if_too_large

DEFAULT_CONTEXTS = "8-1024*2"
MOST_CONTEXTS = 64


@dataclass(frozen=True, kw_only=True)
class Plan(ModelOptions):
    """The options of `perstep cache`."""

    context: Annotated[Counts | None, Parameter(name=["-c", "--context"])] = None
    """Positions in the cache before the step: a list `8,64,512` or a range `8-1024*2` or `64-512+64`.
    [default: `8-1024*2`, as far as the model's context reaches]"""

    batch: Annotated[int, Parameter(name=["-b", "--batch"])] = 1
    """Sequences decoded side by side."""

    cache: Literal["dynamic", "static"] | None = None
    """Cache of a transformers model: dynamic grows, static is allocated in advance. [default: dynamic]"""


def contexts_of(plan: Plan, target: Target) -> tuple[int, ...]:
    """The contexts, once it is known that the model has these positions and one more for the step."""
    most = target.facts["max_positions"]
    if plan.context is None:
        return tuple(S for S in parse_counts(DEFAULT_CONTEXTS) if most is None or most > S) or (most - 1,)
    if len(plan.context) > MOST_CONTEXTS:
        raise InputError(
            f"--context has {plural(len(plan.context), 'context')}, and each is visited in every round; give at most "
            f"{MOST_CONTEXTS}, such as {plan.context[0]}-{plan.context[-1]}*2"
        )
    if most is not None and plan.context[-1] >= most:
        raise InputError(
            f"--context {plan.context[-1]}: {target.name} has {plural(most, 'position')}, and the decoded token takes "
            f"one; give at most {most - 1}"
        )
    return plan.context


def check_memory(plan: Plan, contexts: tuple[int, ...], conditions: Conditions, workload: Workload) -> None:
    """What the caches need, from shapes, before anything is allocated."""
    used = [theory_bytes(conditions, workload, S)[1] or 0 for S in contexts]
    caches = sum(used) + used[-1] if workload.capacity is None else used[-1]
    what = "a KV cache for each context" if workload.capacity is None else "a KV cache for contexts"
    refuse_if_too_large(f"{what} up to {contexts[-1]:,} and a batch of {plan.batch:,}", caches)
