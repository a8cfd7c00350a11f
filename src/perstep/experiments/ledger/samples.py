"""The samples of `ledger`: passes of two arms over one trace, kept as columns and stacked into arrays.

Pure data. On a device there are two sets of columns, host time and device time, which are never mixed (law "clocks are
never mixed").
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np

from perstep.experiments.columns import require_rounds, same_in_every_round, stack_passes
from perstep.experiments.device.samples import ProfiledRound
from perstep.machine import Noise
from perstep.measure import LedgerSamples, Steps
from perstep.runs import Column

KINDS = ("decode", "prefill")
ARMS = ("plain", "marked")
Side = Literal["kinds", "device", "idle"]
"""Which columns of a pass: host time, device time, and what the device may have waited for the host at most."""


class Pass(msgspec.Struct, omit_defaults=True):
    """One replay of the trace by one arm.

    Attributes:
        arm: which.
        differing_choices: choices that were not those of the trace.
        kinds: host time, by kind of step.
        device: device time likewise; nothing where the host does all the work.
        idle: at most how long the device waited for the host, in the columns of `device`, marked steps alone.
    """

    arm: str
    differing_choices: int
    kinds: dict[str, Steps]
    device: dict[str, Steps] = {}
    idle: dict[str, Steps] = {}


class Sample(msgspec.Struct):
    """One round: a balanced block of passes, the ceilings in it, and what a device did; older runs lack some."""

    round: int
    passes: list[Pass]
    noise: Noise
    ceilings: dict[str, float] = {}
    profiled: ProfiledRound | None = None


def stored(steps: Steps, *, marked: bool) -> Steps:
    """Recorded steps as they are stored; of unmarked ones the duration alone."""
    return steps if marked else Steps(steps.step_ns)


def ledger_samples(samples: Sequence[Sample], side: Side = "kinds") -> dict[str, LedgerSamples]:
    """The samples as arrays, for each kind of step there is, decode first.

    Args:
        samples: at least one round.
        side: host time, unless told.

    Raises:
        InputError: there are no samples, or rounds that do not hold the same steps and parts.
    """
    require_rounds(samples)
    with same_in_every_round("passes, steps and parts"):
        return {kind: _stack(samples, kind, side) for kind in KINDS if kind in getattr(samples[0].passes[0], side)}


def idle_ns(samples: Sequence[Sample], kind: str) -> dict[str, float]:
    """At most how long the device waited for the host in a step, by part and in no part, as means over all steps."""
    held = [p.idle[kind] for s in samples for p in s.passes if kind in p.idle]
    names = dict.fromkeys(name for c in held for name in c.parts)
    mean = {name: _mean(c.parts.get(name, np.zeros(0, np.int64)) for c in held) for name in names}
    return {**mean, "residual": _mean(c.residual_ns for c in held)}


def _mean(found: Iterable[Column]) -> float:
    return float(np.concatenate(list(found)).mean())


def _stack(samples: Sequence[Sample], kind: str, side: Side) -> LedgerSamples:
    plain, marked = ([[getattr(p, side)[kind] for p in s.passes if p.arm == arm] for s in samples] for arm in ARMS)
    return stack_passes([[steps.step_ns for steps in passes] for passes in plain], marked)
