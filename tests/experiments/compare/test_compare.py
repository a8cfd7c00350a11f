"""Comparisons on a fake clock: the true change is known to the nanosecond."""

import signal
import threading
import time
from math import isclose

import msgspec
import numpy as np
import pytest

import perstep
from perstep.errors import InputError
from perstep.experiments import compare as experiment
from perstep.experiments.compare.session import waited_by_processes
from perstep.experiments.compare.show import comparison_tables
from perstep.machine import QuietProbe
from perstep.measure import Effort
from perstep.measure.blocks import ArmFailed, BlockTime, CallableArm
from perstep.measure.clock import FakeClock
from perstep.report import to_text


def make_arms(clock: FakeClock, jitter: float = 0.0, **costs_ns: float):
    """Callables that take known times by the fake clock, with jitter from a seed if wanted."""
    rng = np.random.default_rng(1)

    def make(cost_ns: float):
        return lambda: clock.advance(round(cost_ns * (1 + jitter * rng.standard_normal())))

    return {name: make(cost_ns) for name, cost_ns in costs_ns.items()}


def run(clock: FakeClock, arms, **options):
    """A comparison on the fake clock, 24 rounds unless told otherwise."""
    return perstep.compare(arms, clock=clock, **{"rounds": 24, **options})


def test_a_slower_arm_is_slower_by_the_true_change():
    """3 % more time is a change of 0.03, and the verdict is `slower`."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, old=100_000, new=103_000))
    assert isclose(found["new"].wall.change, 0.03, rel_tol=1e-9)
    assert found["new"].wall.verdict == "slower"
    assert isclose(found["new"].wall.ci_low, 0.03, rel_tol=1e-9)
    assert isclose(found["new"].wall.ci_high, 0.03, rel_tol=1e-9)
    assert found.reference == "old"
    assert isclose(found["old"].wall.ns, 100_000)


def test_a_faster_arm_is_faster_and_an_equal_one_is_the_same():
    """Signs are not mixed up; identical programs are `same`, with every round a tie."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, old=100_000, fast=80_000, equal=100_000))
    assert isclose(found["fast"].wall.change, -0.2, rel_tol=1e-9)
    assert found["fast"].wall.verdict == "faster"
    assert found["equal"].wall.verdict == "same (within ±1 %)"
    assert found["equal"].wall.ties == found.rounds


def test_the_reference_may_be_any_arm():
    """Changes are relative to the named arm."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, old=100_000, new=50_000), reference="new")
    assert isclose(found["old"].wall.change, 1.0, rel_tol=1e-9)


def test_fewer_than_twenty_rounds_give_no_verdict():
    """Nineteen rounds, however clear, are not resolved; four have no interval either."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, old=100_000, new=200_000), rounds=19)
    assert found["new"].wall.verdict == "not resolved"
    assert found["new"].wall.ci_low is not None
    few = run(clock, make_arms(clock, old=100_000, new=200_000), rounds=4)
    assert few["new"].wall.ci_low is None
    assert few["new"].wall.verdict == "not resolved"
    assert "4 rounds" in few.unresolved


def test_a_thousandfold_difference_is_measured():
    """Arms with their own numbers of calls give the true ratio, and the comparison says so."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, fast=1_000, slow=1_000_000))
    assert isclose(found["slow"].wall.change, 999.0, rel_tol=1e-6)
    assert any("own number of calls" in note for note in found.notes)


def test_arms_that_take_no_time_by_the_clock_are_ties():
    """Zero durations are kept as ties; no division by zero."""
    clock = FakeClock()
    found = run(clock, {"a": lambda: None, "b": lambda: None})
    assert found["b"].wall.change == 0
    assert found["b"].wall.ties == 24


def test_a_clock_that_steps_back_makes_the_comparison_invalid():
    """The round is kept and counted, and there is no verdict."""
    clock = FakeClock()
    arms = make_arms(clock, old=100_000, new=103_000)
    calls = iter(range(10**9))

    def unsteady():
        clock.advance(-(10**9) if next(calls) == 501 else 103_000)

    found = run(clock, {"old": arms["old"], "new": unsteady})
    assert found["new"].wall.verdict.startswith("invalid (the clock stepped back in 1 round")
    assert found.invalid


def test_noise_does_not_hide_a_change_nor_make_one():
    """Under 2 % jitter a true 3 % is found, and identical arms get no verdict of a difference."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, 0.02, old=100_000, new=103_000, same=100_000), rounds=60)
    assert found["new"].wall.verdict == "slower"
    assert found["same"].wall.verdict not in {"slower", "faster"}


