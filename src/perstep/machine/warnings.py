"""What about this machine makes timings worse than they need be: what, by how much, what to try.

Each warning rests on something that was read; a fact that is `unknown` never
warns. Nothing is changed: the commands are for the user to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perstep._words import plural
from perstep.machine._sources import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perstep.machine.busy import BusyProcess
    from perstep.machine.describe import Machine
    from perstep.machine.noise import NoiseSummary

STEAL_LIMIT = 0.01
WAITED_LIMIT = 0.01
OTHERS_LIMIT = 0.10
FREQUENCY_SPREAD_LIMIT = 0.05
HIT_LIMIT = 0.10
SWAP_LIMIT = 0.01  # of the memory; a few idle pages in swap disturb nobody
LOAD_LIMIT = 0.5  # runnable tasks per allowed CPU before anything of ours runs

RAISE_QUOTA = "Raise the quota (docker run --cpus, or the pod's cpu limit)"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


def warnings_for(
    machine: Machine,
    noise_summary: NoiseSummary | None = None,
    *,
    threads: int | None = None,
    busy: Sequence[BusyProcess] = (),
    of_calls: bool = False,
) -> list[str]:
    """The warnings that have evidence, those that matter most first.

    Args:
        machine: the manifest, read before measuring.
        noise_summary: the noise of the rounds, if they have been run.
        threads: how many threads the work uses; by default what the loaded
            BLAS or torch would use, if known.
        busy: other busy processes, from `busy_processes`.
        of_calls: what was measured are a script's own calls, which run once and have none of our options, not rounds.

    Returns:
        One line of text each; an empty list if nothing is known to be wrong.
    """
    return [
        *noise_warnings(noise_summary, of_calls=of_calls),
        *_busy_warnings(machine, busy),
        *_thread_warnings(machine, threads, "OMP_NUM_THREADS=" if of_calls else "-t "),
        *_frequency_warnings(machine),
        *_memory_warnings(machine),
    ]


def noise_warnings(noise: NoiseSummary | None, *, of_calls: bool = False) -> list[str]:
    """The warnings that rest on the noise of the rounds alone.

    Args:
        noise: of the rounds; None warns of nothing.
        of_calls: as in `warnings_for`.
    """
    if noise is None:
        return []
    warnings = []
    what, remedy = ("calls", "") if of_calls else ("rounds", ", or give more rounds: --budget")
    wall_s = noise.wall_ns / 1e9
    if noise.rounds_hit > HIT_LIMIT * noise.rounds:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(noise.by_kind.items()))
        of = f"of {plural(noise.rounds, 'call' if of_calls else 'round')} ({noise.rounds_hit / noise.rounds:.0%})"
        warnings.append(
            f"{plural(noise.rounds_hit, f'{of} was', f'{of} were')} "
            f"disturbed: {kinds}. Disturbed {what} are marked and kept; intervals are wider for it. "
            f"Close other programs and run again{remedy}"
        )
    if noise.steal_share is not None and noise.steal_share > STEAL_LIMIT:
        warnings.append(
            f"the hypervisor gave {noise.steal_share:.1%} of the CPU time to others (steal). "
            "Nothing inside this machine can stop that: use a dedicated instance, or a quieter hour"
        )
    if noise.throttled_periods:
        took = "" if noise.throttled_ns is None else f" for {noise.throttled_ns / 1e9:.2f} s of {wall_s:.2f} s"
        warnings.append(
            f"the control group's CPU quota stopped this process in "
            f"{plural(noise.throttled_periods, 'period')}{took}. {RAISE_QUOTA}, or use fewer threads: "
            f"{'OMP_NUM_THREADS' if of_calls else '-t'}"
        )
    if noise.waited_share is not None and noise.waited_share > WAITED_LIMIT:
        warnings.append(
            f"this process was ready but not running for {noise.waited_share:.1%} of the time. "
            "Find who runs instead: top -o %CPU"
        )
    if noise.others_share is not None and noise.others_share > OTHERS_LIMIT:
        warnings.append(
            f"other processes used {noise.others_share:.0%} of this machine's CPU time during the {what}. "
            "Find them: top -o %CPU"
        )
    if noise.major_faults:
        warnings.append(
            f"{plural(noise.major_faults, 'page')} had to be read from disk during the {what} (major page faults): "
            "memory is short, or files were not in the page cache. See which: free -h"
        )
    low, high = noise.frequency_low_hz, noise.frequency_high_hz
    if low is not None and high is not None and high - low > FREQUENCY_SPREAD_LIMIT * high:
        warnings.append(
            f"the CPU frequency went from {_ghz(low)} to {_ghz(high)} GHz between {what}. "
            "Fix it: sudo cpupower frequency-set -g performance, and turn turbo off"
        )
    return warnings


def _busy_warnings(machine: Machine, busy: Sequence[BusyProcess]) -> list[str]:
    warnings = [
        f"process {process.name} (pid {process.pid}) uses {process.cpu_percent:.0f} % of a core. "
        f"Wait for it to end or, if it is yours, pause it: kill -STOP {process.pid}, "
        f"afterwards kill -CONT {process.pid}"
        for process in busy
    ]
    load, cpus = machine.host.load_average_1min, _allowed(machine)
    if isinstance(load, float) and cpus is not None and load > LOAD_LIMIT * cpus:
        warnings.append(
            f"the load average was {load:.2f} on {plural(cpus, 'CPU')} before measuring began. "
            "If that was not your own work, find whose: top -o %CPU"
        )
    return warnings


def _allowed(machine: Machine) -> int | None:
    """How many CPUs this process may run on; None if not known."""
    allowed, logical = machine.cpu.allowed_cpus, machine.cpu.cores_logical
    if isinstance(allowed, tuple):
        return len(allowed)
    return logical if isinstance(logical, int) else None


def _threads_in_use(machine: Machine) -> int | None:
    """The most threads that a loaded library would start; None if none is loaded."""
    pools = machine.software.thread_pools
    counts = [pool.threads for pool in pools] if isinstance(pools, tuple) else []
    if isinstance(machine.software.torch_threads, int):
        counts.append(machine.software.torch_threads)
    return max(counts, default=None)


def _thread_warnings(machine: Machine, threads: int | None, option: str) -> list[str]:
    threads = threads if threads is not None else _threads_in_use(machine)
    cpus, cores, quota = _allowed(machine), machine.cpu.cores_physical, machine.cgroup.cpu_quota_cores
    if threads is None:
        return []
    text = None
    if isinstance(quota, float) and threads > quota:
        remedy = f"Try: {option}{int(quota)}" if quota >= 1 else RAISE_QUOTA
        text = (
            f"{plural(threads, 'thread')} would use more than the CPU quota of {plural(quota, 'core')}: the "
            f"control group will stop the process in each period. {remedy}"
        )
    elif cpus is not None and threads > cpus:
        text = (
            f"{threads:,} threads run on {plural(cpus, 'allowed CPU')} and take turns. Try: "
            f"{option}{min(cpus, cores) if isinstance(cores, int) else cpus}"
        )
    elif isinstance(cores, int) and threads > cores:
        text = (
            f"{threads:,} threads run on {plural(cores, 'physical core')}: two that share a core share its "
            f"arithmetic. Try: {option}{cores}"
        )
    return [] if text is None else [text]


def _frequency_warnings(machine: Machine) -> list[str]:
    cpu, warnings = machine.cpu, []
    if machine.host.power == "battery":
        warnings.append("this machine runs on battery, which lowers the CPU frequency. Plug it in")
    if cpu.governor not in {UNKNOWN, "performance"}:
        now, most = cpu.frequency_now_hz, cpu.frequency_max_hz
        by = f" ({_ghz(now)} of {_ghz(most)} GHz now)" if isinstance(now, int) and isinstance(most, int) else ""
        warnings.append(
            f"the CPU frequency governor is {cpu.governor!r}, not 'performance': the frequency follows "
            f"the load{by}. Try: sudo cpupower frequency-set -g performance"
        )
    if cpu.turbo == "on":
        base, most = cpu.frequency_base_hz, cpu.frequency_max_hz
        by = f" between {_ghz(base)} and {_ghz(most)} GHz" if isinstance(base, int) and isinstance(most, int) else ""
        off = "1" if cpu.turbo_control.endswith("no_turbo") else "0"
        warnings.append(
            f"turbo is on: the frequency varies{by} with temperature and with how many cores are busy. "
            f"For steadier, slower numbers: echo {off} | sudo tee {cpu.turbo_control}"
        )
    return warnings


def _memory_warnings(machine: Machine) -> list[str]:
    memory, warnings = machine.memory, []
    used, ram = memory.swap_used_bytes, memory.ram_bytes
    if isinstance(used, int) and isinstance(ram, int) and used > SWAP_LIMIT * ram:
        warnings.append(
            f"{used / 2**20:.0f} MiB are swapped out. If the model is among it, steps wait for the disk. "
            "Close programs until free -h shows room, then: sudo swapoff -a && sudo swapon -a"
        )
    if memory.transparent_huge_pages == "always":
        warnings.append(
            "transparent huge pages are 'always': memory in use (RSS) grows in pieces of 2 MiB, and the "
            f"kernel merges pages in the background. Try: echo madvise | sudo tee {HUGE_PAGES}"
        )
    if memory.transparent_huge_pages == "never":
        warnings.append(
            "transparent huge pages are 'never': large matrices are read through pages of the smallest "
            f"size, which costs bandwidth. Try: echo madvise | sudo tee {HUGE_PAGES}"
        )
    limit, free = machine.cgroup.memory_limit_bytes, memory.available_bytes
    if isinstance(limit, int) and isinstance(free, int) and limit < free:
        warnings.append(
            f"the control group allows {limit / 2**30:.1f} GiB, less than the {free / 2**30:.1f} GiB "
            "this machine has free: a large model may be killed. Raise it: docker run --memory, "
            "or the pod's memory limit"
        )
    return warnings


def _ghz(frequency_hz: int) -> str:
    return f"{frequency_hz / 1e9:.2f}"
