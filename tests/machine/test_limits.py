"""Limits of control groups, v1 and v2, nested and in containers."""

import pytest

from perstep.machine._limits import read_cgroup, throttle_file

V2 = "sys/fs/cgroup"


def test_tightest_limit_on_the_way_up_counts(source):
    """A group may be allowed more than the one above it; the one above wins."""
    found = read_cgroup(
        source(
            {
                "proc/self/cgroup": "0::/pod/container\n",
                f"{V2}/pod/container/cpu.max": "400000 100000",
                f"{V2}/pod/cpu.max": "200000 100000",
                f"{V2}/pod/container/memory.max": "max",
                f"{V2}/pod/memory.max": "1048576",
            }
        )
    )
    assert (found.version, found.cpu_quota_cores, found.memory_limit_bytes) == ("v2", 2.0, 1048576)


def test_container_path_outside_the_mount_falls_back_to_its_root(source):
    """In a container, /proc/self/cgroup may name a folder that only the host can see."""
    found = read_cgroup(
        source({"proc/self/cgroup": "0::/docker/abc\n", f"{V2}/cpu.max": "50000 100000", f"{V2}/memory.max": "max"})
    )
    assert (found.cpu_quota_cores, found.memory_limit_bytes) == (0.5, "none")


def test_v1_quota_and_memory(source):
    """The older files say the same in other words."""
    found = read_cgroup(
        source(
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/a\n2:memory:/a\n0::/\n",
                f"{V2}/cpu,cpuacct/a/cpu.cfs_quota_us": "150000",
                f"{V2}/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
                f"{V2}/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                f"{V2}/cpu,cpuacct/cpu.cfs_period_us": "100000",
                f"{V2}/memory/a/memory.limit_in_bytes": "2097152",
            }
        )
    )
    assert (found.version, found.cpu_quota_cores, found.memory_limit_bytes) == ("v1", 1.5, 2097152)


@pytest.mark.parametrize("text", ["", "garbage", "100000", "100000 0", "-5 100000"])
def test_quota_that_is_none_of_the_known_forms_is_unknown(source, text):
    """A line that cannot be understood sets no limit and denies none."""
    found = read_cgroup(source({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": text}))
    assert found.cpu_quota_cores == "unknown"


def test_throttling_is_read_where_the_tightest_quota_is(source):
    """The periods of the group that has the quota count, not those of a group inside it."""
    here = source(
        {
            "proc/self/cgroup": "0::/pod/container\n",
            f"{V2}/pod/container/cpu.stat": "nr_throttled 0\nthrottled_usec 0\n",
            f"{V2}/pod/container/cpu.max": "max 100000",
            f"{V2}/pod/cpu.stat": "nr_throttled 3\nthrottled_usec 9\n",
            f"{V2}/pod/cpu.max": "200000 100000",
        }
    )
    assert throttle_file(here) == here.root / V2 / "pod/cpu.stat"


def test_without_a_count_of_throttling_there_is_no_file(source):
    """The root group of cgroup v2 has a cpu.stat without throttling."""
    assert throttle_file(source({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.stat": "usage_usec 1\n"})) is None
