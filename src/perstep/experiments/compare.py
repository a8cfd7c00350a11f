"""`compare`: which of several callables, commands or builds is faster, and by how much.

The arms take turns in balanced rounds on one machine at one time; the change is the median of paired
log-ratios with an exact interval, the verdict is read off that interval (docs/statistics.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.arms import arms_of, call_alarm, check_results, closed_on_error, reference_first
from perstep.experiments.comparison import ArmResult, Comparison, comparison_table, csv, shown_change
from perstep.experiments.conditions import describe_machine
from perstep.experiments.options import RunOptions
from perstep.machine import Noise, NoiseProbe, summarise_noise
from perstep.measure import Clock, Effort, HostClock, Progress, Resolved, WarmUp, collector_off, run_rounds, warm_up
from perstep.measure.blocks import Arm, ArmFailed, Blocks, CallableArm, plan_blocks, run_turns
from perstep.report import Table
from perstep.report.format import plural
from perstep.report.words import render
from perstep.runs import Manifest
from perstep.stats import Change, Verdict, balanced_block, invalid_change, paired_changes

_WARM_UP = 1 << 62
"""The round number of warm-up rounds: never that of a measured one."""


class Sample(msgspec.Struct):
    """One round: the arms in the order of their turns, and how long each turn's block took."""

    round: int
    turns: list[str]
    block_ns: list[int]
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
        self._probe = NoiseProbe()
        progress(0.0, "calibrate")
        self._blocks = plan_blocks(arms, clock, round_budget_s=effort.budget_s / 40)
        progress(0.0, "warm-up")
        warm = warm_up(self._warm_round, clock, limit_s=min(effort.budget_s, 30.0) / 10)
        self.manifest.conditions = _conditions(self._names, self._blocks, warm, effort, threshold)
        self.manifest.conditions["comparisons"] = comparisons or len(arms) - 1

    def measure_round(self, number: int) -> Sample:
        """One balanced block of turns."""
        self._probe.start()
        with closed_on_error(self._arms.values()), call_alarm(_patience_s(self.effort)):
            turns, block_ns = self._turns(number)
        return Sample(number, turns, block_ns, self._probe.stop())

    def _turns(self, number: int) -> tuple[list[str], list[int]]:
        order = balanced_block(len(self._names), np.random.default_rng([self._seed, number])).ravel()
        turns = [self._names[arm] for arm in order]
        return turns, run_turns(self._arms, self._blocks, turns)

    def _warm_round(self) -> None:
        self._turns(_WARM_UP)

    def resolved(self, samples: Sequence[Sample]) -> Resolved:
        """The widest of the changes' intervals."""
        changes = _changes(self.manifest, samples)
        return Resolved(max(c.half_width for c in changes.values()), min(c.merged_rounds for c in changes.values()))

    def finish(self) -> None:
        """Let go of workers."""
        for arm in self._arms.values():
            arm.close()


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


def _costs(manifest: Manifest, samples: Sequence[Sample]) -> NDArray[np.float64]:
    """Nanoseconds a call, [rounds, arms]: the mean of an arm's turns in the round."""
    names = manifest.conditions["arms"]
    calls = np.array([manifest.conditions["calls_per_block"][name] for name in names], np.float64)
    index = {name: column for column, name in enumerate(names)}
    turns = np.array([[index[name] for name in s.turns] for s in samples])
    block_ns = np.array([s.block_ns for s in samples], np.float64)
    sums = np.stack([np.where(turns == column, block_ns, 0).sum(axis=1) for column in range(len(names))], axis=1)
    turns_an_arm = turns.shape[1] / len(names)
    costs: NDArray[np.float64] = sums / turns_an_arm / calls
    return costs


def _changes(manifest: Manifest, samples: Sequence[Sample]) -> dict[int, Change]:
    threshold = manifest.conditions["threshold"]
    costs = _costs(manifest, samples)
    if min(min(s.block_ns) for s in samples) < 0:
        back = sum(min(s.block_ns) < 0 for s in samples)
        reason = f"the clock stepped back in {plural(back, 'round')}"
        return {
            arm: invalid_change(reason, rounds=len(samples), threshold=threshold) for arm in range(1, costs.shape[1])
        }
    return paired_changes(costs, comparisons=manifest.conditions.get("comparisons"), threshold=threshold)


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> Comparison:
    """The changes with their verdicts: a pure function of manifest and samples.

    Raises:
        InputError: there are no samples.
    """
    if not samples:
        raise InputError("the comparison has no finished round; give it a larger budget")
    names = manifest.conditions["arms"]
    calls = manifest.conditions["calls_per_block"]
    medians = np.median(_costs(manifest, samples), axis=0)
    changes = _changes(manifest, samples)
    arms = {names[0]: ArmResult(name=names[0], ns_per_call=float(medians[0]), calls_per_block=calls[names[0]])}
    for column, change in changes.items():
        name = names[column]
        arms[name] = ArmResult(
            name=name,
            ns_per_call=float(medians[column]),
            calls_per_block=calls[name],
            change=change.estimate,
            ci_low=change.ci_low,
            ci_high=change.ci_high,
            mde=change.mde,
            verdict=change.label,
            reason=change.reason,
            merged_by=change.merged_by,
            ties=change.ties,
        )
    invalid = [change.reason for change in changes.values() if change.verdict is Verdict.INVALID]
    open_ = [f"{names[c]}: {ch.reason}" for c, ch in changes.items() if ch.verdict is Verdict.NOT_RESOLVED]
    return Comparison(
        reference=names[0],
        rounds=len(samples),
        arms=arms,
        noise=summarise_noise(s.noise for s in samples),
        invalid=invalid[0] if invalid else "",
        unresolved="; ".join(open_),
        notes=_notes(manifest),
    )


def _notes(manifest: Manifest) -> list[str]:
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
    if not conditions["warm_up"]["steady"]:
        notes.append(f"The warm-up ended without reaching a steady state: {conditions['warm_up']['reason']}.")
    return notes


def tables(manifest: Manifest, findings: Comparison) -> list[Table]:  # noqa: ARG001 - the experiments' signature
    """The one table of a comparison."""
    return [comparison_table(findings)]


def files(manifest: Manifest, findings: Comparison) -> Mapping[str, bytes]:
    """`compare.csv` and `README.md`."""
    table = comparison_table(findings)
    return {
        "compare.csv": csv(findings).encode(),
        "README.md": render("compare.md", manifest=manifest, findings=findings, table=table),
    }


def summary(findings: Comparison) -> dict[str, Any]:
    """The headline for `perstep list`."""
    others = [arm for arm in findings.arms.values() if arm.name != findings.reference]
    return {"headline": "; ".join(f"{arm.name}: {arm.verdict} {shown_change(arm)}" for arm in others)}
