"""What `compare` finds: the change of each arm with its interval and verdict, in wall and in processor time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._words import short
from perstep.experiments.columns import require_rounds
from perstep.experiments.compare.samples import Conditions, Sample
from perstep.experiments.conditions import typed
from perstep.machine import NoiseSummary, busy_reason, summarise_noise
from perstep.report.change import TimeChange
from perstep.report.format import plural, significant
from perstep.runs import Manifest
from perstep.stats import MIN_ROUNDS_FOR_VERDICT, Change, Verdict, invalid_change, paired_changes, withhold


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """One arm against the reference.

    Attributes:
        name: of the arm.
        calls_per_block: timed calls in a turn.
        wall: the wall time of a call.
        processor: the processor time of the same call, all threads (of a command: all its processes). A caller waits
            longer: waiting of every kind is left out. `faster` and `slower` only where the whole interval is beyond ±T.
        device_busy_ns: in which a device's kernels run in a call, in a few profiled ones; UNSET without a device.
    """

    name: str
    calls_per_block: int
    wall: TimeChange
    processor: TimeChange
    device_busy_ns: float | msgspec.UnsetType = msgspec.UNSET


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
        invalid: why the numbers are invalid, or empty.
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
    changes = paired_changes(_costs(conditions, samples, of), comparisons=conditions.comparisons, threshold=threshold)
    if of is processor_block_ns:
        changes = {arm: _beyond_preemption(change) for arm, change in changes.items()}
    why = why_busy(samples) if of is wall_block_ns else _waits_for_device(conditions.device)
    # The estimate goes with the interval: under load a ratio of 13.8 between identical programs was measured.
    return {arm: replace(withhold(change, why), estimate=None) if why else change for arm, change in changes.items()}


def _beyond_preemption(change: Change) -> Change:
    """The change of a processor time, which is one only if its whole interval lies beyond ±T.

    What runs in between leaves cold caches behind, and that counts as processor time: beside 6 busy processes 5 of 60
    comparisons of one 50 µs function with itself had an interval such as [-1.2 %, -0.1 %].
    """
    near = min(abs(end) for end in (change.ci_low or 0.0, change.ci_high or 0.0)) <= change.threshold
    if change.verdict not in (Verdict.FASTER, Verdict.SLOWER) or not near:
        return change
    reason = f"the interval reaches within ±{short(100 * change.threshold)} %, which other programs can cause"
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
    require_rounds(samples)
    conditions = typed(manifest, Conditions)
    names, calls = conditions.arms, conditions.calls_per_block
    changes = changes_of(conditions, samples)
    wall = _times(conditions, samples, wall_block_ns, changes)
    processor = _times(conditions, samples, processor_block_ns, changes_of(conditions, samples, processor_block_ns))
    arms = {
        name: ArmResult(
            name=name,
            calls_per_block=calls[name],
            wall=wall[column],
            processor=processor[column],
            device_busy_ns=conditions.device_busy_ns.get(name, msgspec.UNSET),
        )
        for column, name in enumerate(names)
    }
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


def _times(
    conditions: Conditions, samples: Sequence[Sample], of: Callable[[Sample], list[int]], changes: Mapping[int, Change]
) -> list[TimeChange]:
    """One of the two times of each arm, with its change."""
    medians = np.median(_costs(conditions, samples, of), axis=0)
    return [TimeChange.of(changes.get(column), ns=float(ns)) for column, ns in enumerate(medians)]


def _notes(conditions: Conditions, rounds: int) -> list[str]:
    notes = []
    if conditions.device_busy_ns:
        notes.append(
            f"A block ends when {conditions.device} has done its work. Device busy is the time in which kernels run, in"
            " profiled calls before the rounds."
        )
    if not conditions.equal_calls:
        notes.append(
            "The arms differ so much that each has its own number of calls per block; small changes may be biased."
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
            f"A verdict needs {MIN_ROUNDS_FOR_VERDICT} rounds. At the speed of the warm-up they take"
            f" {significant(seconds, 2)} s: give --budget {ceil(1.2 * seconds)}s."
        )
    return notes
