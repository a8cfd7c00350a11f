"""Blocks of calls, on a fake clock: every number is known."""

import shlex
import sys
from functools import partial
from pathlib import Path

import pytest

from perstep.errors import InputError
from perstep.measure.blocks import (
    BLOCK_NS,
    PLACES,
    UNEQUAL_FROM_NS,
    ArmFailed,
    BlockTime,
    CallableArm,
    at_other_places,
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

    assert CallableArm("a", call, clock).block(5) == BlockTime(50, 50)
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
    """Two calls are two processes: a process that starts anew has nothing to warm up."""
    log = tmp_path / "log"
    command = shlex.join([sys.executable, "-c", f"open({str(log)!r}, 'a').write('x')"])
    assert CommandArm("a", command, FakeClock(tick_ns=1)).block(2).wall_ns > 0
    assert log.read_text() == "xx"


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
        assert arm.block(3).wall_ns > 0
        assert arm.block(1).wall_ns > 0
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


HASHES = "import os, sys\ndef f():\n    print(os.getpid(), hash('key'), file=sys.stderr)\n"


def said(capfd: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    """(process, hash) of each call since the last time, from what the processes wrote to stderr."""
    return [(pid, found) for pid, found in (line.split() for line in capfd.readouterr().err.splitlines())]


def test_each_round_has_new_workers_with_one_hash_seed(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Within a round an arm keeps its process; both arms hash strings alike, and otherwise than in the next round."""
    script = tmp_path / "script.py"
    script.write_text(HASHES)
    arms = [WorkerArm(name, sys.executable, str(script), "f") for name in "ab"]
    rounds = []
    try:
        for seed in (1, 2):
            for arm in arms:
                arm.renew(seed, 1)
                arm.block(2)
            rounds.append(said(capfd))
    finally:
        for arm in arms:
            arm.close()
    for calls in rounds:
        assert len(calls) == 10  # two workers: two calls to warm up, three in a turn
        assert len({pid for pid, _ in calls}) == 2
        assert len({found for _, found in calls}) == 1
    assert not {pid for pid, _ in rounds[0]} & {pid for pid, _ in rounds[1]}
    assert rounds[0][0][1] != rounds[1][0][1]


def test_commands_of_a_round_have_one_hash_seed(tmp_path: Path):
    """Every call is a new process; the seed is the round's."""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(f"open(r'{log}', 'a').write(f'{{hash(\"key\")}}\\n')\n")
    arm = CommandArm("a", shlex.join([sys.executable, str(script)]), FakeClock(tick_ns=1))
    for seed in (1, 2):
        arm.renew(seed, 1)
        arm.block(2)
    first, again, second, _ = log.read_text().split()
    assert first == again != second


def test_a_callable_keeps_its_process_and_its_code_moves():
    """No call is made between rounds; from round to round another copy of the code runs, eight in turn."""
    clock, places = FakeClock(), []

    def call():
        places.append(id(sys._getframe().f_code))

    arm = CallableArm("a", call, clock)
    assert not arm.fresh
    for _ in range(2 * PLACES):
        arm.renew(1, 5)
        assert arm.block(1) == BlockTime(0, 0)
    assert places[::2] == places[1::2]  # within a round it stays
    assert len(set(places)) == PLACES
    assert places[: 2 * PLACES] == places[2 * PLACES :]


class Counter:
    """Something with a method."""

    def __init__(self, step):
        self.step, self.count = step, 0

    def add(self, *, times=1):
        """Count on."""
        self.count += self.step * times


def test_copies_of_a_function_do_what_it_does():
    """They share globals, closure, defaults, attributes and, of a method, the object; other callables stay."""
    seen = []

    def call(start=3, *, more=4):
        seen.append((start, more, call.label))

    call.label = "x"
    for copy in at_other_places(call):
        copy()
    assert seen == [(3, 4, "x")] * PLACES
    counter = Counter(2)
    for copy in at_other_places(counter.add):
        copy()
    assert counter.count == 2 * PLACES
    for other in (len, partial(len, ()), Counter(1)):
        assert at_other_places(other) == [other]


def test_processor_time_stands_beside_wall_time():
    """What a call waits is in its wall time alone."""
    clock = FakeClock()

    def call():
        clock.advance(100)
        clock.wait(900)

    assert CallableArm("a", call, clock).block(3) == BlockTime(wall_ns=3_000, processor_ns=300)


def test_a_command_tells_its_processor_time_and_that_of_its_children():
    """A shell that waits for its child has worked as long as the child; sleep is no work."""
    spin = "import time\nwhile time.process_time() < 0.05: pass"
    worked = CommandArm(
        "a", shlex.join(["sh", "-c", shlex.join([sys.executable, "-c", spin]) + "; true"]), FakeClock(tick_ns=1)
    )
    slept = CommandArm("b", "sleep 0.2", FakeClock(tick_ns=1))
    assert worked.block(1).processor_ns >= 50_000_000
    assert slept.block(1).processor_ns < 150_000_000


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells how long a process waited")
def test_processes_tell_how_long_they_waited_for_a_processor(tmp_path: Path):
    """Workers read it themselves; a command is read when it has ended, before it is gone."""
    script = tmp_path / "script.py"
    script.write_text("def f():\n    sum(range(1000))\n")
    arm = WorkerArm("a", sys.executable, str(script), "f")
    try:
        waits = [arm.block(3).waited_ns, CommandArm("b", "true", FakeClock(tick_ns=1)).block(2).waited_ns]
    finally:
        arm.close()
    assert all(isinstance(waited, int) and waited >= 0 for waited in waits)