def test_rounds_are_complete_balanced_blocks():
    """In each round of three arms each stands in each place equally often: six rows of three turns."""
    clock = FakeClock()
    arms = {name: CallableArm(name, call, clock) for name, call in make_arms(clock, a=1e6, b=1e6, c=1e6).items()}
    session = experiment.CompareSession(
        arms,
        Effort(max_rounds=1, budget_s=10),
        seed=3,
        clock=clock,
        progress=lambda _share, _what: None,
        threshold=0.01,
    )
    turns = session.measure_round(0).turns
    rows = [turns[i : i + 3] for i in range(0, len(turns), 3)]
    for place in range(3):
        assert sorted(row[place] for row in rows) == sorted([*"aabbcc"])


def test_samples_survive_the_disk():
    """Analysis of decoded samples equals that of the samples in memory."""
    clock = FakeClock()
    arms = {n: CallableArm(n, c, clock) for n, c in make_arms(clock, old=1e6, new=2e6).items()}
    session = experiment.CompareSession(
        arms,
        Effort(max_rounds=1, budget_s=10),
        seed=3,
        clock=clock,
        progress=lambda _share, _what: None,
        threshold=0.01,
    )
    samples = [session.measure_round(number) for number in range(22)]
    again = msgspec.json.decode(msgspec.json.encode(samples), type=list[experiment.Sample])
    assert experiment.analyse(session.manifest, samples) == experiment.analyse(session.manifest, again)


def test_a_failing_arm_keeps_what_was_measured():
    """The error names arm and call; the rounds before it are in `partial`."""
    clock = FakeClock()
    arms = make_arms(clock, old=1_000_000, new=1_000_000)
    calls = iter(range(10**9))

    def fails():
        if next(calls) == 400:
            raise RuntimeError("boom")
        clock.advance(1_000_000)

    with pytest.raises(ArmFailed, match="'new' failed in call 401: RuntimeError: boom") as caught:
        run(clock, {"old": arms["old"], "new": fails}, rounds=1000)
    assert caught.value.partial.rounds > 20
    assert caught.value.partial["new"].wall.verdict.startswith("same")


def test_different_results_are_refused_under_check():
    """Equal results pass, different ones name the arm; a function of two results may decide."""
    clock = FakeClock()
    arms = {"a": lambda: np.arange(3), "b": lambda: np.arange(3), "c": lambda: np.arange(4)}
    ab = {name: arms[name] for name in "ab"}
    assert run(clock, ab, check=True).rounds == 24
    with pytest.raises(ArmFailed, match=r"'c'.*result differs from that of 'a'"):
        run(clock, arms, check=True)
    with pytest.raises(ArmFailed, match="'b'"):
        run(clock, ab, check=lambda expected, found: False)


@pytest.mark.parametrize(
    ("expected", "found", "equal"),
    [(1, 1, True), (1, 2, False), ([1], [1], True), (float("inf"), float("inf"), True),
     (np.array([np.nan]), np.array([np.nan]), True), (np.zeros(2), np.zeros(2, np.float32), False),
     (np.zeros((2, 1)), np.zeros(2), False), (np.array(["a"]), np.array(["a"]), True)],
)  # fmt: skip
def test_results_are_compared_by_value(expected, found, equal):
    """Shape, dtype and every value count."""
    clock = FakeClock()
    arms = {"a": lambda: expected, "b": lambda: found}
    if equal:
        assert run(clock, arms, check=True)
    else:
        with pytest.raises(ArmFailed):
            run(clock, arms, check=True)


@pytest.mark.real_clock
def test_a_call_that_does_not_return_is_interrupted_and_named():
    """After twice the budget and a second the hanging arm is named; the alarm is put back."""

    def hangs():
        while True:
            time.sleep(0.01)

    with pytest.raises(ArmFailed, match=r"'new'.*has not returned"):
        perstep.compare({"new": hangs, "old": lambda: None}, budget_s=0.05)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_comparison_may_run_in_a_thread():
    """Without the main thread's alarm everything else works."""
    clock = FakeClock()
    arms = make_arms(clock, old=100_000, new=103_000)
    results = []
    thread = threading.Thread(target=lambda: results.append(run(clock, arms)))
    thread.start()
    thread.join()
    assert results[0]["new"].wall.verdict == "slower"


