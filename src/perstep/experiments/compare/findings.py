"""What `compare` finds: the change of each arm with its interval and verdict, in wall and in processor time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.compare.samples import Conditions, Sample
from perstep.experiments.conditions import typed
from perstep.machine import NoiseSummary, busy_reason, summarise_noise
from perstep.report.format import plural, significant
from perstep.runs import Manifest
from perstep.stats import MIN_ROUNDS_FOR_VERDICT, Change, Verdict, invalid_change, paired_changes, withhold


class ProcessorTime(msgspec.Struct, frozen=True, kw_only=True):
    """The processor time of an arm's calls, all threads (of a command: all its processes), and how it changed.

    It is not the time that a caller waits: it leaves out waiting of every kind.

    Attributes:
        ns_per_call: median over rounds.
        change: relative to the reference's processor time; None for the reference itself, or without a verdict.
        ci_low: lower end of its 95 % interval (Bonferroni over the arms), or None.
        ci_high: upper end.
        mde: the smallest change that these rounds would have resolved in 80 % of tries, or None.
        verdict: as in `ArmResult`, read off this interval; `faster` and `slower` only where all of it is beyond ±T.
        reason: why, in words.
    """

    ns_per_call: float
    change: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    mde: float | None = None
    verdict: str = ""
    reason: str = ""


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """One arm against the reference.

    Attributes:
        name: of the arm.
        ns_per_call: median over rounds of the wall time.
        calls_per_block: timed calls in a turn.
        processor: the processor time of the same calls.
        change: relative to the reference, 0.031 is 3.1 % slower; None for the reference itself or if invalid.
        ci_low: lower end of its 95 % interval (Bonferroni over the arms), or None.
        ci_high: upper end.
        mde: the smallest change that these rounds would have resolved in 80 % of tries, or None.
        verdict: `faster`, `slower`, `same (within ±T)`, `not resolved`, `not resolved (the machine was busy ...)`,
            `invalid (reason)`; empty for the reference.
        reason: why, in words.
        merged_by: adjacent rounds joined because they resembled each other.
        ties: rounds in which both took exactly the same time.
    """

    name: str
    ns_per_call: float
    calls_per_block: int
    processor: ProcessorTime
    change: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    mde: float | None = None
    verdict: str = ""
    reason: str = ""
    merged_by: int = 1
    ties: int = 0


class CompareFindings(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison found: `results.json`.

    Attributes:
        reference: name of the arm that the others are compared with.
        rounds: balanced rounds, the unit of replication.
        replicates: what differs from round to round: `rounds of one process`, or `processes` where each round has new
            ones. What does not differ is not in the intervals.
        arms: by name, the reference first.
        busy: why wall time gives no verdict, or empty.
        noise: what disturbed the rounds; those hit are kept.
        invalid: why the numbers must not be believed, or empty.
        unresolved: what could not be resolved, or empty.
        notes: what a reader must know.
    """

    reference: str
    rounds: int
    replicates: str
    arms: dict[str, ArmResult]
    noise: NoiseSummary
    busy: str = ""
    invalid: str = ""
    unresolved: str = ""
    notes: list[str] = []


def _costs(conditions: Conditions, samples: Sequence[Sample], of: Callable[[Sample], list[int]]) -> NDArray[np.float64]:
    """Nanoseconds a call, [rounds, arms]: the mean of an arm's turns in the round."""
    names = conditions.arms
    calls = np.array([conditions.calls_per_block[name] for name in names], np.float64)
    index = {name: column for column, name in enumerate(names)}
    turns = np.array([[index[name] for name in s.turns] for s in samples])
    block_ns = np.array([of(s) for s in samples], np.float64)
    sums = np.stack([np.where(turns == column, block_ns, 0).sum(axis=1) for column in range(len(names))], axis=1)
    turns_an_arm = turns.shape[1] / len(names)
    costs: NDArray[np.float64] = sums / turns_an_arm / calls
    return costs


def wall_block_ns(sample: Sample) -> list[int]:
    """Of each turn."""
    return sample.block_ns


def processor_block_ns(sample: Sample) -> list[int]:
    """Of each turn."""
    return sample.processor_ns


