"""What a machine is described as, from made-up file systems."""

import itertools
import subprocess
import sys
import types

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perstep.machine import Machine, describe, identity
from perstep.machine._software import NOT_INSTALLED, package_version
from perstep.machine._sources import parse_cpu_list, parse_size, run_command


def leaves(value, path=()):
    """All facts in a manifest by their path."""
    if isinstance(value, dict):
        return {at: leaf for key, item in value.items() for at, leaf in leaves(item, (*path, key)).items()}
    return {path: value}


def test_laptop_is_described_in_full(source):
    """Every file that is there turns up as a fact, in base units."""
    laptop = describe(source("laptop"))
    cpu = laptop.cpu
    assert cpu.model == "11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz"
    assert cpu.signature == "cpu family 6, model 140, stepping 1"
    assert cpu.isa == ("sse4_2", "avx", "fma", "avx2", "avx512f", "avx512_vnni")
    assert (cpu.cores_physical, cpu.cores_logical, cpu.smt) == (2, 4, "on")
    assert cpu.allowed_cpus == (0, 1, 2, 3)
    assert (cpu.l1d_bytes, cpu.l2_bytes, cpu.l3_bytes) == (48 * 1024, 1280 * 1024, 12 * 1024**2)
    assert (cpu.l3_shared_by, cpu.numa_nodes) == (4, 1)
    assert (cpu.frequency_min_hz, cpu.frequency_max_hz) == (400_000_000, 4_700_000_000)
    assert (cpu.frequency_base_hz, cpu.frequency_now_hz) == (2_800_000_000, 1_200_000_000)
    assert (cpu.governor, cpu.frequency_driver) == ("powersave", "intel_pstate")
    assert (cpu.turbo, cpu.turbo_control) == ("on", "/sys/devices/system/cpu/intel_pstate/no_turbo")
    assert laptop.memory.ram_bytes == 16084624 * 1024
    assert laptop.memory.swap_used_bytes == 524288 * 1024
    assert laptop.memory.transparent_huge_pages == "always"
    assert laptop.cgroup.version == "v2"
    assert laptop.cgroup.cpu_quota_cores == 1.5
    assert laptop.cgroup.memory_limit_bytes == 4 * 1024**3
    assert laptop.host.power == "battery"
    assert laptop.host.virtualisation == "none seen"
    assert laptop.host.boot_time_unix_s == 1_700_000_000
    assert laptop.host.load_average_1min == 3.5
    assert laptop.gpus[0].name == "Intel (PCI 8086:9a49)"


def test_virtual_machine_without_cpufreq_has_unknown_frequencies(source):
    """`cpu MHz` of /proc/cpuinfo is no frequency, and no governor is made up."""
    vm = describe(source("vm"))
    assert vm.cpu.frequency_now_hz == vm.cpu.frequency_max_hz == "unknown"
    assert vm.cpu.governor == vm.cpu.turbo == vm.cpu.l3_bytes == "unknown"
    assert vm.host.power == "unknown"
    assert vm.host.virtualisation == "virtual machine: QEMU"
    assert vm.host.container == "docker"
    assert vm.cgroup.version == "v1"
    assert vm.cgroup.cpu_quota_cores == vm.cgroup.memory_limit_bytes == "none"
    assert vm.cpu.cores_physical == 2  # from the core ids in cpuinfo
    assert vm.cpu.allowed_cpus == (1,)
    assert vm.gpus == "none"  # the PCI bus was read and shows none


def test_arm_is_named_by_implementer_and_part(source):
    """ARM has no model name; the numbers are given as they are, and a missing L3 is `none`."""
    arm = describe(source("arm")).cpu
    assert arm.model == "ARM implementer 0x41 part 0xd0c"
    assert arm.isa == ("asimd", "asimddp")
    assert (arm.l1d_bytes, arm.l2_bytes, arm.l3_bytes) == (64 * 1024, 1024**2, "none")
    assert arm.cores_physical == arm.smt == "unknown"


def test_missing_proc_and_sys_leave_everything_about_the_machine_unknown(source):
    """Without /proc and /sys nothing leaks in from the machine that runs this test."""
    nothing = describe(source("empty", system="Darwin"))
    facts = leaves(msgspec.to_builtins(nothing))
    facts = {path: fact for path, fact in facts.items() if path[0] not in {"software", "schema_version"}}
    assert set(facts.values()) == {"unknown"}
    assert nothing.software.thread_pools == nothing.software.torch_threads == "unknown"


