"""The processor: what it is, how many cores, how large its caches, how its clock is governed.

Read from `/proc/cpuinfo` and `/sys/devices/system/cpu`; on macOS from `sysctl`.
The `cpu MHz` of `/proc/cpuinfo` is not taken for a frequency: without a
cpufreq driver (most virtual machines) it is a constant, not a reading.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from perstep.machine._sources import (
    NONE,
    UNKNOWN,
    IntOrNone,
    MaybeInt,
    Source,
    Unknown,
    parse_cpu_list,
    parse_size,
    parse_table,
)

CPUS = "sys/devices/system/cpu"
# Instruction sets that change how fast a matrix product runs.
ISA = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm",
)  # fmt: skip


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """The processor. Sizes are of one cache, as the first allowed CPU sees it."""

    model: str = UNKNOWN
    signature: str = UNKNOWN
    isa: tuple[str, ...] | Unknown = UNKNOWN
    cores_physical: MaybeInt = UNKNOWN
    cores_logical: MaybeInt = UNKNOWN
    allowed_cpus: tuple[int, ...] | Unknown = UNKNOWN
    smt: Literal["on", "off", "unknown"] = UNKNOWN
    l1d_bytes: IntOrNone = UNKNOWN
    l2_bytes: IntOrNone = UNKNOWN
    l3_bytes: IntOrNone = UNKNOWN
    l3_shared_by: MaybeInt = UNKNOWN
    numa_nodes: MaybeInt = UNKNOWN
    frequency_driver: str = UNKNOWN
    frequency_min_hz: MaybeInt = UNKNOWN
    frequency_base_hz: MaybeInt = UNKNOWN
    frequency_max_hz: MaybeInt = UNKNOWN
    frequency_now_hz: MaybeInt = UNKNOWN
    governor: str = UNKNOWN
    turbo: Literal["on", "off", "unknown"] = UNKNOWN
    turbo_control: str = UNKNOWN


def read_cpu(source: Source) -> Cpu:
    """The processor of `source`."""
    if source.uname.system == "Darwin":
        return _darwin_cpu(source)
    blocks = [parse_table(block) for block in (source.text("proc/cpuinfo") or "").split("\n\n")]
    blocks = [block for block in blocks if block]
    online = _online(source, blocks)
    allowed = parse_cpu_list(parse_table(source.text("proc/self/status")).get("Cpus_allowed_list"))
    looked_at = allowed or online or (0,)
    l1d, l2, l3, l3_shared_by = _caches(source, looked_at[0])
    turbo, control = _turbo(source)
    return Cpu(
        model=_model(blocks),
        signature=_signature(blocks),
        isa=_isa(blocks),
        cores_physical=_cores_physical(source, online, blocks),
        cores_logical=len(online) if online else UNKNOWN,
        allowed_cpus=allowed or UNKNOWN,
        smt=_smt(source, online),
        l1d_bytes=l1d,
        l2_bytes=l2,
        l3_bytes=l3,
        l3_shared_by=l3_shared_by,
        numa_nodes=_count(parse_cpu_list(source.text("sys/devices/system/node/online"))),
        frequency_driver=_joined(source, looked_at, "scaling_driver"),
        frequency_min_hz=_frequency(source, looked_at, "cpuinfo_min_freq", highest=False),
        frequency_base_hz=_frequency(source, looked_at, "base_frequency"),
        frequency_max_hz=_frequency(source, looked_at, "cpuinfo_max_freq"),
        frequency_now_hz=_frequency(source, looked_at, "scaling_cur_freq"),
        governor=_joined(source, looked_at, "scaling_governor"),
        turbo=turbo,
        turbo_control=control,
    )


def _count(items: tuple[int, ...] | None) -> MaybeInt:
    return len(items) if items else UNKNOWN


def _online(source: Source, blocks: list[dict[str, str]]) -> tuple[int, ...] | None:
    online = parse_cpu_list(source.text(f"{CPUS}/online"))
    if online:
        return online
    numbers = [block["processor"] for block in blocks if block.get("processor", "").isdigit()]
    return tuple(int(number) for number in numbers) or None


def _model(blocks: list[dict[str, str]]) -> str:
    for key in ("model name", "cpu model", "cpu"):  # x86 and some ARM; MIPS; POWER
        for block in blocks:
            if block.get(key):
                return block[key]
    # ARM names an implementer and a part for each core; a machine may have two kinds of core.
    parts = {
        f"ARM implementer {block['CPU implementer']} part {block['CPU part']}"
        for block in blocks
        if "CPU implementer" in block and "CPU part" in block
    }
    return " + ".join(sorted(parts)) or UNKNOWN


def _signature(blocks: list[dict[str, str]]) -> str:
    names = ("cpu family", "model", "stepping", "CPU variant", "CPU revision")
    block = blocks[0] if blocks else {}
    return ", ".join(f"{name} {block[name]}" for name in names if block.get(name)) or UNKNOWN


def _isa(blocks: list[dict[str, str]]) -> tuple[str, ...] | Unknown:
    for block in blocks:
        flags = set((block.get("flags") or block.get("Features") or "").split())
        if flags:
            return tuple(name for name in ISA if name in flags)
    return UNKNOWN


def _siblings(source: Source, online: tuple[int, ...]) -> set[str] | None:
    """The distinct sets of hardware threads that share a core; None unless every CPU tells."""
    sets = set()
    for cpu in online:
        folder = f"{CPUS}/cpu{cpu}/topology"
        siblings = source.text(f"{folder}/core_cpus_list") or source.text(f"{folder}/thread_siblings_list")
        if siblings is None:
            return None
        sets.add(siblings)
    return sets


def _cores_physical(source: Source, online: tuple[int, ...] | None, blocks: list[dict[str, str]]) -> MaybeInt:
    siblings = _siblings(source, online) if online else None
    if siblings:
        return len(siblings)
    pairs = [(block.get("physical id"), block.get("core id")) for block in blocks]
    if pairs and all(None not in pair for pair in pairs):
        return len(set(pairs))
    return UNKNOWN


def _smt(source: Source, online: tuple[int, ...] | None) -> Literal["on", "off", "unknown"]:
    active = source.text(f"{CPUS}/smt/active")
    if active in {"0", "1"}:
        return "on" if active == "1" else "off"
    siblings = _siblings(source, online) if online else None
    if not siblings:
        return UNKNOWN
    return "on" if any(len(parse_cpu_list(item) or ()) > 1 for item in siblings) else "off"


def _caches(source: Source, cpu: int) -> tuple[IntOrNone, IntOrNone, IntOrNone, MaybeInt]:
    sizes: dict[str, int] = {}
    shared_by: MaybeInt = UNKNOWN
    unreadable = False
    for index in source.entries(f"{CPUS}/cpu{cpu}/cache") or []:
        if not index.name.startswith("index"):
            continue
        folder = f"{CPUS}/cpu{cpu}/cache/{index.name}"
        level, kind = source.text(f"{folder}/level"), source.text(f"{folder}/type")
        size = parse_size(source.text(f"{folder}/size"))
        if kind == "Instruction":
            continue
        if level is None or kind is None or not size:
            unreadable = True  # some cache is there, and which one or how large is not told
            continue
        sizes[level] = size
        if level == "3":
            shared_by = _count(parse_cpu_list(source.text(f"{folder}/shared_cpu_list")))
    absent: Literal["unknown", "none"] = UNKNOWN if unreadable or not sizes else NONE
    return sizes.get("1", absent), sizes.get("2", absent), sizes.get("3", absent), shared_by


def _frequency(source: Source, cpus: tuple[int, ...], name: str, *, highest: bool = True) -> MaybeInt:
    read = [source.integer(f"{CPUS}/cpu{cpu}/cpufreq/{name}", scale=1000) for cpu in cpus]
    positive = [value for value in read if isinstance(value, int) and value > 0]
    if not positive:
        return UNKNOWN
    return max(positive) if highest else min(positive)


def _joined(source: Source, cpus: tuple[int, ...], name: str) -> str:
    """What the CPUs agree on, or all they say joined by `+`."""
    said = {source.text(f"{CPUS}/cpu{cpu}/cpufreq/{name}") for cpu in cpus}
    return "+".join(sorted(word for word in said if word)) or UNKNOWN


def _turbo(source: Source) -> tuple[Literal["on", "off", "unknown"], str]:
    for path, on in ((f"{CPUS}/intel_pstate/no_turbo", "0"), (f"{CPUS}/cpufreq/boost", "1")):
        value = source.text(path)
        if value in {"0", "1"}:
            return ("on" if value == on else "off"), f"/{path}"
    return UNKNOWN, UNKNOWN


def _darwin_cpu(source: Source) -> Cpu:
    """The processor of a Mac; of two kinds of core, the caches are those of the fast ones."""

    def read(*names: str) -> str | None:
        for name in names:
            text = (source.run(["sysctl", "-n", name]) or "").strip()
            if text:
                return text
        return None

    def number(*names: str) -> MaybeInt:
        text = read(*names)
        return int(text) if text is not None and text.isdigit() and int(text) > 0 else UNKNOWN

    return Cpu(
        model=read("machdep.cpu.brand_string") or UNKNOWN,
        cores_physical=number("hw.physicalcpu"),
        cores_logical=number("hw.logicalcpu"),
        l1d_bytes=number("hw.perflevel0.l1dcachesize", "hw.l1dcachesize"),
        l2_bytes=number("hw.perflevel0.l2cachesize", "hw.l2cachesize"),
        l3_bytes=number("hw.l3cachesize"),
        frequency_min_hz=number("hw.cpufrequency_min"),
        frequency_max_hz=number("hw.cpufrequency_max"),
    )
