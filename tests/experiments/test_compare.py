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
from perstep.measure.blocks import ArmFailed
from perstep.measure.clock import FakeClock


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
    assert isclose(found["new"].change, 0.03, rel_tol=1e-9)
    assert found["new"].verdict == "slower"
    assert isclose(found["new"].ci_low, 0.03, rel_tol=1e-9)
    assert isclose(found["new"].ci_high, 0.03, rel_tol=1e-9)
    assert found.reference == "old"
    assert isclose(found["old"].ns_per_call, 100_000)


def test_a_faster_arm_is_faster_and_an_equal_one_is_the_same():
    """Signs are not mixed up; identical programs are `same`, with every round a tie."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, old=100_000, fast=80_000, equal=100_000))
    assert isclose(found["fast"].change, -0.2, rel_tol=1e-9)
    assert found["fast"].verdict == "faster"
    assert found["equal"].verdict == "same (within ±1 %)"
    assert found["equal"].ties == found.rounds


def test_the_reference_may_be_any_arm():
    """Changes are relative to the named arm."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, old=100_000, new=50_000), reference="new")
    assert isclose(found["old"].change, 1.0, rel_tol=1e-9)


def test_fewer_than_twenty_rounds_give_no_verdict():
    """Nineteen rounds, however clear, are not resolved; four have no interval either."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, old=100_000, new=200_000), rounds=19)
    assert found["new"].verdict == "not resolved"
    assert found["new"].ci_low is not None
    few = run(clock, make_arms(clock, old=100_000, new=200_000), rounds=4)
    assert few["new"].ci_low is None
    assert few["new"].verdict == "not resolved"
    assert "4 rounds" in few.unresolved


def test_a_thousandfold_difference_is_measured():
    """Arms with their own numbers of calls give the true ratio, and the comparison says so."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, fast=1_000, slow=1_000_000))
    assert isclose(found["slow"].change, 999.0, rel_tol=1e-6)
    assert any("own number of calls" in note for note in found.notes)


def test_arms_that_take_no_time_by_the_clock_are_ties():
    """Zero durations are kept as ties; no division by zero."""
    clock = FakeClock()
    found = run(clock, {"a": lambda: None, "b": lambda: None})
    assert found["b"].change == 0
    assert found["b"].ties == 24


def test_a_clock_that_steps_back_makes_the_comparison_invalid():
    """The round is kept and counted, and there is no verdict."""
    clock = FakeClock()
    arms = make_arms(clock, old=100_000, new=103_000)
    calls = iter(range(10**9))

    def unsteady():
        clock.advance(-(10**9) if next(calls) == 501 else 103_000)

    found = run(clock, {"old": arms["old"], "new": unsteady})
    assert found["new"].verdict.startswith("invalid (the clock stepped back in 1 round")
    assert found.invalid


def test_noise_does_not_hide_a_change_nor_make_one():
    """Under 2 % jitter a true 3 % is found, and identical arms get no verdict of a difference."""
    clock = FakeClock()
    found = run(clock, make_arms(clock, 0.02, old=100_000, new=103_000, same=100_000), rounds=60)
    assert found["new"].verdict == "slower"
    assert found["same"].verdict not in {"slower", "faster"}


def test_rounds_are_complete_balanced_blocks():
    """In each round of three arms each stands in each place equally often: six rows of three turns."""
    clock = FakeClock()
    arms = {
        name: experiment.CallableArm(name, call, clock) for name, call in make_arms(clock, a=1e6, b=1e6, c=1e6).items()
    }
    session = experiment.CompareSession(
        arms,
        perstep.experiments.compare.Effort(max_rounds=1, budget_s=10),
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
    arms = {n: experiment.CallableArm(n, c, clock) for n, c in make_arms(clock, old=1e6, new=2e6).items()}
    session = experiment.CompareSession(
        arms,
        perstep.experiments.compare.Effort(max_rounds=1, budget_s=10),
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
    assert caught.value.partial["new"].verdict.startswith("same")


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
    assert results[0]["new"].verdict == "slower"


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
