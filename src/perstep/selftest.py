"""`selftest`: what this machine can resolve, found by asking questions with known answers.

Identical programs are compared (no verdict may be given), programs that differ by a known amount are
compared (the difference must be found), and known delays are put into each part of a ledger (the part
must grow by just that). Nothing here is assumed about the machine; all of it is measured.
"""

from collections.abc import Callable, Sequence
from itertools import repeat
from math import sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._words import plural, short
from perstep.errors import InputError
from perstep.experiments.compare import Comparison, compare
from perstep.experiments.compare.known import DETECTION_COLUMNS, THRESHOLD, Detection, detection
from perstep.machine import save_between_run_noise
from perstep.measure import Clock, HostClock, Mark, Progress, Recorder, Steps, collector_off
from perstep.measure.blocks import measure_clock
from perstep.report import Column, Table
from perstep.report.format import duration, overhead, percent
from perstep.stats import Change, balanced_block, paired_change, step_estimate
from perstep.stored.fresh_runs import measure_fresh_runs
from perstep.targets import BUILT_IN, PLAIN, open_model

CHANGES = (0.01, 0.02, 0.05)
DELAYS_NS = (20_000, 200_000, 2_000_000)
MIN_BUDGET_S = 20.0

# How the budget is divided; the rest is loading and calibration.
_IDENTICAL, _DIFFERENT, _LONGEST, _ATTRIBUTION, _FRESH = 0.12, 0.18, 1 / 6, 0.3, 0.17
_IDENTICAL_TRIES, _DIFFERENT_TRIES = 20, 4
_PROMPT, _STEPS = 32, 16
_DELAY_SHARES = dict(zip(DELAYS_NS, (0.8, 0.12, 0.08), strict=True))
"""A delay of 20 µs is looked for longest: 1 s a part finds it within 0.5 µs, 0.3 s within 1.5 µs."""
_FIRST_PART = "embed"


class Attribution(msgspec.Struct, frozen=True):
    """A known delay in one part.

    Attributes:
        part: where it was put, once a step.
        delay_ns: how long it was meant to be.
        true_ns: how long it was, by the clock that made it.
        found_ns: by how much the part grew in the ledger.
        largest_elsewhere_ns: the largest change of any other part, with its sign.
        elsewhere: that part.
    """

    part: str
    delay_ns: int
    true_ns: float
    found_ns: float
    largest_elsewhere_ns: float
    elsewhere: str

    @property
    def error(self) -> float:
        """Of the found delay, relative."""
        return self.found_ns / self.true_ns - 1

    @property
    def within(self) -> bool:
        """Within 3 % or 1 µs of the truth, and no other part moved by more than 2 % of the delay or 1 µs."""
        off_ns = abs(self.found_ns - self.true_ns)
        moved_ns = abs(self.largest_elsewhere_ns)
        return off_ns <= max(0.03 * self.true_ns, 1000) and moved_ns <= max(0.02 * self.true_ns, 1000)


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """What the self-test found.

    Attributes:
        clock_read_ns: cost of one clock reading.
        clock_resolution_ns: smallest step of the clock.
        step_ns: an uninstrumented decode step of `mini`.
        overhead: of its ledger's instruments, a fraction of the step: the median of paired passes.
        overhead_ci_low: lower end of its interval, or None.
        overhead_ci_high: its upper end, or None.
        identical: comparisons of identical programs.
        different: comparisons of programs that differ by a known amount.
        attribution: known delays in each part of the ledger.
        between_runs: how much a decode step of `mini` differs between runs in fresh processes, as a standard
            deviation of its logarithm; None if the machine cannot be identified.
        fresh_runs: how many runs that is from.
        resolves_in_10_s: smallest change that four of five comparisons of 10 s would resolve, or None.
        resolves_in_60_s: the same for 60 s.
        sentence: the above for a person.
    """

    clock_read_ns: float
    clock_resolution_ns: int
    step_ns: float
    overhead: float
    overhead_ci_low: float | None
    overhead_ci_high: float | None
    identical: Detection
    different: list[Detection]
    attribution: list[Attribution]
    between_runs: float | None
    fresh_runs: int
    resolves_in_10_s: float | None
    resolves_in_60_s: float | None
    sentence: str


