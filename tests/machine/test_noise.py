"""Noise of rounds: differences of counters, what counts as a hit, sums."""

import gc
import threading
import time

import pytest

from perstep.errors import InputError
from perstep.machine import (
    Noise,
    NoiseLimits,
    NoiseProbe,
    QuietProbe,
    busy_reason,
    is_hit,
    summarise_noise,
    waited_share,
)
from perstep.machine._counters import Counters, parse_jiffies, parse_pressure, parse_throttled, parse_waited
from perstep.machine._sources import Source

CALM = {
    "wall_ns": 1_000_000_000,
    "cpu_ns": 990_000_000,
    "involuntary_switches": 2,
    "voluntary_switches": 5,
    "thread_involuntary_switches": 1,
    "minor_faults": 1000,
    "major_faults": 0,
    "gc_collections": 3,
    "gc_full_collections": 0,
    "waited_ns": 1_000_000,
    "total_jiffies": 400,
    "busy_jiffies": 101,
    "steal_jiffies": 0,
    "jiffy_ns": 10_000_000,
    "throttled_periods": 0,
    "throttled_ns": 0,
}


def noise(**changes):
    """One calm second on four CPUs, with changes."""
    return Noise(**{**CALM, **changes})


def test_calm_round_is_not_hit():
    """Page faults, young collections and voluntary switches are the work's own doing."""
    assert is_hit(noise()) == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"waited_ns": 10_000_001}, "preempted"),
        ({"waited_ns": None, "thread_involuntary_switches": 51}, "preempted"),
        ({"waited_ns": None, "thread_involuntary_switches": None, "involuntary_switches": 51}, "preempted"),
        ({"major_faults": 1}, "major faults"),
        ({"steal_jiffies": 5}, "steal"),
        ({"throttled_periods": 1}, "throttled"),
        ({"busy_jiffies": 140}, "other processes"),
        ({"gc_full_collections": 1}, "garbage collection"),
    ],
)
def test_each_kind_of_disturbance_is_named(change, kind):
    """A reading just beyond its limit is a hit of its own kind and no other."""
    assert is_hit(noise(**change)) == [kind]


@pytest.mark.parametrize(
    "change",
    [
        {"waited_ns": 10_000_000},
        {"waited_ns": 0, "thread_involuntary_switches": 500},
        {"steal_jiffies": 4},
        {"busy_jiffies": 139},
        {"total_jiffies": 20, "busy_jiffies": 103},
    ],
)
def test_readings_at_their_limit_are_no_hit(change):
    """Limits are exclusive; time waited outranks switches; a few jiffies are rounding."""
    assert is_hit(noise(**change)) == []


def test_unreadable_counters_are_no_hit():
    """What this system cannot tell is not held against a round."""
    nothing = dict.fromkeys(
        ["waited_ns", "thread_involuntary_switches", "total_jiffies", "busy_jiffies", "steal_jiffies"]
    )
    assert is_hit(noise(**nothing, throttled_periods=None, throttled_ns=None)) == []


def test_limits_can_be_set():
    """Stricter limits find more."""
    assert is_hit(noise(waited_ns=2_000_000), NoiseLimits(waited_share=0.001)) == ["preempted"]


@pytest.mark.parametrize(
    ("change", "share"),
    [
        ({"waited_ns": 0}, 0.0),
        ({"waited_ns": 400_000_000, "cpu_ns": 600_000_000}, 0.4),
        ({"waited_ns": None}, None),
        # two threads: one ran all the time, the other waited three quarters of it
        ({"waited_ns": 750_000_000, "cpu_ns": 1_250_000_000}, 0.375),
        # it slept by itself: the wall time without processor time is not waiting
        ({"waited_ns": 0, "cpu_ns": 100_000_000}, 0.0),
        # it never gave its processor up, so that the hypervisor, or another process, took it
        ({"waited_ns": 0, "cpu_ns": 100_000_000, "voluntary_switches": 0}, 0.9),
        # no run queue to ask, but it was interrupted more often than it slept
        ({"waited_ns": None, "cpu_ns": 100_000_000, "involuntary_switches": 6}, 0.9),
    ],
)
def test_waiting_is_a_share_of_the_time_it_could_have_run(change, share):
    """From the run queue where the kernel tells, from wall and processor time where nothing else can explain them."""
    assert waited_share(noise(**change)) == share


