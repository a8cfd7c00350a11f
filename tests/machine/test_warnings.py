"""Warnings: each where there is evidence, with its number and its command, and none elsewhere."""

import msgspec
import pytest

from perstep.errors import InputError
from perstep.machine import BusyProcess, Machine, NoiseSummary, busy_processes, describe, noise_warnings, warnings_for
from perstep.machine.busy import ProcessTime, read_processes

QUIET = {
    "cpu__governor": "performance",
    "cpu__turbo": "off",
    "host__power": "ac",
    "host__load_average_1min": 0.1,
    "memory__swap_used_bytes": 0,
    "memory__transparent_huge_pages": "madvise",
    "cgroup__cpu_quota_cores": "none",
    "cgroup__memory_limit_bytes": "none",
}
CALM = {
    "rounds": 40,
    "rounds_hit": 0,
    "by_kind": {},
    "wall_ns": 10_000_000_000,
    "involuntary_switches": 0,
    "major_faults": 0,
    "gc_full_collections": 0,
}


@pytest.fixture
def warn(machine):
    """Warnings of a machine that is in order but for the changes."""

    def run(noise=None, threads=None, busy=(), **changes):
        summary = None if noise is None else NoiseSummary(**{**CALM, **noise})
        return warnings_for(machine(**{**QUIET, **changes}), summary, threads=threads, busy=busy)

    return run


def test_machine_in_order_has_no_warnings(warn):
    """Nothing wrong, nothing said."""
    assert warn(noise={}, threads=2) == []


def test_calls_of_a_script_are_no_rounds_and_have_none_of_our_options(machine):
    """Nothing is advised that `perstep watch` does not have."""
    noise = NoiseSummary(**{**CALM, "rounds_hit": 20, "by_kind": {"preempted": 20}, "others_share": 0.9})
    quota = machine(**{**QUIET, "cgroup__cpu_quota_cores": 2.0})
    found = warnings_for(quota, noise, threads=4, of_calls=True)
    assert found[0].startswith("20 of 40 calls (50%) were disturbed: preempted 20.")
    assert found[0].endswith("Close other programs and run again")
    assert "90% of this machine's CPU time during the calls" in found[1]
    assert found[2].endswith("Try: OMP_NUM_THREADS=2")
    assert noise_warnings(noise, of_calls=True) == found[:2]
    assert noise_warnings(None) == []


