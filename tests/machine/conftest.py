"""Machines made up of files: a laptop on battery, a virtual machine, an ARM board; and a fake clock."""

import platform
from pathlib import Path

import msgspec
import pytest

from perstep.machine import Machine, describe
from perstep.machine._sources import Source

LAPTOP_CPUINFO = """\
processor\t: {n}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 140
model name\t: 11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz
stepping\t: 1
cpu MHz\t\t: 1234.567
physical id\t: 0
core id\t\t: {core}
flags\t\t: fpu sse4_2 fma avx avx2 avx512f avx512_vnni
"""

ARM_CPUINFO = """\
processor\t: {n}
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1
"""


def _laptop() -> dict[str, str]:
    """Four threads on two cores, powersave, turbo on, on battery, half a gigabyte swapped out."""
    cpus = "sys/devices/system/cpu"
    files = {
        "proc/cpuinfo": "\n".join(LAPTOP_CPUINFO.format(n=n, core=n % 2) for n in range(4)),
        "proc/meminfo": (
            "MemTotal:       16084624 kB\nMemFree: 100 kB\nMemAvailable:    8000000 kB\n"
            "SwapTotal:       2097148 kB\nSwapFree:        1572860 kB\n"
        ),
        "proc/loadavg": "3.50 1.25 0.75 2/900 4242\n",
        "proc/stat": "cpu  1000 20 300 5000 40 5 6 7 0 0\nctxt 1\nbtime 1700000000\n",
        "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-3\n",
        "proc/self/cgroup": "0::/user.slice\n",
        "sys/fs/cgroup/user.slice/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/user.slice/memory.max": "4294967296\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n",
        "sys/class/power_supply/AC/type": "Mains\n",
        "sys/class/power_supply/AC/online": "0\n",
        "sys/class/power_supply/BAT0/type": "Battery\n",
        "sys/class/power_supply/BAT0/status": "Discharging\n",
        "sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n",
        "sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
        "sys/bus/pci/devices/0000:00:02.0/device": "0x9a49\n",
        "sys/bus/pci/devices/0000:00:1f.0/class": "0x060100\n",
        "sys/bus/pci/devices/0000:00:1f.0/vendor": "0x8086\n",
        "sys/devices/system/node/online": "0\n",
        f"{cpus}/online": "0-3\n",
        f"{cpus}/smt/active": "1\n",
        f"{cpus}/intel_pstate/no_turbo": "0\n",
    }
    for n in range(4):
        core = f"{n % 2},{n % 2 + 2}\n"
        files |= {
            f"{cpus}/cpu{n}/topology/core_cpus_list": core,
            f"{cpus}/cpu{n}/topology/thread_siblings_list": core,
            f"{cpus}/cpu{n}/cpufreq/scaling_driver": "intel_pstate\n",
            f"{cpus}/cpu{n}/cpufreq/scaling_governor": "powersave\n",
            f"{cpus}/cpu{n}/cpufreq/scaling_cur_freq": "1200000\n",
            f"{cpus}/cpu{n}/cpufreq/cpuinfo_min_freq": "400000\n",
            f"{cpus}/cpu{n}/cpufreq/cpuinfo_max_freq": "4700000\n",
            f"{cpus}/cpu{n}/cpufreq/base_frequency": "2800000\n",
        }
        caches = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1280K")]
        for index, (level, kind, size) in enumerate([*caches, ("3", "Unified", "12288K")]):
            folder = f"{cpus}/cpu{n}/cache/index{index}"
            files |= {f"{folder}/level": level, f"{folder}/type": kind, f"{folder}/size": size}
            files[f"{folder}/shared_cpu_list"] = "0-3" if level == "3" else core
    return files


def _virtual_machine() -> dict[str, str]:
    """Two CPUs under KVM without cpufreq, in a container with cgroup v1; nobody tells of a battery."""
    block = LAPTOP_CPUINFO.replace("flags\t\t: fpu", "flags\t\t: fpu hypervisor")
    return {
        ".dockerenv": "",
        "proc/cpuinfo": "\n".join(block.format(n=n, core=n) for n in range(2)),
        "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
        "proc/self/status": "Cpus_allowed_list:\t1\n",
        "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.stat": "nr_periods 9\nnr_throttled 2\nthrottled_time 5000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/class/dmi/id/sys_vendor": "QEMU\n",
        "sys/devices/system/cpu/online": "0-1\n",
        "sys/bus/pci/devices/0000:00:00.0/class": "0x060000\n",
        "sys/bus/pci/devices/0000:00:00.0/vendor": "0x8086\n",
    }


def _arm() -> dict[str, str]:
    """Four Neoverse cores that share an L2 and have no L3."""
    cpus = "sys/devices/system/cpu"
    files = {
        "proc/cpuinfo": "\n".join(ARM_CPUINFO.format(n=n) for n in range(4)),
        "proc/self/status": "Cpus_allowed_list:\t0-3\n",
        f"{cpus}/online": "0-3\n",
    }
    for index, (level, kind, size) in enumerate([("1", "Data", "64K"), ("2", "Unified", "1M")]):
        folder = f"{cpus}/cpu0/cache/index{index}"
        files |= {f"{folder}/level": level, f"{folder}/type": kind, f"{folder}/size": size}
    return files


TREES = {"laptop": _laptop, "vm": _virtual_machine, "arm": _arm, "empty": dict}


def write_tree(root: Path, files: dict[str, str]) -> None:
    """Write files below a root."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def source_at(root: Path, system: str = "Linux", **changes: object) -> Source:
    """A source that knows nothing but the files below `root`."""
    uname = platform.uname_result(system, "node", "6.1.0", "#1", "x86_64")
    facts = {"environ": {}, "modules": {}, "run": lambda argv: None, "uname": uname, "cwd": root}
    return Source(root=root, **{**facts, **changes})


@pytest.fixture
def files_of():
    """The files of a made-up machine, by its name."""
    return lambda name: TREES[name]()


@pytest.fixture
def source(tmp_path):
    """Build a source from files or the name of a made-up machine."""

    def build(files: dict[str, str] | str, **changes: object) -> Source:
        write_tree(tmp_path, TREES[files]() if isinstance(files, str) else files)
        return source_at(tmp_path, **changes)

    return build


@pytest.fixture
def describe_files(tmp_path_factory):
    """Describe a machine given as files, each call in a folder of its own."""

    def run(files: dict[str, str]) -> Machine:
        root = tmp_path_factory.mktemp("root")
        write_tree(root, files)
        return describe(source_at(root))

    return run


@pytest.fixture
def machine(source):
    """The laptop's manifest, with changes by dotted name: `machine(cpu__governor="performance")`."""
    laptop = describe(source("laptop"))

    def build(**changes: object) -> Machine:
        table = msgspec.to_builtins(laptop)
        for name, value in changes.items():
            room, _, field = name.partition("__")
            table[room][field] = value
        return msgspec.convert(table, Machine)

    return build


class FakeClock:
    """A clock that stands still until told to go on; a reading may cost some time too."""

    def __init__(self, reading_ns: int = 0) -> None:
        self.time_ns = 0
        self.reading_ns = reading_ns

    def __call__(self) -> int:
        """The time in nanoseconds."""
        self.time_ns += self.reading_ns
        return self.time_ns

    def advance(self, ns: int) -> None:
        """Let time pass."""
        self.time_ns += ns


@pytest.fixture
def fake_clock():
    """The class of fake clocks."""
    return FakeClock
