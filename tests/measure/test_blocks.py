"""Blocks of calls, on a fake clock: every number is known."""

import shlex
import sys
from pathlib import Path

import pytest

from perstep.errors import InputError
from perstep.measure.blocks import (
    BLOCK_NS,
    UNEQUAL_FROM_NS,
    ArmFailed,
    CallableArm,
    measure_clock,
    plan_blocks,
    run_turns,
)
from perstep.measure.clock import FakeClock
from perstep.measure.processes import CommandArm, WorkerArm


def spending(clock: FakeClock, ns: int):
    """A callable that takes `ns` by the fake clock."""
    return lambda: clock.advance(ns)


def test_a_block_times_its_calls_and_not_the_one_before_them():
    """The first call of a turn runs in the other arm's caches and is not in the block."""
    clock, calls = FakeClock(), []

    def call():
        calls.append(1)
        clock.advance(1_000_000 if len(calls) == 1 else 10)

    assert CallableArm("a", call, clock).block(5) == 50
    assert len(calls) == 6


def test_a_failure_names_the_arm_and_the_call():
    """The error says which arm and which of its calls raised, over several blocks."""
    count = iter(range(1, 100))

    def call():
        if next(count) == 6:
            raise ValueError("six")

    arm = CallableArm("old", call, FakeClock())
    arm.block(2)  # calls 1 to 3
    with pytest.raises(ArmFailed, match=r"'old' failed in call 6: ValueError: six") as caught:
        arm.block(4)  # calls 4 to 8
    assert (caught.value.arm, caught.value.call) == ("old", 6)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_failure_in_the_first_call_of_a_turn_is_numbered():
    """The call that is not timed counts among the calls."""

    def call():
        raise SystemExit(3)

    with pytest.raises(ArmFailed, match="call 1: SystemExit: 3"):
        CallableArm("a", call, FakeClock()).block(2)


def test_an_interrupt_is_not_an_arm_that_failed():
    """Ctrl-C passes through."""

    def call():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CallableArm("a", call, FakeClock()).block(2)


def test_the_clock_is_measured():
    """A clock that moves 40 ns a reading costs 40 ns and resolves 40 ns."""
    cost = measure_clock(FakeClock(tick_ns=40))
    assert (cost.read_ns, cost.resolution_ns) == (40, 40)


def test_blocks_are_long_enough_for_the_clock():
    """Reading the clock and its resolution are at most 0.1 % of the shortest block."""
    clock = FakeClock(tick_ns=2_000)
    arms = {name: CallableArm(name, spending(clock, ns), clock) for name, ns in (("a", 10_000), ("b", 12_000))}
    blocks = plan_blocks(arms, clock, round_budget_s=10.0)
    assert blocks.clock_share <= 0.001
    assert blocks.calls["a"] * 10_000 >= 4_000 * 1000


def test_arms_of_similar_cost_make_equal_numbers_of_calls():
    """Different numbers of calls would bias the ratio."""
    clock = FakeClock(tick_ns=1)
    arms = {name: CallableArm(name, spending(clock, ns), clock) for name, ns in (("a", 1_000), ("b", 3_000))}
    blocks = plan_blocks(arms, clock, round_budget_s=10.0)
    assert blocks.equal
    assert blocks.calls["a"] == blocks.calls["b"]
    assert 0.99 * BLOCK_NS <= blocks.calls["a"] * 1_000 <= 1.1 * BLOCK_NS


def test_arms_that_differ_a_thousandfold_make_their_own_numbers_of_calls():
    """Otherwise the slow arm's block would take a second to give the fast one a millisecond."""
    clock = FakeClock(tick_ns=1)
    arms = {name: CallableArm(name, spending(clock, ns), clock) for name, ns in (("a", 1_000), ("b", 1_000_000))}
    blocks = plan_blocks(arms, clock, round_budget_s=10.0)
    assert not blocks.equal
    assert blocks.calls["b"] * 1_000_000 < UNEQUAL_FROM_NS
    assert blocks.calls["a"] * 1_000 >= 0.99 * BLOCK_NS


def test_a_call_longer_than_the_round_budget_stands_alone():
    """Calls of a second are not repeated within a turn."""
    clock = FakeClock(tick_ns=1)
    arms = {name: CallableArm(name, spending(clock, 10**9), clock) for name in "ab"}
    assert plan_blocks(arms, clock, round_budget_s=0.1).calls == {"a": 1, "b": 1}