def test_a_machine_is_busy_if_most_rounds_waited():
    """Half of the rounds are not most; a round without a reading counts as one that did not wait."""
    assert busy_reason([0.9, 0.9, 0.3, 0.0, 0.0]) == "the machine was busy: waited 42 %"
    assert busy_reason([0.9, 0.9, 0.0, 0.0]) == ""
    assert busy_reason([0.9, 0.9, None, None, None]) == ""
    assert busy_reason([0.05] * 9) == ""
    assert busy_reason([]) == ""


def test_a_quiet_probe_reads_nothing_but_its_clocks():
    """On a fake clock no other program, and no load of the machine that runs the tests, is seen."""
    wall, processor = iter([0, 1000]), iter([0, 400])
    probe = QuietProbe(lambda: next(wall), lambda: next(processor))
    probe.start()
    found = probe.stop()
    assert (found.wall_ns, found.cpu_ns, found.waited_ns) == (1000, 400, None)
    assert waited_share(found) == 0.6


def test_pressure_is_read_in_nanoseconds():
    """The first line's total is in microseconds."""
    assert parse_pressure("some avg10=0.10 avg60=1.67 avg300=3.15 total=61291803\nfull avg10=0.00") == 61291803000
    assert parse_pressure("") is None


def test_the_waiting_of_all_threads_is_added_up(tmp_path):
    """One thread is read from its own file; several from the folder of tasks."""
    proc = tmp_path / "proc"
    for task, waited in ((7, 100), (8, 20)):
        (proc / f"self/task/{task}").mkdir(parents=True)
        (proc / f"self/task/{task}/schedstat").write_text(f"900 {waited} 3")
    (proc / "thread-self").mkdir()
    (proc / "thread-self/schedstat").write_text("900 100 3")
    assert Counters(Source(tmp_path)).read()["waited_ns"] == 120
    for file in (proc / "self/task/8").iterdir():
        file.unlink()
    (proc / "self/task/8").rmdir()
    assert Counters(Source(tmp_path)).read()["waited_ns"] == 100


def test_summary_counts_rounds_and_kinds():
    """A round hit twice counts once among the rounds and once for each kind."""
    rounds = [noise(), noise(major_faults=3, steal_jiffies=40), noise(steal_jiffies=20, frequency_hz=3_000)]
    summary = summarise_noise(rounds)
    assert (summary.rounds, summary.rounds_hit) == (3, 2)
    assert summary.by_kind == {"major faults": 1, "steal": 2}
    assert summary.major_faults == 3
    assert summary.steal_share == 60 / 1200
    assert summary.waited_share == 0.001
    assert summary.others_share == pytest.approx((303 - 297) / 1200)
    assert (summary.frequency_low_hz, summary.frequency_high_hz) == (3_000, 3_000)


def test_summary_of_unreadable_counters_is_null():
    """A share of nothing is None, not 0."""
    summary = summarise_noise([noise(waited_ns=None, total_jiffies=None, busy_jiffies=None, steal_jiffies=None)])
    assert summary.waited_share is summary.steal_share is summary.others_share is None
    assert summary.frequency_low_hz is None


def test_summary_of_no_rounds_is_refused():
    """There is nothing to divide by."""
    with pytest.raises(InputError, match="at least one round"):
        summarise_noise([])