def run_selftest(budget_s: float, *, progress: Progress, seed: int = 0) -> SelfTest:
    """Ask the questions, in about `budget_s` seconds.

    Raises:
        InputError: the budget is under 20 s, too short for any answer.
    """
    if budget_s < MIN_BUDGET_S:
        raise InputError(f"--budget {short(budget_s)}s: the self-test needs at least {short(MIN_BUDGET_S)}s")
    clock = HostClock()
    clock_cost = measure_clock(clock)
    progress(0.02, "identical programs")
    identical = _detect(0.0, _IDENTICAL_TRIES, budget_s * _IDENTICAL, seed)
    different = []
    for index, change in enumerate(CHANGES):
        progress(0.17 + 0.07 * index, f"a true {change:+.0%}")
        different.append(_detect(change, _DIFFERENT_TRIES, budget_s * _DIFFERENT / len(CHANGES), seed + index + 1))
    progress(0.38, "the longest comparison")
    longest_s = budget_s * _LONGEST
    longest = _compare(0.0, longest_s, seed)["candidate"].wall.mde
    bench = _Bench(seed, clock)
    attribution = []
    with collector_off():
        step_ns, marks = bench.overhead()
        for index, (part, delay_ns) in enumerate([(part, d) for part in bench.parts for d in DELAYS_NS]):
            share = index / len(bench.parts) / len(DELAYS_NS)
            progress(0.57 + 0.2 * share, f"{duration(delay_ns)} in {part}")
            seconds = budget_s * _ATTRIBUTION * _DELAY_SHARES[delay_ns] / len(bench.parts)
            attribution.append(bench.attribute(part, delay_ns, seconds))
    noise = measure_fresh_runs(budget_s * _FRESH, lambda share, what: progress(0.78 + 0.22 * share, what))
    if noise is not None:
        save_between_run_noise(noise)
    in_10_s = None if longest is None else longest * sqrt(longest_s / 10)
    return SelfTest(
        clock_read_ns=clock_cost.read_ns,
        clock_resolution_ns=clock_cost.resolution_ns,
        step_ns=step_ns,
        overhead=marks.estimate or 0.0,
        overhead_ci_low=marks.ci_low,
        overhead_ci_high=marks.ci_high,
        identical=identical,
        different=different,
        attribution=attribution,
        between_runs=None if noise is None else noise.sd_log.get("step"),
        fresh_runs=0 if noise is None else noise.runs,
        resolves_in_10_s=in_10_s,
        resolves_in_60_s=None if in_10_s is None else in_10_s / sqrt(6),
        sentence=_sentence(in_10_s, identical, attribution),
    )


def _sentence(in_10_s: float | None, identical: Detection, attribution: Sequence[Attribution]) -> str:
    false = identical.slower + identical.faster
    if in_10_s is None:
        return "This machine is so unsteady that 10 s of comparing resolve nothing; quieten it and try again."
    wrong, of = sum(not a.within for a in attribution), f"of {plural(len(attribution), 'known delay')}"
    trust = (
        ""
        if wrong == 0
        else f" {plural(wrong, f'{of} was', f'{of} were')} attributed wrongly (by more than 3 % or 1 µs)."
    )
    return (
        f"On this machine a comparison of 10 s resolves changes of {percent(in_10_s, 2)} and more, one of 60 s"
        f" is expected to resolve {percent(in_10_s / sqrt(6), 2)}; of {plural(identical.tries, 'comparison')} of "
        f"identical programs {false} gave a false verdict.{trust}"
    )


def _work(iterations: int) -> Callable[[], None]:
    """A program whose cost is proportional to a number: about 60 µs for 1,000."""

    def work() -> None:
        for number in repeat(2.0, iterations):
            sqrt(number)

    return work


def _compare(change: float, seconds: float, seed: int) -> Comparison:
    base = 1000
    arms = {"reference": _work(base), "candidate": _work(round(base * (1 + change)))}
    # A precision that is never reached: the whole budget is used, so that budgets can be compared.
    return compare(arms, budget_s=seconds, precision=1e-9, threshold=THRESHOLD, seed=seed)


def _detect(change: float, tries: int, seconds: float, seed: int) -> Detection:
    each_s = seconds / tries
    return detection(change, each_s, [_compare(change, each_s, seed * 1000 + number) for number in range(tries)])


class _Bench:
    """`mini` with a short trace, to put delays into."""

    def __init__(self, seed: int, clock: Clock) -> None:
        self._clock, self._seed = clock, seed
        self._target = open_model(BUILT_IN)
        prompt_BT = self._target.prompt(text=None, num_tokens=_PROMPT, batch=1, seed=seed)
        self._work = self._target.record(prompt_BT, _STEPS + 1)
        self.parts = list(self._pass(None, 0)[0].parts)

    def overhead(self) -> tuple[float, Change]:
        """An uninstrumented step in nanoseconds, and how much longer an instrumented one is."""
        plain, marked = [], []
        for _ in range(20):
            plain.append(self._plain_pass(marked=False))
            marked.append(self._plain_pass(marked=True))
        return step_estimate(plain), paired_change(np.mean(plain, axis=1), np.mean(marked, axis=1))

    def attribute(self, part: str, delay_ns: int, seconds: float) -> Attribution:
        """Put a delay into a part, once a step, in every second pass, and see what the ledger makes of it."""
        began_ns = self._clock.now()
        passes: dict[bool, list[Steps]] = {False: [], True: []}
        waited_ns: list[float] = []
        rng = np.random.default_rng([self._seed, delay_ns])
        while len(waited_ns) < 6 or (self._clock.now() - began_ns) / 1e9 < seconds:
            for arm in balanced_block(2, rng).ravel():
                steps, waited = self._pass(part if arm else None, delay_ns)
                passes[bool(arm)].append(steps)
                if arm:
                    waited_ns.append(waited)
        grown = {name: _grown(name, passes) for name in self.parts}
        elsewhere = max((name for name in grown if name != part), key=lambda name: abs(grown[name]))
        return Attribution(part, delay_ns, float(np.median(waited_ns)), grown[part], grown[elsewhere], elsewhere)

    def _plain_pass(self, *, marked: bool) -> NDArray[np.int64]:
        recorder = Recorder(self._clock)
        self._target.replay(self._work, recorder, None if marked else PLAIN)
        return recorder.steps("decode").step_ns

    def _pass(self, part: str | None, delay_ns: int) -> tuple[Steps, float]:
        # The undelayed passes go through the same wrapper: in Python it costs 0.2 µs a mark, which would be taken
        # for growth of the parts that are entered most.
        recorder = Recorder(self._clock)
        recorder.mark = delay = _Delay(recorder.mark, part, delay_ns, self._clock)
        self._target.replay(self._work, recorder, None)
        return recorder.steps("decode"), delay.waited_ns / _STEPS