def changes_of(
    conditions: Conditions, samples: Sequence[Sample], of: Callable[[Sample], list[int]] = wall_block_ns
) -> dict[int, Change]:
    """The change of each arm but the reference, in one of the two times.

    Wall time has none where the machine was busy, processor time none where a device was in use.
    """
    threshold = conditions.threshold
    if min(min(of(s)) for s in samples) < 0:
        back = sum(min(of(s)) < 0 for s in samples)
        reason = f"the clock stepped back in {plural(back, 'round')}"
        return {
            arm: invalid_change(reason, rounds=len(samples), threshold=threshold)
            for arm in range(1, len(conditions.arms))
        }
    found = paired_changes(_costs(conditions, samples, of), comparisons=conditions.comparisons, threshold=threshold)
    if of is processor_block_ns:
        found = {arm: _beyond_preemption(change) for arm, change in found.items()}
    why = why_busy(samples) if of is wall_block_ns else _waits_for_device(conditions.device)
    # The estimate goes with the interval: under load a ratio of 13.8 between identical programs was measured.
    return {arm: replace(withhold(change, why), estimate=None) if why else change for arm, change in found.items()}


def _beyond_preemption(change: Change) -> Change:
    """The change of a processor time, which is one only if its whole interval lies beyond ±T.

    What runs in between leaves cold caches behind, and that counts as processor time: beside 6 busy processes 5 of 60
    comparisons of one 50 µs function with itself had an interval such as [-1.2 %, -0.1 %].
    """
    near = min(abs(end) for end in (change.ci_low or 0.0, change.ci_high or 0.0)) <= change.threshold
    if change.verdict not in (Verdict.FASTER, Verdict.SLOWER) or not near:
        return change
    reason = f"the interval reaches within ±{100 * change.threshold:g} %, which other programs alone can make"
    return replace(change, verdict=Verdict.NOT_RESOLVED, reason=reason)


def why_busy(samples: Sequence[Sample]) -> str:
    """Why wall time gives no verdict, or empty."""
    return busy_reason(sample.waited_share for sample in samples)


def _waits_for_device(device: str) -> str:
    return f"processor time counts the waiting for {device}" if device else ""


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> CompareFindings:
    """The changes with their verdicts: a pure function of manifest and samples.

    Raises:
        InputError: there are no samples.
    """
    if not samples:
        raise InputError("the comparison has no finished round; give it a larger budget")
    conditions = typed(manifest, Conditions)
    names = conditions.arms
    wall_ns, processor_ns = (
        np.median(_costs(conditions, samples, of), axis=0) for of in (wall_block_ns, processor_block_ns)
    )
    changes, processor_changes = changes_of(conditions, samples), changes_of(conditions, samples, processor_block_ns)
    arms = {}
    for column, name in enumerate(names):
        change = changes.get(column)
        arms[name] = ArmResult(
            name=name,
            ns_per_call=float(wall_ns[column]),
            calls_per_block=conditions.calls_per_block[name],
            processor=_processor_time(float(processor_ns[column]), processor_changes.get(column)),
            **({} if change is None else _shown(change)),
            merged_by=1 if change is None else change.merged_by,
            ties=0 if change is None else change.ties,
        )
    invalid = [change.reason for change in changes.values() if change.verdict is Verdict.INVALID]
    open_ = [f"{names[c]}: {ch.reason}" for c, ch in changes.items() if ch.verdict is Verdict.NOT_RESOLVED]
    return CompareFindings(
        reference=names[0],
        rounds=len(samples),
        replicates=conditions.replicates,
        arms=arms,
        busy=why_busy(samples),
        noise=summarise_noise(s.noise for s in samples),
        invalid=invalid[0] if invalid else "",
        unresolved="; ".join(open_),
        notes=_notes(conditions, len(samples)),
    )


def _shown(change: Change) -> dict[str, Any]:
    return {
        "change": change.estimate,
        "ci_low": change.ci_low,
        "ci_high": change.ci_high,
        "mde": change.mde,
        "verdict": change.label,
        "reason": change.reason,
    }


def _processor_time(ns_per_call: float, change: Change | None) -> ProcessorTime:
    return ProcessorTime(ns_per_call=ns_per_call, **({} if change is None else _shown(change)))


def _notes(conditions: Conditions, rounds: int) -> list[str]:
    notes = []
    if not conditions.equal_calls:
        notes.append(
            "The arms differ so much that each has its own number of calls a block; small changes may be biased."
        )
    if conditions.clock_share_of_block > 0.001:
        share = conditions.clock_share_of_block
        notes.append(
            f"Reading the clock is {share:.2%} of the shortest block; the calls are too short to count precisely."
        )
    if not conditions.warm_up.steady and conditions.replicates != "processes":
        notes.append(f"The warm-up ended without reaching a steady state: {conditions.warm_up.reason}.")
    if rounds < MIN_ROUNDS_FOR_VERDICT:
        seconds = conditions.round_ns * MIN_ROUNDS_FOR_VERDICT / 1e9
        notes.append(
            f"A verdict needs {MIN_ROUNDS_FOR_VERDICT} rounds. At the pace of the warm-up they take"
            f" {significant(seconds, 2)} s: give --budget {ceil(1.2 * seconds)}s."
        )
    return notes
