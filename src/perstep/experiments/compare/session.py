"""The measurement of `compare`: the arms, warm, with blocks of the right length, taking turns in balanced rounds."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from perstep.errors import InputError
from perstep.experiments.arms import arms_of, call_alarm, closed_on_error
from perstep.experiments.compare.findings import changes_of, processor_block_ns, wall_block_ns, why_busy
from perstep.experiments.compare.plan import Plan
from perstep.experiments.compare.samples import Conditions, Sample, Workload
from perstep.experiments.conditions import Model
from perstep.experiments.device.busy import device_in_use
from perstep.experiments.options import FAST_AT_MOST_S
from perstep.experiments.planning import what_would_fit
from perstep.experiments.session import RoundSession, describe
from perstep.machine import Noise, waited_share
from perstep.measure import Clock, Effort, Progress, Resolved
from perstep.measure.blocks import BLOCK_NS, Arm, Blocks, BlockTime, CallableArm, plan_blocks, run_turns
from perstep.runs import Manifest
from perstep.stats import balanced_block

_WARM_UP = 1 << 62
"""The round number of warm-up rounds: never that of a measured one."""

_BLOCKS_A_START = 16
"""A block lasts a sixteenth of a new process's start, or longer: the four of a round a quarter of it. What two
processes differ by is in every block, so that longer blocks would tell less than another pair of processes."""


class CompareSession(RoundSession):
    """The arms, warm, with blocks of the right length.

    Args:
        arms: by name, the reference first.
        effort: when to stop.
        seed: of the order of turns.
        clock: the host's, unless a test passes its own.
        progress: told what is done before the first round.
        threshold: T of `same (within ±T)`.
        comparisons: how many changes are shown together, where this session's are not all.
        longer_s: the budget may become this long where it holds too few rounds; 0 for no longer.
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
        longer_s: float = 0.0,
    ) -> None:
        super().__init__(effort, seed, clock)
        self._arms, self._names = arms, list(arms)
        self._fresh = all(arm.fresh for arm in arms.values())
        progress(0.0, "calibrate")
        self._blocks = self._planned(clock)
        device_busy_ns = self._on_a_device(progress)
        progress(0.0, "warm-up")
        begun_ns = clock.now()
        # New processes have nothing to warm up but what all of them share: files in the page cache.
        warm = self._warm(self._warm_round, share=0.0 if self._fresh else 0.1, most_s=30.0)
        round_ns = (clock.now() - begun_ns) / warm.rounds
        shown = comparisons or len(arms) - 1
        if longer_s > effort.budget_s and what_would_fit(round_ns, effort, intervals=shown):
            self.effort = effort = replace(effort, budget_s=longer_s)
        self.conditions = Conditions(
            arms=self._names,
            order="one balanced block of turns a round, drawn by seed and round",
            discarded="the first call of each turn",
            garbage_collector="off",
            calls_per_block=self._blocks.calls,
            equal_calls=self._blocks.equal,
            clock_read_ns=self._blocks.clock.read_ns,
            clock_resolution_ns=self._blocks.clock.resolution_ns,
            clock_share_of_block=self._blocks.clock_share,
            precision=effort.precision,
            threshold=threshold,
            warm_up=warm,
            comparisons=shown,
            replicates="processes" if self._fresh else "rounds of one process",
            round_ns=round_ns,
            device=_device(fresh=self._fresh),
            device_busy_ns=device_busy_ns,
            too_short=what_would_fit(round_ns, effort, intervals=shown),
        )
        self.manifest = Manifest(
            experiment="compare", plan={}, seed=seed, conditions=msgspec.to_builtins(self.conditions)
        )

    def _on_a_device(self, progress: Progress) -> dict[str, float]:
        """Let the arms wait for a device that their calls use, and see how long its kernels run in them."""
        arms = {name: arm for name, arm in self._arms.items() if isinstance(arm, CallableArm)}
        device = device_in_use() if arms else None
        if device is None:
            return {}
        for arm in arms.values():
            arm.wait = device.wait
        progress(0.0, "calibrate on the device")
        self._blocks = self._planned(self._clock)
        return {name: device.busy_ns(arm.call) for name, arm in arms.items()}

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
        with closed_on_error(self._arms.values()), call_alarm(patience_s(self.effort)):
            turns, blocks = self._turns(number)
        noise = self._probe.stop()
        share = waited_by_processes(blocks, noise) if self._fresh else waited_share(noise)
        return Sample(number, turns, [b.wall_ns for b in blocks], [b.processor_ns for b in blocks], share, noise)

    def _turns(self, number: int) -> tuple[list[str], list[BlockTime]]:
        rng = self._drawn(number)
        turns = [self._names[arm] for arm in balanced_block(len(self._names), rng).ravel()]
        hash_seed = int(rng.integers(1 << 32))
        for name in dict.fromkeys(turns):
            self._arms[name].renew(hash_seed, self._blocks.calls[name])
        return turns, run_turns(self._arms, self._blocks, turns)

    def _warm_round(self) -> None:
        self._turns(_WARM_UP)

    def resolved(self, samples: Sequence[Sample]) -> Resolved:
        """The widest of the changes' intervals: of wall time or, where that has none, of processor time."""
        changes = changes_of(self.conditions, samples, processor_block_ns if why_busy(samples) else wall_block_ns)
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


def patience_s(effort: Effort) -> float:
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
    with call_alarm(patience_s(effort)):
        arms = arms_of(plan.arms, plan.pythons, clock, check=plan.check)
        with closed_on_error(arms.values()):
            session = CompareSession(
                arms,
                effort,
                seed=plan.seed,
                clock=clock,
                progress=progress,
                threshold=plan.threshold,
                longer_s=FAST_AT_MOST_S if plan.fast and plan.budget is None else 0.0,
            )
    session.manifest = describe(
        "compare",
        plan,
        workload=Workload(arms=list(plan.arms), pythons=list(plan.pythons), threads=plan.threads),
        model=Model(name=" vs ".join(arms)),
        conditions=session.conditions,
    )
    return session