@pytest.mark.parametrize(
    ("arms", "options", "said"),
    [({"a": len}, {}, "needs two or more"), ({"a": len, "b": 3}, {}, "'b' is 3, not"),
     ([len, abs], {}, "arms is a list"),
     ({"a": len, "b": len}, {"reference": "c"}, "'c' is no arm"),
     ({"a": len, "b": len}, {"budget_s": 0}, "above 0"), ({"a": len, "b": len}, {"precision": 2}, "above 0"),
     ({"a": len, "b": len}, {"rounds": 0}, "above 0"), ({"a": len, "b": len}, {"threshold": -1}, "above 0")],
)  # fmt: skip
def test_bad_input_is_refused(arms, options, said):
    """One clear sentence before anything is timed."""
    with pytest.raises(InputError, match=said):
        perstep.compare(arms, **options)


def test_it_prints_as_a_table():
    """`print(comparison)` shows arms, changes, verdicts and what could be detected."""
    clock = FakeClock()
    text = str(run(clock, make_arms(clock, old=100_000, new=103_000)))
    for word in ("old", "new", "+3.00 %", "slower", "reference", "24 rounds"):
        assert word in text


def make_waiting_arms(clock: FakeClock, share_of_calls: float, **costs_ns: float):
    """Callables of known processor time; in a share of their calls another process runs for ten times as long."""
    rng = np.random.default_rng(2)

    def make(cost_ns: float):
        def call():
            clock.advance(round(cost_ns))
            if rng.random() < share_of_calls:
                clock.wait(round(10 * cost_ns * rng.exponential()))

        return call

    return {name: make(cost_ns) for name, cost_ns in costs_ns.items()}


def test_a_busy_machine_gets_no_verdict_from_wall_time():
    """Most rounds waited: no change of wall time is shown, and the change of processor time stands beside it."""
    clock = FakeClock()
    found = run(clock, make_waiting_arms(clock, 0.2, old=5_000_000, new=5_500_000), rounds=40)
    new, processor = found["new"].wall, found["new"].processor
    assert new.verdict.startswith("not resolved (the machine was busy: waited ")
    assert (new.change, new.ci_low, new.ci_high, new.mde) == (None, None, None, None)
    assert isclose(processor.change, 0.1, rel_tol=1e-9)
    assert processor.verdict == "slower"
    assert "the machine was busy" in found.unresolved
    text = str(found)
    assert "Processor time of the same rounds" in text
    assert "+10.00 %" in text


def test_processor_time_is_different_only_beyond_the_threshold():
    """Cold caches behind a preemption are processor time: an interval that reaches within ±1 % says nothing.

    The same rounds on a quiet machine are `slower` by their wall time, whose interval lies above 0.
    """

    def compared(waited_ns: int):
        clock = FakeClock()
        calls = make_arms(clock, 0.015, old=5_000_000, new=5_065_000)

        def waiting(call):
            def made():
                call()
                clock.wait(waited_ns)

            return made

        return run(clock, {name: waiting(call) for name, call in calls.items()}, rounds=60)["new"]

    quiet, busy = compared(0).wall, compared(5_000_000).processor
    assert 0 < quiet.ci_low < 0.01 < quiet.ci_high
    assert quiet.verdict == "slower"
    assert (busy.ci_low, busy.ci_high) == (quiet.ci_low, quiet.ci_high)
    assert busy.verdict == "not resolved"
    assert "within ±1 %" in busy.reason


def test_a_machine_that_is_busy_now_and_then_gets_a_verdict():
    """Waiting in a third of the rounds leaves the median of the others; processor time is not shown beside it."""
    clock = FakeClock()
    arms = make_waiting_arms(clock, 0.04, old=5_000_000, new=5_500_000)
    found = run(clock, arms, rounds=60)
    assert 0.1 < np.mean([share > 0.05 for share in waited_shares(arms, clock)]) < 0.5
    assert found.busy == ""
    assert found["new"].wall.verdict == "slower"
    assert "Processor time" not in str(found)


def waited_shares(arms, clock: FakeClock) -> list[float]:
    """The waited share of each round of such a comparison."""
    timed = {name: CallableArm(name, call, clock) for name, call in arms.items()}
    session = make_session(timed, clock)
    return [session.measure_round(number).waited_share for number in range(60)]


