"""What the device did in each part of a step: busy time, launches, and what follows from them beside the step's time.

Busy time is that of kernels in profiled steps, which are steps of their own; the step is that of plain ones at the same
positions of the same rounds. `idle` is derived from both, and has an interval from the rounds. Nothing of the profiled
steps' own duration is kept: the profiler stretches it. `samples.py` has the samples, `show.py` the
tables.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.ledger.device.samples import ProfiledRound, WorkColumns
from perstep.experiments.ledger.samples import KINDS, Sample, plain_steps
from perstep.measure import RESIDUAL, TURNS
from perstep.measure.kernel_names import short_name
from perstep.stats import (
    MIN_ROUNDS_FOR_VERDICT,
    ledger_estimate,
    merge_until_independent,
    merged_interval,
    share_interval,
    step_estimate,
)

HOST_BOUND_BELOW = 0.6
"""A step whose kernels run for less of it waits for launches."""
DEVICE_BOUND_ABOVE = 0.9
"""A step whose kernels run for more of it is the device's."""

BUSY_CLASSES: dict[str, tuple[float, float]] = {
    "host-bound": (0.0, HOST_BOUND_BELOW),
    "balanced": (HOST_BOUND_BELOW, DEVICE_BOUND_ABOVE),
    "device-bound": (DEVICE_BOUND_ABOVE, float("inf")),
}
"""What bounds a step, by the share of it in which kernels run."""

What = Literal["host-bound", "balanced", "device-bound", ""]


class KernelTime(msgspec.Struct, frozen=True, kw_only=True):
    """The kernels of one name in a part: how many a step, how long each and together, and their share of the part."""

    name: str
    short: str
    per_step: float
    mean_ns: float
    ns_per_step: float
    share: float


class PartWork(msgspec.Struct, frozen=True, kw_only=True):
    """What the device did for a part, in a step.

    Attributes:
        busy_ns: as the busy time of a ledger's part is estimated (law "medians do not add").
        share: of the step's busy time.
        ci_low: lower end of the interval of `busy_ns`, None without one.
        ci_high: its upper end.
        sum_ns: its kernels' own durations added up, the mean over all profiled steps.
        launches: in a step.
        replayed_ns: in graph replays that could not be split, the mean over all profiled steps.
        kernels: those that take the most first.
    """

    busy_ns: float
    share: float
    ci_low: float | None
    ci_high: float | None
    sum_ns: float
    launches: float
    replayed_ns: float = 0.0
    kernels: list[KernelTime] = []


class DeviceWork(msgspec.Struct, frozen=True, kw_only=True):
    """The device's work in one kind of step.

    Attributes:
        kind: `decode` or `prefill`.
        rounds: with profiled steps.
        steps: profiled in all.
        positions: of the trace, from the first of this kind on, that were profiled in each round.
        parts: by name, in the order of the step.
        busy_ns: the kernels of a step.
        step_ns: a plain step, at the same positions.
        idle_ns: derived: step - busy.
        idle_ci_low: of the rounds' paired differences, widened to hold `idle_ns`; None without an interval.
        idle_ci_high: its upper end.
        busy_share: busy / step.
        share_ci_low: of the rounds' paired ratios; None without an interval.
        share_ci_high: its upper end.
        launches: in a step.
        bound: what bounds the step, where the interval of the share says so.
        total_ns: all device work that the profiler saw in these rounds, of both kinds and outside of steps.
        unmatched_ns: of it, what has no launch in the trace.
        unmatched: number of kernels.
        began_early: kernels that began before their launch.
        early_ns: by how much at most.
        whole_replays: graph replays that could not be split into parts.
        split_replays: those that could.
    """

    kind: str
    rounds: int
    steps: int
    positions: int
    parts: dict[str, PartWork]
    busy_ns: float
    step_ns: float
    idle_ns: float
    idle_ci_low: float | None
    idle_ci_high: float | None
    busy_share: float
    share_ci_low: float | None
    share_ci_high: float | None
    launches: float
    bound: What
    total_ns: int
    unmatched_ns: int = 0
    unmatched: int = 0
    began_early: int = 0
    early_ns: int = 0
    whole_replays: int = 0
    split_replays: int = 0


