"""The samples of `ledger`: passes of two arms over one trace, kept as columns and stacked into arrays. And its facts.

Pure data. On a device there are two sets of columns, host time and device time, which are never mixed (law "clocks are
never mixed").
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Literal

import msgspec
import numpy as np

from perstep._json import Json
from perstep.errors import InputError
from perstep.experiments.columns import require_rounds, stack_passes
from perstep.experiments.conditions import GeneratedWorkload, MarkedConditions
from perstep.experiments.ledger.calls import Calls
from perstep.experiments.ledger.device.samples import ProfiledRound
from perstep.experiments.sync_counts import SyncCounts
from perstep.machine import Noise
from perstep.machine.device_ceilings import DeviceCeilings
from perstep.measure import TURNS, UNMARKED, LedgerSamples, Steps, is_marked
from perstep.runs import Column

KINDS = ("decode", "prefill")
ARMS = ("plain", "marked")
ROUNDS_AIMED_AT = 40
"""Calls are cut into pieces until there are this number of rounds: 20 for a verdict, and as many to be merged."""
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
        turns: how the calls are made in which marked and plain steps take turns; None where whole passes do.
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
    turns: Calls | None = None
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
        kinds: host time, by kind of step; where marked and plain steps take turns, the latter are of kinds of their own
            (`decode.plain`).
        device: device time likewise; nothing where the host does all the work.
        idle: at most how long the device waited for the host, in the columns of `device`, marked steps alone.
    """

    arm: str
    differing_choices: int
    kinds: dict[str, Steps]
    device: dict[str, Steps] = {}
    idle: dict[str, Steps] = {}


class Sample(msgspec.Struct):
    """One round: a balanced block of passes, the ceilings in it, and what a device did; older runs lack some.

    Where marked and plain steps take turns, the passes are pairs of one and the other turn: one that decodes, and some
    that end with the prefill.
    """

    round: int
    passes: list[Pass]
    noise: Noise
    ceilings: dict[str, float] = {}
    profiled: ProfiledRound | None = None
    ceilings_again: list[dict[str, float]] = []


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
    if any(p.arm in TURNS for s in samples for p in s.passes):
        return _alternating(samples, side)
    counts = {tuple(sum(p.arm == arm for p in s.passes) for arm in ARMS) for s in samples}
    kinds = {kind for s in samples for p in s.passes for kind in getattr(p, side)}
    if len(counts) > 1 or 0 in min(counts) or (side == "kinds" and "prefill" not in kinds):
        raise InputError(f"the rounds do not all hold the same {_ALIKE}; restore the file, or measure again")
    return {kind: _stack(samples, kind, side) for kind in KINDS if kind in kinds}


def idle_ns(samples: Sequence[Sample], kind: str) -> dict[str, float]:
    """At most how long the device waited for the host in a step, by part and unattributed, as means over all steps."""
    columns = [p.idle[kind] for s in samples for p in s.passes if kind in p.idle]
    names = dict.fromkeys(name for c in columns for name in c.parts)
    mean = {name: _mean(c.parts.get(name, np.zeros(0, np.int64)) for c in columns) for name in names}
    return {**mean, "residual": _mean(c.residual_ns for c in columns)}


def _mean(columns: Iterable[Column]) -> float:
    return float(np.concatenate(list(columns)).mean())


def plain_steps(sample: Sample, kind: str) -> list[Column]:
    """The durations of the uninstrumented steps of a round, a column of all positions for each of its replicates."""
    if sample.passes[0].arm not in TURNS:
        return [p.kinds[kind].step_ns for p in sample.passes if p.arm == "plain"]
    return [plain for plain, _ in _pairs(sample, kind, "kinds")]


def _alternating(samples: Sequence[Sample], side: Side) -> dict[str, LedgerSamples]:
    """Pairs of calls as arrays: in each both kinds of step at every position."""
    by_kind = {}
    for kind in KINDS:
        pairs = [_pairs(sample, kind, side) for sample in samples]
        if any(pairs):
            stacked = stack_passes(
                [[plain for plain, _ in calls] for calls in pairs], [[steps for _, steps in calls] for calls in pairs],
                _ALIKE,
            )  # fmt: skip
            rounds, passes, positions = stacked.step_ns.shape
            whole = rounds >= ROUNDS_AIMED_AT // 2 and passes == 1
            pieces = min(ceil(ROUNDS_AIMED_AT / rounds / passes), max(positions // 2, 1))
            by_kind[kind] = stacked if whole else replace(stacked, pieces=pieces)
    return by_kind


def _pairs(sample: Sample, kind: str, side: Side) -> list[tuple[Column, Steps]]:
    """The plain and the marked steps of each pair of calls that has this kind, at all of its positions."""
    calls = [(TURNS.index(p.arm) if p.arm in TURNS else -1, getattr(p, side)) for p in sample.passes]
    pairs = list(zip(calls[::2], calls[1::2], strict=True)) if len(calls) % 2 == 0 else []
    if not pairs or any({one, other} != {0, 1} for (one, _), (other, _) in pairs):
        raise InputError(f"the rounds do not all hold the same {_ALIKE}; restore the file, or measure again")
    sides = [dict(pair) for pair in pairs]
    return [_whole(by_turn, kind) for by_turn in sides if any(kind in name for name in by_turn[0])]


def _whole(by_turn: Mapping[int, Mapping[str, Steps]], kind: str) -> tuple[Column, Steps]:
    """One column of plain steps and one of marked ones, of what lies apart in two calls."""
    marked = [by_turn[turn].get(kind, _NOTHING) for turn in (0, 1)]
    plain = [by_turn[turn].get(kind + UNMARKED, _NOTHING).step_ns for turn in (0, 1)]
    positions = len(marked[0].step_ns) + len(plain[0])
    first = np.array([kind == "prefill" or is_marked(at, 0) for at in range(positions)], bool)
    counts = [int(first.sum()), positions - int(first.sum())]
    if [len(m.step_ns) for m in marked] != counts or [len(p) for p in plain] != counts[::-1]:
        raise InputError(f"the rounds do not all hold the same {_ALIKE}; restore the file, or measure again")

    def together(one: Column, other: Column) -> Column:
        column = np.zeros(positions, np.int64)
        column[first], column[~first] = one, other
        return column

    names = dict.fromkeys(name for m in marked for name in m.parts)
    parts = [{name: m.parts.get(name, np.zeros(len(m.step_ns), np.int64)) for name in names} for m in marked]
    steps = Steps(
        together(marked[0].step_ns, marked[1].step_ns),
        {name: together(parts[0][name], parts[1][name]) for name in names},
        together(marked[0].residual_ns, marked[1].residual_ns),
        {name: sum(m.marks.get(name, 0) for m in marked) for name in names},
    )
    return together(plain[1], plain[0]), steps


def _stack(samples: Sequence[Sample], kind: str, side: Side) -> LedgerSamples:
    plain, marked = (
        [[getattr(p, side).get(kind, _NOTHING) for p in s.passes if p.arm == arm] for s in samples] for arm in ARMS
    )
    return stack_passes([[steps.step_ns for steps in passes] for passes in plain], marked, _ALIKE)