def test_machine_of_which_nothing_is_known_has_no_warnings(source):
    """`unknown` is no evidence."""
    assert warnings_for(describe(source("empty")), NoiseSummary(**CALM), threads=64) == []


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"cpu__governor": "powersave"},
            ["'powersave'", "1.20 of 4.70 GHz", "sudo cpupower frequency-set -g performance"],
        ),
        (
            {"cpu__turbo": "on"},
            ["2.80 and 4.70 GHz", "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"],
        ),
        (
            {"cpu__turbo": "on", "cpu__turbo_control": "/sys/devices/system/cpu/cpufreq/boost"},
            ["echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"],
        ),
        ({"host__power": "battery"}, ["battery", "Plug it in"]),
        ({"memory__swap_used_bytes": 2**30}, ["1024 MiB", "swapoff"]),
        ({"memory__transparent_huge_pages": "always"}, ["2 MiB", "madvise"]),
        ({"memory__transparent_huge_pages": "never"}, ["'never'", "madvise"]),
        ({"host__load_average_1min": 2.5}, ["2.50 on 4 CPUs", "top"]),
        ({"cgroup__memory_limit_bytes": 2**30}, ["1.0 GiB", "7.6 GiB", "docker run --memory"]),
        ({"threads": 3}, ["3 threads", "2 physical cores", "-t 2"]),
        ({"threads": 8}, ["8 threads", "4 allowed CPUs", "-t 2"]),
        ({"threads": 2, "cpu__allowed_cpus": [3]}, ["2 threads", "1 allowed CPU ", "-t 1"]),
        ({"threads": 2, "cgroup__cpu_quota_cores": 1.5}, ["2 threads", "1.5 cores", "-t 1"]),
        ({"threads": 1, "cgroup__cpu_quota_cores": 0.5}, ["1 thread ", "0.5 cores", "docker run --cpus"]),
        ({"noise": {"steal_share": 0.034}}, ["3.4%", "steal"]),
        ({"noise": {"waited_share": 0.05}}, ["5.0%", "top"]),
        ({"noise": {"others_share": 0.5}}, ["50%", "top"]),
        ({"noise": {"major_faults": 7}}, ["7 pages", "free -h"]),
        (
            {"noise": {"throttled_periods": 4, "throttled_ns": 250_000_000}},
            ["4 periods", "0.25 s of 10.00 s", "docker run --cpus"],
        ),
        (
            {"noise": {"frequency_low_hz": 2_000_000_000, "frequency_high_hz": 4_000_000_000}},
            ["2.00 to 4.00 GHz"],
        ),
        (
            {"noise": {"rounds_hit": 10, "by_kind": {"steal": 4, "preempted": 8}}},
            ["10 of 40", "25%", "preempted 8, steal 4", "kept"],
        ),
    ],
)
def test_warning_says_what_how_much_and_what_to_try(warn, change, parts):
    """One thing wrong gives one line with the thing, the number and the command."""
    (text,) = warn(**change)
    assert "\n" not in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    "change",
    [
        {"noise": {"steal_share": 0.01}},
        {"noise": {"waited_share": 0.01}},
        {"noise": {"rounds_hit": 4, "by_kind": {"steal": 4}}},
        {"noise": {"throttled_periods": 0, "throttled_ns": 0}},
        {"noise": {"frequency_low_hz": 3_900_000_000, "frequency_high_hz": 4_000_000_000}},
        {"memory__swap_used_bytes": 2**20},
        {"threads": 1, "cgroup__cpu_quota_cores": 1.5},
        {"threads": 2, "cgroup__cpu_quota_cores": 2.0},
        {"cpu__turbo": "unknown", "cpu__governor": "unknown", "host__power": "unknown"},
    ],
)
def test_at_its_limit_nothing_is_said(warn, change):
    """Limits are exclusive."""
    assert warn(**change) == []


def test_threads_of_a_loaded_library_count_when_none_are_named(warn):
    """Without `threads`, the largest pool of a loaded library is what would run."""
    pool = {"api": "blas", "library": "openblas", "version": "1", "threads": 8}
    (text,) = warn(software__thread_pools=[pool])
    assert text.startswith("8 threads")


def test_busy_process_is_named(warn):
    """Name, pid and percent of a core."""
    (text,) = warn(busy=[BusyProcess(4242, "chrome", 87.4)])
    assert "chrome (pid 4242) uses 87 %" in text


def test_laptop_on_battery_gets_all_its_warnings(source):
    """Several things wrong give a line each, and the manifest survives JSON before."""
    laptop = describe(source("laptop"))
    again = msgspec.json.decode(msgspec.json.encode(laptop), type=Machine)
    assert len(warnings_for(again, threads=1)) == 7


def test_busy_processes_are_sampled_twice(fake_clock):
    """Percent of one core over the time between the looks; new and idle processes are left out."""
    looks = [
        {(1, 0.0): ProcessTime("idle", 5.0), (2, 0.0): ProcessTime("busy", 1.0), (3, 0.0): ProcessTime("less", 0)},
        {
            (1, 0.0): ProcessTime("idle", 5.0),
            (2, 0.0): ProcessTime("busy", 1.75),
            (3, 0.0): ProcessTime("less", 0.125),
            (3, 9.0): ProcessTime("pid used again", 50.0),
        },
    ]
    clock = fake_clock()
    found = busy_processes(
        0.5, processes=lambda: looks.pop(0), sleep=lambda s: clock.advance(round(s * 1e9)), now=clock
    )
    assert found == [BusyProcess(2, "busy", 150.0), BusyProcess(3, "less", 25.0)]


def test_too_short_a_look_is_refused():
    """Below 0.2 s a tick of the kernel's is too large a part."""
    with pytest.raises(InputError, match=r"0\.2"):
        busy_processes(0.1)


def test_processes_of_this_machine_can_be_read():
    """Every process has a name and a time; this one is left out."""
    import os

    found = read_processes()
    assert os.getpid() not in {pid for pid, _ in found}
    assert all(entry.cpu_s >= 0 for entry in found.values())