def test_a_callable_that_takes_no_time_gets_a_bounded_block():
    """A clock that does not see the call at all ends the search."""
    clock = FakeClock()
    arms = {name: CallableArm(name, lambda: None, clock) for name in "ab"}
    calls = plan_blocks(arms, clock, round_budget_s=10.0).calls
    assert calls["a"] == calls["b"] <= 1 << 45


def test_turns_run_in_their_order():
    """One block a turn, in the given order."""
    clock, order = FakeClock(tick_ns=1), []
    arms = {name: CallableArm(name, lambda name=name: order.append(name), clock) for name in "ab"}
    blocks = plan_blocks({n: CallableArm(n, spending(clock, 10**9), clock) for n in "ab"}, clock, round_budget_s=0.1)
    assert len(run_turns(arms, blocks, ["a", "b", "b", "a"])) == 4
    assert "".join(order) == "aabbbbaa"


def test_a_command_is_run_afresh_at_every_call(tmp_path: Path):
    """One call not timed and two timed are three processes."""
    log = tmp_path / "log"
    command = shlex.join([sys.executable, "-c", f"open({str(log)!r}, 'a').write('x')"])
    assert CommandArm("a", command, FakeClock(tick_ns=1)).block(2) > 0
    assert log.read_text() == "xxx"


def test_a_command_that_fails_says_its_exit_code_and_last_words():
    """The last line of its stderr is in the error."""
    command = shlex.join([sys.executable, "-c", "import sys; sys.exit('no such file')"])
    with pytest.raises(ArmFailed, match="exit code 1: no such file"):
        CommandArm("a", command, FakeClock(tick_ns=1)).block(1)


@pytest.mark.parametrize("command", ["", "  ", "echo 'unclosed"])
def test_a_command_that_is_none_is_refused(command: str):
    """Nothing is run."""
    with pytest.raises(InputError):
        CommandArm("a", command, FakeClock(tick_ns=1))


def test_a_program_that_does_not_exist_is_named():
    """The error has the program's name."""
    with pytest.raises(ArmFailed, match="no-such-program"):
        CommandArm("a", "no-such-program --x", FakeClock(tick_ns=1)).block(1)


@pytest.mark.real_clock
def test_a_worker_times_a_function_in_another_process(tmp_path: Path):
    """The function runs in a process of its own, which lives as long as the arm; what it prints is not an answer."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nmade = []\ndef f():\n    made.append(1)\n    print('noise')\n"
        f"    open(r'{tmp_path / 'pid'}', 'w').write(f'{{os.getpid()}} {{len(made)}}')\n"
    )
    arm = WorkerArm("a", sys.executable, str(script), "f")
    try:
        assert arm.block(3) > 0
        assert arm.block(1) > 0
    finally:
        arm.close()
    pid, calls = (tmp_path / "pid").read_text().split()
    assert int(pid) != __import__("os").getpid()
    assert int(calls) == 6


def test_a_worker_whose_function_raises_or_is_missing_says_so(tmp_path: Path):
    """The exception's text and the number of the call come back."""
    script = tmp_path / "script.py"
    script.write_text("n = 0\ndef f():\n    global n\n    n += 1\n    assert n < 3, 'third'\n")
    arm = WorkerArm("a", sys.executable, str(script), "f")
    missing = WorkerArm("b", sys.executable, str(script), "g")
    try:
        arm.block(1)
        with pytest.raises(ArmFailed, match="call 3: AssertionError: third"):
            arm.block(1)
        with pytest.raises(ArmFailed, match="g"):
            missing.block(1)
    finally:
        arm.close()
        missing.close()


def test_a_worker_that_dies_is_noticed(tmp_path: Path):
    """The error has its exit code."""
    script = tmp_path / "script.py"
    script.write_text("import os\ndef f():\n    os._exit(7)\n")
    arm = WorkerArm("a", sys.executable, str(script), "f")
    try:
        with pytest.raises(ArmFailed, match="exit code 7"):
            arm.block(1)
    finally:
        arm.close()


def test_an_interpreter_that_does_not_exist_is_refused(tmp_path: Path):
    """Before anything is timed."""
    with pytest.raises(InputError, match="no-such-python"):
        WorkerArm("a", "no-such-python", "script.py", "f")