def test_probe_gives_differences_and_levels(source, fake_clock, tmp_path):
    """Counters are subtracted, levels are not, and files are read anew though they stay open."""
    stat, frequency = "proc/stat", "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq"
    here = source(
        {
            stat: "cpu  100 10 20 1000 5 1 2 3 0 0\n",
            "proc/loadavg": "0.50 0.1 0.1 1/90 77\n",
            "proc/thread-self/schedstat": "1000 200 3\n",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.stat": "usage_usec 5\nnr_throttled 4\nthrottled_usec 10\n",
            frequency: "1000000\n",
        }
    )
    clock = fake_clock()
    with NoiseProbe(here, now=clock, cpu=lambda: 1) as probe:
        probe.start()
        clock.advance(5_000)
        (tmp_path / stat).write_text("cpu  150 10 30 1040 5 1 2 7 0 0\n")
        (tmp_path / "proc/thread-self/schedstat").write_text("2000 900 5\n")
        (tmp_path / "sys/fs/cgroup/cpu.stat").write_text("nr_throttled 6\nthrottled_usec 25\n")
        (tmp_path / frequency).write_text("2500000\n")
        found = probe.stop()
    assert found.wall_ns == 5_000
    assert (found.total_jiffies, found.busy_jiffies, found.steal_jiffies) == (104, 60, 4)
    assert (found.waited_ns, found.throttled_periods, found.throttled_ns) == (700, 2, 15_000)
    assert (found.frequency_hz, found.load_average_1min) == (2_500_000_000, 0.5)


def test_probe_without_proc_knows_only_what_the_process_tells(source):
    """Where there is no /proc, kernel counters are None and the process's own are still there."""
    with NoiseProbe(source("empty"), cpu=lambda: 0) as probe:
        probe.start()
        found = probe.stop()
    assert found.waited_ns is found.total_jiffies is found.steal_jiffies is found.throttled_ns is None
    assert found.frequency_hz is found.load_average_1min is None
    assert found.involuntary_switches >= 0


def test_probe_counts_collections():
    """A full collection within the round is seen as one, and only within the round."""
    gc.collect()
    with NoiseProbe() as probe:
        probe.start()
        gc.collect()
        found = probe.stop()
        probe.start()
        calm = probe.stop()
    assert found.gc_full_collections == 1
    assert calm.gc_full_collections == 0


@pytest.mark.real_clock
def test_probe_of_this_machine_reads_the_kernel():
    """On Linux the real files are understood: jiffies add up and a sleep is no waiting."""
    with NoiseProbe() as probe:
        probe.start()
        time.sleep(0.05)
        found = probe.stop()
    if found.total_jiffies is None:
        pytest.skip("no /proc/stat")
    assert found.wall_ns >= 50_000_000
    assert found.total_jiffies >= 0
    assert found.voluntary_switches >= 1


def test_probe_keeps_its_files_open_and_closes_them(source):
    """No file is opened by a reading, and none is left after the probe is closed."""
    here = source({"proc/stat": "cpu  1 1 1 1 1 1 1 1\n"})
    probe = NoiseProbe(here, cpu=lambda: 0)
    probe.start()
    (here.root / "proc/stat").unlink()
    assert probe.stop().total_jiffies == 0
    probe.close()
    probe.start()
    assert probe.stop().total_jiffies is None


def test_stop_without_start_is_refused():
    """Each stop needs a start of its own."""
    with NoiseProbe() as probe:
        probe.start()
        probe.stop()
        with pytest.raises(InputError, match="start"):
            probe.stop()


def test_probe_works_in_another_thread():
    """A thread may have a probe of its own."""
    found = []

    def measure():
        with NoiseProbe() as probe:
            probe.start()
            found.append(probe.stop())

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    assert len(found) == 1


@pytest.mark.parametrize("text", ["", "cpu 1 2", "intr 1 2 3 4 5 6 7 8", "cpu a b c d e f g h"])
def test_unknown_forms_of_counters_are_null(text):
    """A text of another form is no reading."""
    assert parse_jiffies(text) == (None, None, None)
    assert parse_throttled(text) == (None, None)


def test_waiting_is_the_second_number():
    """`time on the CPU, time waiting, slices`, in nanoseconds."""
    assert parse_waited("385401 52876 1\n") == 52876
    assert parse_waited("") is None


def test_throttled_time_has_a_unit_per_version():
    """Version 1 counts nanoseconds, version 2 microseconds."""
    assert parse_throttled("nr_throttled 2\nthrottled_time 7000\n") == (2, 7000)
    assert parse_throttled("nr_throttled 2\nthrottled_usec 7\n") == (2, 7000)
