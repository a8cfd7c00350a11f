"""One model or several as the subjects of one run: everything is checked for all of them before any is measured.

The weights of several are added up from their shapes before one is loaded, because together they may not fit where
each alone does. An option that one of them cannot take is refused by that model's name.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import psutil

from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.knobs.options import KnobOptions
from perstep.experiments.knobs.session import KnobSession, Subject
from perstep.experiments.memory import is_out_of_memory
from perstep.measure import Clock, Progress
from perstep.targets import Target, weight_bytes

P = TypeVar("P", bound=KnobOptions)
T = TypeVar("T")


def prepare_models(
    name: str,
    plan: P,
    check: Callable[[P, Target], T],
    make: Callable[[P, Target, T, Progress], Subject],
    progress: Progress,
    clock: Clock,
) -> KnobSession:
    """Open the models of a plan, and make them the subjects of one session.

    Args:
        name: of the experiment.
        plan: its options.
        check: what the plan means for a model; called for all of them before the first `make`.
        make: its configurations from what `check` gave.
        progress: told how far it is.
        clock: the host's.

    Raises:
        InputError: the weights do not fit together, or something is wrong with the plan for one of the models.
        MemoryError: it ran out before anything could be measured, in torch too, which has an error of its own for it.
    """
    progress(0.0, "load")
    plans = plan.each()
    several = len(plans) > 1
    if several:
        refuse_if_too_large_together(plans)
    try:
        models = _told_apart(plans, [_open(one, several) for one in plans])
        checked = []
        for one, target in zip(plans, models, strict=True):
            with _naming(target.name, several):
                checked.append(check(one, target))
        subjects = []
        for one, target, outcome in zip(plans, models, checked, strict=True):
            with _naming(target.name, several):
                subjects.append(make(one, target, outcome, progress))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(str(error).splitlines()[0]) from error
    return KnobSession(name, plan, subjects, progress, clock)


def refuse_if_too_large_together(plans: Sequence[KnobOptions], free_bytes: int | None = None) -> None:
    """Add up the weights of several models by their shapes.

    Args:
        plans: one a model, all for one device.
        free_bytes: of that device's memory; what it reports if None.

    Raises:
        InputError: they do not fit, with the bytes of each.
    """
    needed = {}
    for plan in plans:
        with _naming(_given(plan), True):
            needed[_given(plan)] = weight_bytes(
                plan.model, arch=plan.arch, layers=plan.layers, backend=plan.backend, dtype=plan.dtype
            )
    free = free_memory(plans[0].device) if free_bytes is None else free_bytes
    if sum(needed.values()) > free:
        each = ", ".join(f"{name} {count:,}" for name, count in needed.items())
        raise InputError(
            f"the weights of the models need {plural(sum(needed.values()), 'byte')} together ({each}) and {free:,} are "
            "free: give fewer models, keep fewer layers, or use bfloat16"
        )


def free_memory(device: str) -> int:
    """The bytes of a device's memory that are free.

    Args:
        device: as `--device` takes it.

    Raises:
        InputError: there is no such device.
    """
    if device == "cpu":
        return int(psutil.virtual_memory().available)
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch sees no such device here; give --device cpu")
    return int(torch.cuda.mem_get_info(device)[0])


def _given(plan: KnobOptions) -> str:
    """The model as it was named."""
    return plan.arch or plan.model or ""


def _open(plan: KnobOptions, several: bool) -> Target:
    with _naming(_given(plan), several):
        return plan.open()


def _told_apart(plans: Sequence[KnobOptions], models: Sequence[Target]) -> list[Target]:
    """The models under names that differ: where two folders have one name, each has that of its path."""
    count = Counter(target.name for target in models)
    return [
        target
        if count[target.name] == 1
        else replace(target, name=_given(plan), facts={**target.facts, "name": _given(plan)})
        for plan, target in zip(plans, models, strict=True)
    ]


@contextmanager
def _naming(name: str, several: bool) -> Iterator[None]:
    """Say which of several models an error is about, unless it begins with that."""
    try:
        yield
    except InputError as error:
        if not several or str(error).startswith((f"{name} ", f"{name}:")):
            raise
        raise InputError(f"{name}: {error}") from error
