"""`compare`: which of several callables, commands or builds is faster, and by how much.

The arms take turns in balanced rounds on one machine at one time; the change is the median of paired
log-ratios with an exact interval, the verdict is read off that interval (docs/statistics.md).

Commands and functions in other interpreters get new processes in every round: two processes of one
program differ (address layout, hash seed, page placement), and one pair of them, however long it runs,
cannot tell. Wall time gives no verdict where most rounds waited for a processor; the change of
processor time then stands beside it, as such.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, inf
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.arms import arms_of, call_alarm, check_results, closed_on_error, reference_first
from perstep.experiments.comparison import (
    ArmResult,
    Comparison,
    ProcessorTime,
    comparison_tables,
    csv,
    shown_change,
)
from perstep.experiments.conditions import describe_machine, noise_probe
from perstep.experiments.options import RunOptions
from perstep.machine import Noise, busy_reason, summarise_noise, waited_share
from perstep.measure import Clock, Effort, HostClock, Progress, Resolved, WarmUp, collector_off, run_rounds, warm_up
from perstep.measure.blocks import BLOCK_NS, Arm, ArmFailed, Blocks, BlockTime, CallableArm, plan_blocks, run_turns
from perstep.report import Table
from perstep.report.format import plural, significant
from perstep.report.words import render
from perstep.runs import Manifest
from perstep.stats import (
    MIN_ROUNDS_FOR_VERDICT,
    Change,
    Verdict,
    balanced_block,
    invalid_change,
    paired_changes,
    withhold,
)

_WARM_UP = 1 << 62
"""The round number of warm-up rounds: never that of a measured one."""

_BLOCKS_A_START = 16
"""A block lasts a sixteenth of a new process's start, or longer: the four of a round a quarter of it. What two
processes differ by is in every block, so that longer blocks would tell less than another pair of processes."""


class Sample(msgspec.Struct):
    """One round.

    Attributes:
        round: its number.
        turns: the arms in the order of their turns.
        block_ns: wall time of each turn's block.
        processor_ns: processor time of each turn's block.
        waited_share: the share of its time in which it could have run and had no processor; None if unknown.
        noise: what disturbed it.
    """

    round: int
    turns: list[str]
    block_ns: list[int]
    processor_ns: list[int]
    waited_share: float | None
    noise: Noise


@dataclass(frozen=True, kw_only=True)
class Plan(RunOptions):
    """The options of `perstep compare --live`."""

    arms: tuple[str, ...] = ()
    """Commands, or Python callables as module:function; the first is the reference."""

    pythons: tuple[str, ...] = ()
    """Interpreters that all run the one script in `arms`; the first is the reference."""

    threshold: float = 0.01
    """Changes wholly inside ± this are `same`."""

    check: bool = False
    """Call every arm once before timing and refuse to compare if results differ."""


class CompareSession:
    """The arms, warm, with blocks of the right length.

    Args:
        arms: by name, the reference first.
        effort: when to stop.
        seed: of the order of turns.
        clock: the host's, unless a test passes its own.
        progress: told what is done before the first round.
        threshold: T of `same (within ±T)`.
        comparisons: how many changes are shown together, where this session's are not all.
    """

    def __init__(
        self,
        arms: Mapping[str, Arm],
        effort: Effort,
        *,
        seed: int,
        clock: Clock,
        progress: Progress,
        threshold: float,
        comparisons: int | None = None,
    ) -> None:
        self.effort = effort
        self.manifest = Manifest(experiment="compare", plan={}, seed=seed)
        self._arms, self._seed = arms, seed
        self._names = list(arms)
        self._fresh = all(arm.fresh for arm in arms.values())
        self._probe = noise_probe(clock)
        progress(0.0, "calibrate")
        self._blocks = self._planned(clock)
        progress(0.0, "warm-up")
        begun_ns = clock.now()
        # New processes have nothing to warm up but what all of them share: files in the page cache.
        limit_s = 0.0 if self._fresh else min(effort.budget_s, 30.0) / 10
        warm = warm_up(self._warm_round, clock, limit_s=limit_s)
        round_ns = (clock.now() - begun_ns) / warm.rounds
        self.manifest.conditions = _conditions(self._names, self._blocks, warm, effort, threshold)
        self.manifest.conditions |= {
            "comparisons": comparisons or len(arms) - 1,
            "replicates": "processes" if self._fresh else "rounds of one process",
            "round_ns": round_ns,
            "device": _device(fresh=self._fresh),
        }

    def _planned(self, clock: Clock) -> Blocks:
        """How long the turns are, in processes that are new where they will be."""
        begun_ns = clock.now()
        for arm in self._arms.values():
            arm.renew(0, 1)
        start_ns = (clock.now() - begun_ns) / len(self._arms)
        block_ns = max(BLOCK_NS, start_ns / _BLOCKS_A_START)
        return plan_blocks(self._arms, clock, round_budget_s=self.effort.budget_s / 40, block_ns=block_ns)

    def measure_round(self, number: int) -> Sample:
        """One balanced block of turns, between new processes where the arms have processes of their own."""
        self._probe.start()
        with closed_on_error(self._arms.values()), call_alarm(_patience_s(self.effort)):
            turns, blocks = self._turns(number)
        noise = self._probe.stop()
        share = waited_by_processes(blocks, noise) if self._fresh else waited_share(noise)
        return Sample(number, turns, [b.wall_ns for b in blocks], [b.processor_ns for b in blocks], share, noise)

    def _turns(self, number: int) -> tuple[list[str], list[BlockTime]]:
        rng = np.random.default_rng([self._seed, number])
        turns = [self._names[arm] for arm in balanced_block(len(self._names), rng).ravel()]
        hash_seed = int(rng.integers(1 << 32))
        for name in dict.fromkeys(turns):
            self._arms[name].renew(hash_seed, self._blocks.calls[name])
        return turns, run_turns(self._arms, self._blocks, turns)

    def _warm_round(self) -> None:
        self._turns(_WARM_UP)

    def resolved(self, samples: Sequence[Sample]) -> Resolved:
        """The widest of the changes' intervals: of wall time or, where that has none, of processor time."""
        changes = _changes(self.manifest, samples, _processor if _busy(samples) else _wall)
        return Resolved(max(c.half_width for c in changes.values()), min(c.merged_rounds for c in changes.values()))

    def finish(self) -> None:
        """Let go of workers."""
        for arm in self._arms.values():
            arm.close()