class _Delay:
    """A mark that waits in one part, at the first time a decode step enters it."""

    def __init__(self, mark: Mark, part: str | None, delay_ns: int, clock: Clock) -> None:
        self._mark, self._part, self._delay_ns, self._now = mark, part, delay_ns, clock.now
        self._armed = False
        self._steps = 0
        self.waited_ns = 0

    def __call__(self, part: str) -> None:
        """Mark, and wait if this is the place."""
        self._mark(part)
        if part == _FIRST_PART:
            self._armed = True
            self._steps += 1
        if self._armed and part == self._part:
            self._armed = False
            begun_ns = now_ns = self._now()
            while now_ns - begun_ns < self._delay_ns:
                now_ns = self._now()
            if self._steps > 1:  # the first step is the prefill, which has a ledger of its own
                self.waited_ns += now_ns - begun_ns


def _grown(name: str, passes: dict[bool, list[Steps]]) -> float:
    """By how many nanoseconds a step a part is longer with the delay than without (law "medians do not add")."""
    with_delay, without = ([steps.parts[name] for steps in passes[arm]] for arm in (True, False))
    return step_estimate(with_delay) - step_estimate(without)


def tables(test: SelfTest) -> list[Table]:
    """The answers, and the sentence."""
    comparisons = Table("comparisons with a known answer", DETECTION_COLUMNS, [test.identical, *test.different])
    num_parts = len({a.part for a in test.attribution})
    delays = Table(
        title=f"known delays in each of {plural(num_parts, 'part')} of a step of {duration(test.step_ns)}",
        columns=_DELAY,
        records=[attributions for delay in DELAYS_NS if (attributions := _with_delay(test, delay))],
        notes=[
            (
                f"clock: {test.clock_read_ns:.0f} ns a reading, {test.clock_resolution_ns} ns resolution"
                f" · ledger {overhead(test.overhead, test.overhead_ci_low, test.overhead_ci_high)}"
            ),
            _between(test),
            "",
            test.sentence,
        ],
    )
    return [comparisons, delays]


def _between(test: SelfTest) -> str:
    if test.between_runs is None:
        return "runs in fresh processes: not kept, because this machine cannot be identified"
    return (
        f"{plural(test.fresh_runs, 'run')} in fresh processes differ by {percent(test.between_runs, 2)} (standard "
        "deviation); kept for `perstep compare`"
    )


def _with_delay(test: SelfTest, delay_ns: int) -> list[Attribution]:
    return [a for a in test.attribution if a.delay_ns == delay_ns]


def _worst(attributions: list[Attribution]) -> Attribution:
    return max(attributions, key=lambda a: abs(_error_ns(a)))


def _error_ns(attribution: Attribution) -> float:
    return attribution.found_ns - attribution.true_ns


def _moved(attributions: list[Attribution]) -> Attribution:
    return max(attributions, key=lambda a: abs(a.largest_elsewhere_ns))


_DELAY: list[Column[list[Attribution]]] = [
    Column("delay", lambda tests: tests[0].delay_ns, duration, "delay_ns", words=True),
    Column("within 3 % or 1 µs", lambda tests: f"{sum(a.within for a in tests)} of {len(tests)}", name="within"),
    Column("worst part", lambda tests: _worst(tests).part, name="worst_part", words=True),
    Column("its error", lambda tests: _error_ns(_worst(tests)), "{:+.0f}".format, "error_ns", "ns"),
    Column("moved elsewhere", lambda tests: _moved(tests).largest_elsewhere_ns, "{:+.0f}".format, "moved_ns", "ns"),
    Column("to", lambda tests: _moved(tests).elsewhere, name="moved_to", words=True),
]