def make_session(arms, clock: FakeClock) -> experiment.CompareSession:
    """A session on a fake clock."""
    return experiment.CompareSession(
        arms,
        Effort(budget_s=1.0),
        seed=3,
        clock=clock,
        progress=lambda _share, _what: None,
        threshold=0.01,
    )


def test_processor_time_gives_no_verdict_while_a_device_is_in_use():
    """It counts the waiting for the device, so that a program that waits longer would be called slower."""
    clock = FakeClock()
    arms = make_waiting_arms(clock, 0.2, old=5_000_000, new=5_500_000)
    session = make_session({n: CallableArm(n, call, clock) for n, call in arms.items()}, clock)
    samples = [session.measure_round(number) for number in range(30)]
    assert experiment.analyse(session.manifest, samples).arms["new"].processor.verdict == "slower"
    session.manifest.conditions["device"] = "NVIDIA H200"
    found = experiment.analyse(session.manifest, samples).arms["new"].processor
    assert found.verdict == "not resolved (processor time counts the waiting for NVIDIA H200)"
    assert found.change is None


class FreshArm:
    """An arm whose processes differ: each has an offset of its own, drawn when it starts."""

    fresh, least_calls = True, 1

    def __init__(self, cost_ns: float, clock: FakeClock, seed: int, started: list[int]) -> None:
        self._cost_ns, self._clock, self._started = cost_ns, clock, started
        self._rng = np.random.default_rng(seed)

    def renew(self, seed: int, calls: int) -> None:
        """A new process."""
        self._started.append(seed)
        self._mine_ns = self._cost_ns * (1 + 0.05 * self._rng.standard_normal())

    def block(self, calls: int) -> BlockTime:
        """Its offset stays while it lives."""
        ns = round(calls * self._mine_ns)
        self._clock.advance(ns)
        return BlockTime(ns, ns, 0)

    def close(self) -> None:
        """Nothing to let go of."""


def test_processes_are_the_replicates_where_arms_have_processes():
    """Each round starts new ones with one seed for all arms; what two processes differ by is in the interval.

    The same arms with one process each would give an interval of no width around their difference.
    """
    clock, started = FakeClock(), []
    arms = {name: FreshArm(2_000_000, clock, seed, started) for seed, name in enumerate(("old", "new"))}
    session = make_session(arms, clock)
    del started[:]
    samples = [session.measure_round(number) for number in range(40)]
    assert [started[k] == started[k + 1] for k in range(0, 80, 2)] == [True] * 40
    assert len(set(started)) == 40
    found = experiment.analyse(session.manifest, samples)
    assert found.replicates == "processes"
    assert found.arms["new"].wall.ci_low < 0 < found.arms["new"].wall.ci_high
    assert found.arms["new"].wall.ci_high - found.arms["new"].wall.ci_low > 0.02
    assert "each with new processes" in to_text(comparison_tables(found)[0])


def test_what_is_replicated_is_said():
    """Callables keep one process, and the table says so."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, old=100_000, new=103_000))
    assert found.replicates == "rounds of one process"
    assert "24 rounds in one process" in str(found)


def test_too_few_rounds_name_the_budget_that_would_do():
    """The pace of the warm-up tells how long 20 rounds take."""
    clock = FakeClock()
    arms = make_arms(clock, old=100_000_000, new=100_000_000)
    found = perstep.compare(arms, clock=clock, budget_s=5.0)
    assert found.rounds < 20
    assert any("A verdict needs 20 rounds" in note and "--budget" in note for note in found.notes)


@pytest.mark.parametrize(
    ("waits", "pressure_ns", "share"),
    [
        ([0, 0], None, 0.0),
        ([None, None], None, None),
        ([400, 400], None, 0.4),  # told by the processes
        ([0, 0], 900, 0.45),  # their children's, bounded by the machine's
        ([0, 0], 10**6, 0.5),  # bounded by their own wall time without processor time
        ([None, None], 0, 0.0),  # they slept: nobody waited
    ],
)
def test_processes_waited_what_they_tell_or_what_the_machine_admits(waits, pressure_ns, share):
    """Sleep is not waiting, and the waiting of other programs is not theirs."""
    blocks = [BlockTime(1000, 500, waited) for waited in waits]
    noise = msgspec.structs.replace(QuietProbe(lambda: 0, lambda: 0).stop(), pressure_ns=pressure_ns)
    assert waited_by_processes(blocks, noise) == share
