"""The samples of `ledger`: passes of two arms over one trace, kept as columns and stacked into arrays. And its facts.

Pure data. On a device there are two sets of columns, host time and device time, which are never mixed (law "clocks are
never mixed").
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np

from perstep._json import Json
from perstep.errors import InputError
from perstep.experiments.columns import require_rounds, stack_passes
from perstep.experiments.conditions import GeneratedWorkload, MarkedConditions
from perstep.experiments.ledger.device.samples import ProfiledRound
from perstep.experiments.sync_counts import SyncCounts
from perstep.machine import Noise
from perstep.machine.device_ceilings import DeviceCeilings
from perstep.measure import LedgerSamples, Steps
from perstep.runs import Column

KINDS = ("decode", "prefill")
ARMS = ("plain", "marked")
Side = Literal["kinds", "device", "idle"]
"""Which columns of a pass: host time, device time, and what the device may have waited for the host at most."""


class Bounded(msgspec.Struct, omit_defaults=True):
    """What theory must know of the target for bounds beside its parts; empty where it has no formula.

    Attributes:
        config: of the model, as in its config.json.
        backend: how the steps are carried out, a name of `experiments.bounds.BACKENDS`.
        dtype: of the weights.
        unknown: why there is nothing although theory has a formula: what the layers compute is unknown.
    """

    config: dict[str, Json] = {}
    backend: str = ""
    dtype: str = ""
    unknown: str = ""


class Conditions(MarkedConditions, kw_only=True):
    """How `ledger` measured.

    Attributes:
        arms: in the order of `ARMS`.
        bounds: what the bounds of the parts are made of.
        device_bounds: likewise, of what a device does in them.
        device_ceilings: of the device; None without one.
        end_tokens: what becomes of them, in words.
        detail: how far inside the forward of a transformers model; None for the NumPy decoder.
        generate: the arguments of the generate calls.
        notes: sentences below the first table.
        syncs: syncs that were counted, by kind of step.
        tf32: whether matrix products may use it; None without a device.
        cudnn_benchmark: whether cuDNN tries its algorithms; None without a device.
    """

    arms: list[str]
    bounds: Bounded
    device_bounds: Bounded = msgspec.field(default_factory=Bounded)
    device_ceilings: DeviceCeilings | None = None
    end_tokens: str
    detail: str | None = None
    generate: dict[str, Json] = msgspec.field(default_factory=dict)
    notes: list[str] = msgspec.field(default_factory=list)
    syncs: dict[str, SyncCounts] = msgspec.field(default_factory=dict)
    tf32: bool | None = None
    cudnn_benchmark: bool | None = None


class Workload(GeneratedWorkload, kw_only=True):
    """The work of `ledger`.

    Attributes:
        prompt_tokens: of each sequence.
        new_tokens: of each sequence: one prefill and N - 1 decode steps.
    """

    prompt_tokens: int
    new_tokens: int


_NOTHING = Steps(np.zeros(0, np.int64))
_ALIKE = "passes, steps and parts"


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
    counts = {tuple(sum(p.arm == arm for p in s.passes) for arm in ARMS) for s in samples}
    held = {kind for s in samples for p in s.passes for kind in getattr(p, side)}
    if len(counts) > 1 or 0 in min(counts) or (side == "kinds" and "prefill" not in held):
        raise InputError(f"the rounds do not all hold the same {_ALIKE}; restore the file, or measure again")
    return {kind: _stack(samples, kind, side) for kind in KINDS if kind in held}


def idle_ns(samples: Sequence[Sample], kind: str) -> dict[str, float]:
    """At most how long the device waited for the host in a step, by part and unattributed, as means over all steps."""
    held = [p.idle[kind] for s in samples for p in s.passes if kind in p.idle]
    names = dict.fromkeys(name for c in held for name in c.parts)
    mean = {name: _mean(c.parts.get(name, np.zeros(0, np.int64)) for c in held) for name in names}
    return {**mean, "residual": _mean(c.residual_ns for c in held)}


def _mean(found: Iterable[Column]) -> float:
    return float(np.concatenate(list(found)).mean())


def _stack(samples: Sequence[Sample], kind: str, side: Side) -> LedgerSamples:
    plain, marked = (
        [[getattr(p, side).get(kind, _NOTHING) for p in s.passes if p.arm == arm] for s in samples] for arm in ARMS
    )
    return stack_passes([[steps.step_ns for steps in passes] for passes in plain], marked, _ALIKE)