def what_bounds(low: float | None, high: float | None) -> What:
    """What bounds a step by the interval of busy / step; nothing where the interval lies in no one class.

    >>> what_bounds(0.08, 0.1), what_bounds(0.95, 0.97), what_bounds(0.55, 0.65)
    ('host-bound', 'device-bound', '')
    """
    if low is None or high is None:
        return ""
    if high < HOST_BOUND_BELOW:
        return "host-bound"
    if low > DEVICE_BOUND_ABOVE:
        return "device-bound"
    return "balanced" if low >= HOST_BOUND_BELOW and high <= DEVICE_BOUND_ABOVE else ""


def device_work(samples: Sequence[Sample]) -> dict[str, DeviceWork]:
    """The device's work by kind of step; nothing where no step was profiled. A pure function.

    Raises:
        InputError: rounds that do not hold the same steps.
    """
    pairs = [(sample, sample.profiled) for sample in samples if sample.profiled is not None]
    by_kind = {}
    for kind in KINDS:
        if pairs and all(kind in profiled.kinds for _, profiled in pairs):
            plain_ns = _plain_ns([sample for sample, _ in pairs], kind, pairs[0][1].kinds[kind].steps)
            by_kind[kind] = work_of(kind, [profiled for _, profiled in pairs], plain_ns, steps_are_rounds=_few(samples))
    return by_kind


def _few(samples: Sequence[Sample]) -> bool:
    """Whether the rounds are so few and so long that each profiled step must be one."""
    return len(samples) < MIN_ROUNDS_FOR_VERDICT and samples[0].passes[0].arm in TURNS


def _plain_ns(samples: Sequence[Sample], kind: str, positions: int) -> NDArray[np.float64]:
    """Plain steps at the first positions, the mean over the passes of a round: [rounds, positions]."""
    try:
        return np.array(
            [np.mean([column[:positions] for column in plain_steps(s, kind)], axis=0) for s in samples],
            np.float64,
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"the rounds do not all hold the same plain steps ({error}); measure again") from error


def work_of(
    kind: str, rounds: Sequence[ProfiledRound], plain_ns: NDArray[np.float64], *, steps_are_rounds: bool = False
) -> DeviceWork:
    """The device's work in one kind of step.

    Args:
        kind: of all steps.
        rounds: each with profiled steps of this kind.
        plain_ns: [rounds, positions] the steps that the work is set beside.
        steps_are_rounds: each step is a round for the intervals, paired with the plain one at its position. Kernels
            take what they take whatever the host does, so that steps of a round differ as those of two rounds do.

    Raises:
        InputError: the rounds do not hold as many steps as there are plain ones.
    """
    columns = [one.kinds[kind] for one in rounds]
    names = dict.fromkeys(name for one in columns for name in one.busy_ns)
    busy = {name: _stack(columns, "busy_ns", name) for name in names}
    total = np.sum(list(busy.values()), axis=0)
    if total.shape != plain_ns.shape:
        raise InputError(f"{total.shape} profiled {kind} steps stand beside {plain_ns.shape} plain ones; measure again")
    estimate = ledger_estimate(total, {name: ns for name, ns in busy.items() if name != RESIDUAL})
    parts_ns = {**estimate.parts_ns, **({RESIDUAL: estimate.residual_ns} if RESIDUAL in names else {})}
    step_ns = step_estimate(plain_ns)
    axes = (-1, 1) if steps_are_rounds else total.shape
    share_low, share_high = _share(total.reshape(axes), plain_ns.reshape(axes), estimate.step_ns / step_ns)
    idle = _idle(total.reshape(axes), plain_ns.reshape(axes), step_ns - estimate.step_ns)
    parts = {name: _part(name, columns, busy, parts_ns[name], total, axes) for name in _ordered(names)}
    return DeviceWork(
        kind=kind,
        rounds=len(rounds),
        steps=int(total.size),
        positions=int(total.shape[1]),
        parts=parts,
        busy_ns=estimate.step_ns,
        step_ns=step_ns,
        idle_ns=step_ns - estimate.step_ns,
        idle_ci_low=idle[0],
        idle_ci_high=idle[1],
        busy_share=estimate.step_ns / step_ns,
        share_ci_low=share_low,
        share_ci_high=share_high,
        launches=sum(part.launches for part in parts.values()),
        bound=what_bounds(share_low, share_high),
        total_ns=sum(one.total_ns for one in rounds),
        unmatched_ns=sum(one.unmatched_ns for one in rounds),
        unmatched=sum(one.unmatched for one in rounds),
        began_early=sum(one.began_early for one in rounds),
        early_ns=max(one.early_ns for one in rounds),
        whole_replays=sum(one.whole_replays for one in rounds),
        split_replays=sum(one.split_replays for one in rounds),
    )