def waited_by_processes(blocks: Sequence[BlockTime], noise: Noise) -> float | None:
    """The share of a round's blocks in which the arms' own processes could have run and had no processor.

    A process tells how long it waited, but not how long its children did (`sh -c`, `uv run`). Theirs is within the
    wall time without processor time, which may also be sleep, and within the time in which any task of the machine
    waited, which may have been another's: the smaller of the two counts.
    """
    wall_ns, processor_ns = sum(b.wall_ns for b in blocks), sum(b.processor_ns for b in blocks)
    waits = [block.waited_ns for block in blocks if block.waited_ns is not None]
    if (not waits and noise.pressure_ns is None) or wall_ns <= 0:
        return None
    waited_ns = max(sum(waits), min(max(wall_ns - processor_ns, 0), noise.pressure_ns or 0))
    return waited_ns / max(wall_ns, waited_ns + processor_ns)


def _device(*, fresh: bool) -> str:
    """The device in use, or empty: processor time would count the waiting for it.

    Of other processes it is not known what they use, so any device of the machine counts.
    """
    torch = sys.modules.get("torch")
    if not fresh and torch is not None and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return "NVIDIA GPU" if fresh and Path("/dev/nvidia0").exists() else ""


def compare(
    arms: Mapping[str, Callable[[], Any]],
    *,
    reference: str | None = None,
    budget_s: float = 5.0,
    precision: float = 0.005,
    rounds: int | None = None,
    threshold: float = 0.01,
    check: bool | Callable[[Any, Any], bool] = False,
    seed: int = 0,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare callables by interleaved rounds.

    Args:
        arms: name -> callable without arguments, two or more.
        reference: the arm that the others are compared with; the first if None.
        budget_s: seconds after which no new round begins.
        precision: stop earlier when the widest interval's half-width is this relative change.
        rounds: measure just so many rounds, whatever budget and precision.
        threshold: T of `same (within ±T)`.
        check: True calls every arm once and requires equal results; a function gets the reference's
            and another arm's result and says whether they agree.
        seed: of the order of turns.
        clock: the host's, unless a test passes its own.
        progress: told after each round.

    Returns:
        The comparison; its text is a table.

    Raises:
        ArmFailed: a callable raised, did not return within twice the budget, or gave another result; it says which
            arm and which call, and its `partial` is the Comparison over the rounds before, if there were enough.
        InputError: fewer than two arms, or options out of their range.
    """
    clock = clock or HostClock()
    progress = progress or (lambda _share, _what: None)
    ordered = reference_first(arms, reference)
    if budget_s <= 0 or not 0 < precision < 1 or not 0 <= threshold < 1 or (rounds is not None and rounds < 1):
        raise InputError("budget_s, precision, threshold and rounds must be above 0, shares below 1")
    check_results(ordered, check)
    effort = Effort(precision=precision, budget_s=budget_s) if rounds is None else Effort(None, inf, rounds)
    samples: list[Sample] = []
    timed = {name: CallableArm(name, call, clock) for name, call in ordered.items()}
    session: CompareSession | None = None
    try:
        with collector_off():
            # Each round has an alarm of its own: one over all would blame a call for a machine that was busy.
            with call_alarm(_patience_s(effort)):
                session = CompareSession(timed, effort, seed=seed, clock=clock, progress=progress, threshold=threshold)
            live = session
            run_rounds(
                session.measure_round,
                samples.append,
                lambda: live.resolved(samples),
                effort=effort,
                clock=clock,
                progress=progress,
            )
    except ArmFailed as failed:
        if session is not None and samples:
            failed.partial = analyse(session.manifest, samples)
        raise
    return analyse(session.manifest, samples)


def _patience_s(effort: Effort) -> float:
    """After how many seconds a call counts as one that never returns; there is no limit without a budget."""
    return 2 * effort.budget_s + 1


def prepare(plan: Plan, progress: Progress, clock: Clock) -> CompareSession:
    """Make the arms of a command line, calibrate and warm them.

    Raises:
        InputError: fewer than two arms, or one that cannot be run or does not return within twice the budget.
    """
    if not 0 <= plan.threshold < 1:
        raise InputError(f"--threshold {plan.threshold}: it is a share between 0 and 1, such as 1%")
    effort = plan.effort()
    with call_alarm(_patience_s(effort)):
        arms = arms_of(plan.arms, plan.pythons, clock, check=plan.check)
        with closed_on_error(arms.values()):
            session = CompareSession(
                arms, effort, seed=plan.seed, clock=clock, progress=progress, threshold=plan.threshold
            )
    session.manifest.plan = asdict(plan)
    session.manifest.model = {"name": " vs ".join(arms)}
    session.manifest.workload = {"arms": list(plan.arms), "pythons": list(plan.pythons), "threads": plan.threads}
    describe_machine(session.manifest, plan.threads)
    return session


def _conditions(names: list[str], blocks: Blocks, warm: WarmUp, effort: Effort, threshold: float) -> dict[str, Any]:
    return {
        "arms": names,
        "order": "one balanced block of turns a round, drawn by seed and round",
        "discarded": "the first call of each turn",
        "garbage_collector": "off",
        "calls_per_block": blocks.calls,
        "equal_calls": blocks.equal,
        "clock_read_ns": blocks.clock.read_ns,
        "clock_resolution_ns": blocks.clock.resolution_ns,
        "clock_share_of_block": blocks.clock_share,
        "precision": effort.precision,
        "threshold": threshold,
        "warm_up": asdict(warm),
    }


def _costs(manifest: Manifest, samples: Sequence[Sample], of: Callable[[Sample], list[int]]) -> NDArray[np.float64]:
    """Nanoseconds a call, [rounds, arms]: the mean of an arm's turns in the round."""
    names = manifest.conditions["arms"]
    calls = np.array([manifest.conditions["calls_per_block"][name] for name in names], np.float64)
    index = {name: column for column, name in enumerate(names)}
    turns = np.array([[index[name] for name in s.turns] for s in samples])
    block_ns = np.array([of(s) for s in samples], np.float64)
    sums = np.stack([np.where(turns == column, block_ns, 0).sum(axis=1) for column in range(len(names))], axis=1)
    turns_an_arm = turns.shape[1] / len(names)
    costs: NDArray[np.float64] = sums / turns_an_arm / calls
    return costs


def _wall(sample: Sample) -> list[int]:
    return sample.block_ns


def _processor(sample: Sample) -> list[int]:
    return sample.processor_ns


def _changes(
    manifest: Manifest, samples: Sequence[Sample], of: Callable[[Sample], list[int]] = _wall
) -> dict[int, Change]:
    """The change of each arm but the reference, in one of the two times.

    Wall time has none where the machine was busy, processor time none where a device was in use.
    """
    conditions = manifest.conditions
    threshold = conditions["threshold"]
    if min(min(of(s)) for s in samples) < 0:
        back = sum(min(of(s)) < 0 for s in samples)
        reason = f"the clock stepped back in {plural(back, 'round')}"
        return {
            arm: invalid_change(reason, rounds=len(samples), threshold=threshold)
            for arm in range(1, len(conditions["arms"]))
        }
    found = paired_changes(
        _costs(manifest, samples, of), comparisons=conditions.get("comparisons"), threshold=threshold
    )
    if of is _processor:
        found = {arm: _beyond_preemption(change) for arm, change in found.items()}
    why = _busy(samples) if of is _wall else _waits_for_device(manifest)
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


def _busy(samples: Sequence[Sample]) -> str:
    return busy_reason(sample.waited_share for sample in samples)


def _waits_for_device(manifest: Manifest) -> str:
    device = manifest.conditions["device"]
    return f"processor time counts the waiting for {device}" if device else ""


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> Comparison:
    """The changes with their verdicts: a pure function of manifest and samples.

    Raises:
        InputError: there are no samples.
    """
    if not samples:
        raise InputError("the comparison has no finished round; give it a larger budget")
    names = manifest.conditions["arms"]
    calls = manifest.conditions["calls_per_block"]
    wall_ns, processor_ns = (np.median(_costs(manifest, samples, of), axis=0) for of in (_wall, _processor))
    changes, processor_changes = _changes(manifest, samples), _changes(manifest, samples, _processor)
    arms = {}
    for column, name in enumerate(names):
        change = changes.get(column)
        arms[name] = ArmResult(
            name=name,
            ns_per_call=float(wall_ns[column]),
            calls_per_block=calls[name],
            processor=_processor_time(float(processor_ns[column]), processor_changes.get(column)),
            **({} if change is None else _shown(change)),
            merged_by=1 if change is None else change.merged_by,
            ties=0 if change is None else change.ties,
        )
    invalid = [change.reason for change in changes.values() if change.verdict is Verdict.INVALID]
    open_ = [f"{names[c]}: {ch.reason}" for c, ch in changes.items() if ch.verdict is Verdict.NOT_RESOLVED]
    return Comparison(
        reference=names[0],
        rounds=len(samples),
        replicates=manifest.conditions["replicates"],
        arms=arms,
        busy=_busy(samples),
        noise=summarise_noise(s.noise for s in samples),
        invalid=invalid[0] if invalid else "",
        unresolved="; ".join(open_),
        notes=_notes(manifest, len(samples)),
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


def _notes(manifest: Manifest, rounds: int) -> list[str]:
    conditions = manifest.conditions
    notes = []
    if not conditions["equal_calls"]:
        notes.append(
            "The arms differ so much that each has its own number of calls a block; small changes may be biased."
        )
    if conditions["clock_share_of_block"] > 0.001:
        share = conditions["clock_share_of_block"]
        notes.append(
            f"Reading the clock is {share:.2%} of the shortest block; the calls are too short to count precisely."
        )
    if not conditions["warm_up"]["steady"] and conditions["replicates"] != "processes":
        notes.append(f"The warm-up ended without reaching a steady state: {conditions['warm_up']['reason']}.")
    if rounds < MIN_ROUNDS_FOR_VERDICT:
        seconds = conditions["round_ns"] * MIN_ROUNDS_FOR_VERDICT / 1e9
        notes.append(
            f"A verdict needs {MIN_ROUNDS_FOR_VERDICT} rounds. At the pace of the warm-up they take"
            f" {significant(seconds, 2)} s: give --budget {ceil(1.2 * seconds)}s."
        )
    return notes


def tables(manifest: Manifest, findings: Comparison) -> list[Table]:  # noqa: ARG001 - the experiments' signature
    """The table of the wall times and, where the machine was busy, that of the processor times."""
    return comparison_tables(findings)


def files(manifest: Manifest, findings: Comparison) -> Mapping[str, bytes]:
    """`compare.csv` and `README.md`."""
    return {
        "compare.csv": csv(findings).encode(),
        "README.md": render("compare.md", manifest=manifest, findings=findings, tables=comparison_tables(findings)),
    }


def summary(findings: Comparison) -> dict[str, Any]:
    """The headline for `perstep list`."""
    others = [arm for arm in findings.arms.values() if arm.name != findings.reference]
    return {"headline": "; ".join(f"{arm.name}: {arm.verdict} {shown_change(arm)}" for arm in others)}