def test_mac_is_asked_through_sysctl(source):
    """Of two kinds of core the caches of the fast ones are taken; what sysctl lacks stays unknown."""
    told = {
        ("sysctl", "-n", "machdep.cpu.brand_string"): "Apple M2\n",
        ("sysctl", "-n", "hw.physicalcpu"): "8\n",
        ("sysctl", "-n", "hw.logicalcpu"): "8\n",
        ("sysctl", "-n", "hw.perflevel0.l2cachesize"): "16777216\n",
        ("sysctl", "-n", "hw.l2cachesize"): "4194304\n",
        ("sysctl", "-n", "hw.memsize"): "17179869184\n",
        ("sysctl", "-n", "vm.loadavg"): "{ 1.50 1.25 1.00 }\n",
        ("pmset", "-g", "batt"): "Now drawing from 'Battery Power'\n",
    }
    mac = describe(source("empty", system="Darwin", run=lambda argv: told.get(tuple(argv))))
    assert (mac.cpu.model, mac.cpu.cores_physical, mac.cpu.l2_bytes) == ("Apple M2", 8, 16 * 1024**2)
    assert mac.cpu.l3_bytes == mac.cpu.governor == "unknown"
    assert (mac.memory.ram_bytes, mac.host.power) == (16 * 1024**3, "battery")
    assert mac.host.load_average_1min == 1.5


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_unknown_is_never_guessed(data, describe_files, files_of):
    """Take any files away: each fact is then what it was, or `unknown`, never another value."""
    files = files_of("laptop")
    # A cache of which nothing at all is left is a machine without it: `none`, rightly. One file of each stays.
    takeable = sorted(path for path in files if not path.endswith("/type"))
    gone = data.draw(st.sets(st.sampled_from(takeable), max_size=12))
    full = leaves(msgspec.to_builtins(describe_files(files)))
    reduced = leaves(msgspec.to_builtins(describe_files({p: t for p, t in files.items() if p not in gone})))
    assert reduced.keys() == full.keys()
    for path, fact in reduced.items():
        assert fact in (full[path], "unknown") or _unnamed(fact) == _unnamed(full[path]), (path, gone)


def _unnamed(fact):
    """A GPU whose model is not told is still one GPU."""
    items = fact if isinstance(fact, (list, tuple)) else [fact]
    return [{**item, "name": ""} if isinstance(item, dict) else item for item in items]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_content_of_a_file_is_survived(data, describe_files, files_of):
    """Whatever stands in the files, describing does not fail and gives valid JSON."""
    files = files_of("laptop")
    text = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["-1", "max", "0-", "99999"])
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(files)), text, max_size=8))
    found = describe_files({**files, **changed})
    assert msgspec.json.decode(msgspec.json.encode(found), type=Machine) == found


def test_mouse_battery_is_no_power_supply(source):
    """A discharging battery of scope Device belongs to a mouse."""
    folder = "sys/class/power_supply/hidpp_battery_0"
    files = {f"{folder}/type": "Battery", f"{folder}/status": "Discharging", f"{folder}/scope": "Device"}
    assert describe(source(files)).host.power == "none seen"


def test_governors_that_differ_are_all_named(source, files_of):
    """Two governors are joined, not one of them chosen."""
    path = "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor"
    assert describe(source({**files_of("laptop"), path: "performance"})).cpu.governor == "performance+powersave"


def test_frequencies_span_all_allowed_cpus(source, files_of):
    """Of cores that differ, the lowest minimum and the highest maximum and current frequency count."""
    folder = "sys/devices/system/cpu/cpu2/cpufreq"
    changes = {"cpuinfo_min_freq": "300000", "cpuinfo_max_freq": "3000000", "scaling_cur_freq": "3000000"}
    files = {**files_of("laptop"), **{f"{folder}/{name}": text for name, text in changes.items()}}
    cpu = describe(source(files)).cpu
    assert (cpu.frequency_min_hz, cpu.frequency_max_hz) == (300_000_000, 4_700_000_000)
    assert cpu.frequency_now_hz == 3_000_000_000


def test_cache_of_unknown_type_is_not_taken_for_a_data_cache(source, files_of):
    """The instruction cache of level 1 whose type cannot be read does not replace the data cache."""
    files = files_of("laptop")
    del files["sys/devices/system/cpu/cpu0/cache/index1/type"]
    assert describe(source(files)).cpu.l1d_bytes == 48 * 1024


def test_nvidia_smi_names_gpus(source):
    """The query's table becomes names, drivers and bytes."""
    table = "NVIDIA H200, 570.1, 143771\nNVIDIA H200, 570.1, [N/A]\n"
    found = describe(source("vm", run=lambda argv: table if argv[0] == "nvidia-smi" else None)).gpus
    assert [(gpu.name, gpu.driver, gpu.memory_bytes) for gpu in found] == [
        ("NVIDIA H200", "570.1", 143771 * 1024**2),
        ("NVIDIA H200", "570.1", "unknown"),
    ]


