"""Watched calls as durations in their order, and two watched runs of one script, paired by call and position.

Watched runs are not replayed, so nothing is compared but what both did: the same call of the same line, with the same
shape, at the same position, both times without instruments or both times with them.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.call_recorder import CallSteps
from perstep.measure import RESIDUAL
from perstep.measure.names import STEP, part_name
from perstep.report.export import Measured
from perstep.runs import Manifest
from perstep.stats import RunCost
from perstep.watching.samples import KINDS, Sample, by_site

Pairs = dict[str, list[tuple[int, int]]]
"""By name of a cost: nanoseconds of the reference and of the new run, pair by pair."""


def timeline(_manifest: Manifest, samples: Sequence[Sample]) -> Iterator[list[Measured]]:
    """The steps of each call, a track a line of the program: prefill first, then decode steps in their order."""
    named = {id(sample): name for name, calls in by_site(samples).items() for sample in calls}
    for number, sample in enumerate(samples):
        yield [
            Measured(named[id(sample)], f"{kind} step", kind, ns, parts, {"call": number, "position": position})
            for kind in reversed(KINDS)
            if kind in sample.kinds
            for position, (ns, parts) in enumerate(_steps(sample.kinds[kind]))
        ]


def _steps(steps: CallSteps) -> Iterator[tuple[int, dict[str, int]]]:
    """Each step, and its parts where it was marked."""
    marked = 0
    for ns, with_marks in zip(steps.step_ns.tolist(), steps.marked.tolist(), strict=True):
        parts: dict[str, int] = {}
        if with_marks:
            parts = {name: int(column[marked]) for name, column in steps.parts.items()}
            parts[RESIDUAL] = int(steps.residual_ns[marked])
            marked += 1
        yield ns, parts


def paired(
    ref: Sequence[Sample], new: Sequence[Sample]
) -> tuple[Mapping[str, RunCost], Mapping[str, RunCost], list[str]]:
    """The costs of two runs over the calls and positions that both have, by name, steps first.

    Raises:
        InputError: no call of the one has its like in the other.
    """
    sites, notes = _matched(by_site(ref), by_site(new))
    by_name: Pairs = {}
    alike = of = 0
    for name, old, now in sites:
        calls = [(one, other) for one, other in zip(old, now, strict=False) if _shape(one) == _shape(other)]
        alike, of = alike + len(calls), of + max(len(old), len(now))
        for kind in KINDS:
            for part, pairs in _pairs(kind, calls).items():
                cost = part_name(kind, part)
                by_name.setdefault(cost if len(sites) == 1 else f"{name}: {cost}", []).extend(pairs)
    if not by_name:
        raise InputError(
            "no call of the one run has its like in the other: the same line, rows, prompt and number of new tokens;"
            " watch one script twice"
        )
    if alike < of:
        notes.append(f"of {plural(of, 'call')} {alike:,} have their like in the other run and are compared")
    both = {name: np.array(pairs, np.float64).T for name, pairs in by_name.items()}
    first, second = ({name: _cost(ns[side], ns) for name, ns in both.items()} for side in (0, 1))
    return first, second, notes


def _cost(ns: NDArray[np.float64], both: NDArray[np.float64]) -> RunCost:
    """The mean over positions, and how slow each was against the mean of both runs there."""
    typical = both.mean(axis=0)
    levels = np.divide(ns, typical, out=np.ones_like(ns), where=typical > 0)
    return RunCost(float(ns.mean()), levels, ns.astype(np.int64)[:, None, None])


def _matched(
    ref: Mapping[str, list[Sample]], new: Mapping[str, list[Sample]]
) -> tuple[list[tuple[str, list[Sample], list[Sample]]], list[str]]:
    """The calls of each line in both runs; lines that moved in their file go by their order in it."""
    matched = [(name, calls, new[name]) for name, calls in ref.items() if name in new]
    moved = [name for name in new if name not in ref]
    notes = []
    for name in [one for one in ref if one not in new]:
        other = next((one for one in moved if one.split(":")[0] == name.split(":")[0]), None)
        if other is not None:
            moved.remove(other)
            matched.append((other, ref[name], new[other]))
            notes.append(f"the calls of {name} are compared with those of {other}: lines of one file, in their order")
    return matched, notes


def _shape(sample: Sample) -> tuple[object, ...]:
    return sample.rows, sample.prompt_tokens, sample.new_tokens, sample.finished


def _pairs(kind: str, calls: Sequence[tuple[Sample, Sample]]) -> Pairs:
    """What both have of a kind of step, position by position: whole steps without marks, parts of those with."""
    by_part: Pairs = {}
    for one, other in calls:
        if kind in one.kinds and kind in other.kinds:
            for old, now in zip(_steps(one.kinds[kind]), _steps(other.kinds[kind]), strict=False):
                for part, pair in _of_step(old, now):
                    by_part.setdefault(part, []).append(pair)
    return {STEP: by_part[STEP], **by_part} if STEP in by_part else by_part


def _of_step(old: tuple[int, dict[str, int]], now: tuple[int, dict[str, int]]) -> Iterator[tuple[str, tuple[int, int]]]:
    if not old[1] and not now[1]:
        yield STEP, (old[0], now[0])
    elif old[1] and now[1]:
        for part in {**old[1], **now[1]}:
            yield part, (old[1].get(part, 0), now[1].get(part, 0))
