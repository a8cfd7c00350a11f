"""Memory, and the limits a control group (cgroup v1 or v2) sets on CPU time and memory.

A limit holds for a group and for all groups below it, so the tightest one on
the way up to the root counts. `none` means that the files were read and set no
limit; `unknown` that there was nothing to read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from perstep.machine._sources import NONE, UNKNOWN, FloatOrNone, IntOrNone, MaybeInt, Source, parse_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

N = TypeVar("N", int, float)

CGROUP = "sys/fs/cgroup"
# cgroup v1 writes "no limit" as the largest page-aligned int64; no machine has 2**60 bytes.
NO_LIMIT_BYTES = 2**60


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory and swap, in bytes, and whether transparent huge pages are used."""

    ram_bytes: MaybeInt = UNKNOWN
    available_bytes: MaybeInt = UNKNOWN
    swap_total_bytes: MaybeInt = UNKNOWN
    swap_used_bytes: MaybeInt = UNKNOWN
    transparent_huge_pages: str = UNKNOWN


class Cgroup(msgspec.Struct, frozen=True, kw_only=True):
    """What the control group allows: CPU time in cores, memory in bytes."""

    version: Literal["v1", "v2", "unknown"] = UNKNOWN
    cpu_quota_cores: FloatOrNone = UNKNOWN
    memory_limit_bytes: IntOrNone = UNKNOWN


def read_memory(source: Source) -> Memory:
    """Main memory of `source`."""
    if source.uname.system == "Darwin":
        text = (source.run(["sysctl", "-n", "hw.memsize"]) or "").strip()
        return Memory(ram_bytes=int(text) if text.isdigit() else UNKNOWN)
    table = parse_table(source.text("proc/meminfo"))

    def kib(name: str) -> MaybeInt:
        digits = table.get(name, "").removesuffix("kB").strip()
        return int(digits) * 1024 if digits.isdigit() else UNKNOWN

    total, free = kib("SwapTotal"), kib("SwapFree")
    pages = re.search(r"\[(\w+)\]", source.text("sys/kernel/mm/transparent_hugepage/enabled") or "")
    return Memory(
        ram_bytes=kib("MemTotal"),
        available_bytes=kib("MemAvailable"),
        swap_total_bytes=total,
        swap_used_bytes=total - free if isinstance(total, int) and isinstance(free, int) else UNKNOWN,
        transparent_huge_pages=pages.group(1) if pages else UNKNOWN,
    )


def read_cgroup(source: Source) -> Cgroup:
    """The limits on the control group that this process is in."""
    cpu, cpu_version = _groups(source, "cpu")
    memory, memory_version = _groups(source, "memory")
    quotas = [_quota(source, folder) for folder in cpu]
    limits = [_memory_limit(source, folder) for folder in memory]
    return Cgroup(
        version=cpu_version if cpu_version != UNKNOWN else memory_version,
        cpu_quota_cores=_tightest(quotas),
        memory_limit_bytes=_tightest(limits),
    )


def throttle_file(source: Source) -> Path | None:
    """The `cpu.stat` that counts throttled periods: of the tightest group, else of the own one."""
    folders, _ = _groups(source, "cpu")
    counted = [folder for folder in folders if "nr_throttled" in (source.text(f"{folder}/cpu.stat") or "")]

    def tightness(folder: str) -> float:
        quota = _quota(source, folder)
        return quota if isinstance(quota, float) else float("inf")

    return source.root / min(counted, key=tightness) / "cpu.stat" if counted else None


def _tightest(limits: Sequence[N | Literal["none"] | None]) -> N | Literal["unknown", "none"]:
    numbers = [limit for limit in limits if limit is not None and limit != NONE]
    if numbers:
        return min(numbers)
    return NONE if NONE in limits else UNKNOWN


def _groups(source: Source, controller: str) -> tuple[list[str], Literal["v1", "v2", "unknown"]]:
    """The folders of the own group and of all above it, own first, as paths below the root.

    Inside a container the path in `/proc/self/cgroup` may lie outside what is
    mounted; the folders that do not exist are then skipped, and the mount's root is left.
    """
    mounts: list[tuple[str, str]] = []
    version: Literal["v1", "v2", "unknown"] = UNKNOWN
    for line in (source.text("proc/self/cgroup") or "").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controller in controllers.split(","):
            mounts = [(f"{CGROUP}/{controllers}", path), (f"{CGROUP}/{controller}", path)]
            version = "v1"
            break
        if number == "0" and not controllers:
            mounts, version = [(CGROUP, path), (f"{CGROUP}/unified", path)], "v2"
    for mount, path in mounts:
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        ways_up = ["/".join([mount, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
        folders = [folder for folder in ways_up if (source.root / folder).is_dir()]
        if folders:
            return folders, version
    return [], UNKNOWN


def _quota(source: Source, folder: str) -> float | Literal["none"] | None:
    """Cores' worth of CPU time that a group may use in each period; None if no file tells."""
    words = (source.text(f"{folder}/cpu.max") or "").split()
    if not words:
        words = [
            source.text(f"{folder}/cpu.cfs_quota_us") or "",
            source.text(f"{folder}/cpu.cfs_period_us") or "",
        ]
    quota, period = [*words, ""][:2]
    if quota in {"max", "-1"}:
        return NONE
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return int(quota) / int(period)
    return None


def _memory_limit(source: Source, folder: str) -> int | Literal["none"] | None:
    text = source.text(f"{folder}/memory.max") or source.text(f"{folder}/memory.limit_in_bytes") or ""
    if text == "max" or (text.isdigit() and int(text) >= NO_LIMIT_BYTES):
        return NONE
    return int(text) if text.isdigit() else None