def test_torch_is_asked_for_gpus_only_if_imported(source):
    """Without PCI bus: unknown without torch, `none` if an imported torch sees none."""
    assert describe(source("empty")).gpus == "unknown"
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has a GPU")
    found = describe(source("empty", modules={"torch": torch}))
    assert found.gpus == "none"
    assert found.software.torch_threads == torch.get_num_threads()


def test_uninitialised_cuda_is_left_alone(source):
    """No CUDA context is created only to ask for a name."""
    cuda = types.SimpleNamespace(is_available=lambda: True, is_initialized=lambda: False)
    assert describe(source("empty", modules={"torch": types.SimpleNamespace(cuda=cuda)})).gpus == "unknown"


def test_thread_pools_are_read_once_numpy_is_there(source):
    """The BLAS of an imported NumPy is listed with its threads."""
    import numpy as np

    pools = describe(source("empty", modules={"numpy": np})).software.thread_pools
    assert any(pool.api == "blas" and pool.threads >= 1 for pool in pools)


def test_thread_variables_that_are_set_are_recorded(source):
    """Only variables about threads, only those that are set."""
    environ = {"OMP_NUM_THREADS": "3", "HOME": "/somewhere"}
    assert describe(source("empty", environ=environ)).software.thread_variables == {"OMP_NUM_THREADS": "3"}


def test_package_versions_come_from_metadata():
    """An installed package has its version, another is `not installed`."""
    import numpy as np

    assert package_version("numpy") == np.__version__
    assert package_version("no-such-package-of-this-name") == NOT_INSTALLED


def test_git_commit_and_changes(source, tmp_path):
    """The commit of the working folder, and whether a tracked file differs from it."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    if run_command(["git", "--version"]) is None:
        pytest.skip("git is not installed")
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("one")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    (tmp_path / "untracked").write_text("not counted")
    here = source("empty", run=run_command)
    first = describe(here).git
    assert len(first.commit) == 40
    assert first.dirty is False
    (tmp_path / "file").write_text("two")
    assert describe(here).git.dirty is True


def test_folder_without_repository_has_unknown_commit(source):
    """Where git tells nothing, nothing is known."""
    git = describe(source("empty")).git
    assert (git.commit, git.dirty) == ("unknown", "unknown")


def test_failing_commands_tell_nothing():
    """A missing command and one that exits with an error both give None."""
    assert run_command(["no-such-command-of-this-name"]) is None
    assert run_command([sys.executable, "-c", "print('partial'); raise SystemExit(1)"]) is None
    assert run_command([sys.executable, "-c", "print('whole')"]) == "whole\n"


def test_this_machine_is_described():
    """The real machine gives a manifest that survives JSON."""
    here = describe()
    assert msgspec.json.decode(msgspec.json.encode(here), type=Machine) == here


def test_identity_ignores_what_changes_by_itself(machine):
    """Frequencies, load, limits, versions, swap and a few lost megabytes leave the identity alone."""
    same = machine(
        cpu__frequency_now_hz=4_000_000_000,
        cpu__governor="performance",
        cpu__allowed_cpus=[0],
        memory__ram_bytes=15_900_000 * 1024,
        memory__available_bytes=1,
        cgroup__cpu_quota_cores="none",
        host__load_average_1min=0.0,
        software__python="3.99",
    )
    assert identity(same) == identity(machine())


@pytest.mark.parametrize(
    "change",
    [
        {"cpu__model": "another"},
        {"cpu__signature": "cpu family 6, model 141"},
        {"cpu__isa": ["avx2"]},
        {"cpu__cores_physical": 4},
        {"cpu__l2_bytes": 1024},
        {"cpu__l3_bytes": "unknown"},
        {"memory__ram_bytes": 12 * 1024**3},
    ],
)
def test_identity_changes_with_the_hardware(machine, change):
    """Another processor, other caches or another memory is another machine."""
    assert identity(machine(**change)) != identity(machine())


def test_identity_of_nominal_memory_sizes_differ(machine):
    """Memory sizes that are sold are told apart, each with 0 to 5 % taken by the kernel."""
    sizes = [4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    for low, high in itertools.pairwise(sizes):
        assert identity(machine(memory__ram_bytes=low * 2**30)) != identity(machine(memory__ram_bytes=high * 2**30))
    for size in sizes:
        lost = identity(machine(memory__ram_bytes=int(0.95 * size * 2**30)))
        assert lost == identity(machine(memory__ram_bytes=size * 2**30))


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8", (0, 1, 2, 3, 8)), ("5", (5,)), ("", None), ("a-b", None), (None, None)]
)
def test_cpu_lists(text, cpus):
    """Ranges and single numbers; anything else is no list."""
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize(
    ("text", "size"), [("48K", 49152), ("2M", 2 << 20), ("1G", 1 << 30), ("64", 64), ("4Q", None), ("K", None)]
)
def test_cache_sizes(text, size):
    """Sizes in powers of 1024; anything else is no size."""
    assert parse_size(text) == size