def _ordered(names: Mapping[str, None]) -> list[str]:
    """The parts in their order, what lies in none last."""
    return sorted(names, key=lambda name: name == RESIDUAL)


def _stack(columns: Sequence[WorkColumns], field: str, name: str) -> NDArray[np.float64]:
    """A part's column in every round, [rounds, positions]; 0 where it did not occur."""
    by_round = [getattr(one, field) for one in columns]
    try:
        return np.array([parts.get(name, np.zeros(one.steps)) for parts, one in zip(by_round, columns, strict=True)])
    except ValueError as error:
        raise InputError(f"the rounds do not all hold as many profiled steps ({error}); measure again") from error


def _part(
    name: str,
    columns: Sequence[WorkColumns],
    busy: Mapping[str, NDArray[np.float64]],
    busy_ns: float,
    total: NDArray[np.float64],
    axes: tuple[int, ...],
) -> PartWork:
    whole_ns, steps = float(step_estimate(total)), total.size
    share = busy_ns / whole_ns if whole_ns else 0.0
    totals = total.reshape(axes).sum(axis=1)
    interval = (
        share_interval(busy[name].reshape(axes).sum(axis=1), totals, estimate=share, comparisons=len(busy))
        if (totals > 0).all()
        else None
    )
    return PartWork(
        busy_ns=busy_ns,
        share=share,
        ci_low=None if interval is None else interval.low * whole_ns,
        ci_high=None if interval is None else interval.high * whole_ns,
        sum_ns=float(_stack(columns, "sum_ns", name).mean()),
        launches=float(_stack(columns, "launches", name).mean()),
        replayed_ns=sum(one.replayed_ns.get(name, 0) for one in columns) / steps,
        kernels=_kernels([one.kernels.get(name, {}) for one in columns], steps),
    )


def _kernels(counted: Sequence[Mapping[str, tuple[int, int]]], steps: int) -> list[KernelTime]:
    counts: dict[str, list[int]] = {}
    for one in counted:
        for name, (count, total_ns) in one.items():
            both = counts.setdefault(name, [0, 0])
            both[0] += count
            both[1] += total_ns
    whole = sum(total for _, total in counts.values())
    times = [
        KernelTime(
            name=name,
            short=short_name(name),
            per_step=count / steps,
            mean_ns=total / count,
            ns_per_step=total / steps,
            share=total / whole if whole else 0.0,
        )
        for name, (count, total) in counts.items()
    ]
    return sorted(times, key=lambda kernel: -kernel.ns_per_step)


def _share(
    busy: NDArray[np.float64], plain: NDArray[np.float64], estimate: float
) -> tuple[float, float] | tuple[None, None]:
    interval = share_interval(busy.sum(axis=1), plain.sum(axis=1), estimate=estimate)
    return (None, None) if interval is None else (interval.low, interval.high)


def _idle(
    busy: NDArray[np.float64], plain: NDArray[np.float64], estimate: float
) -> tuple[float, float] | tuple[None, None]:
    """The interval of plain - busy, paired within the round."""
    both = np.stack([plain.mean(axis=1), busy.mean(axis=1)], axis=1)
    interval = merged_interval(merge_until_independent(both, lambda x: x[:, 0] - x[:, 1]))
    return (None, None) if interval is None else (min(interval.low, estimate), max(interval.high, estimate))
