"""The manifest of a machine: what it is, what limits it, what runs on it.

Read once, before measuring; it costs a few files and two or three commands,
imports no library and changes nothing. A fact that cannot be read is the
string `unknown`. `identity` names the hardware alone, so that figures
measured on one machine are never used on another.
"""

from __future__ import annotations

import hashlib
import json
import math

import msgspec

from perstep.machine._cpu import Cpu, read_cpu
from perstep.machine._host import Gpus, Host, read_gpus, read_host
from perstep.machine._limits import Cgroup, Memory, read_cgroup, read_memory
from perstep.machine._software import Git, Software, read_git, read_software
from perstep.machine._sources import UNKNOWN, MaybeInt, Source

SCHEMA_VERSION = 1


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about a machine; `msgspec.json.encode` writes it as JSON."""

    schema_version: int = SCHEMA_VERSION
    software: Software
    cpu: Cpu
    memory: Memory
    cgroup: Cgroup
    gpus: Gpus
    host: Host
    git: Git


def describe(source: Source | None = None) -> Machine:
    """Describe the machine this runs on.

    Args:
        source: where to read; by default `/proc`, `/sys`, the environment and the
            modules imported so far.

    Returns:
        The manifest. What cannot be read is `unknown`.
    """
    source = source or Source()
    return Machine(
        software=read_software(source),
        cpu=read_cpu(source),
        memory=read_memory(source),
        cgroup=read_cgroup(source),
        gpus=read_gpus(source),
        host=read_host(source),
        git=read_git(source),
    )


def identity(machine: Machine) -> str:
    """A hash of the hardware: 16 hexadecimal digits, equal for equal machines.

    It takes in the processor (model, signature, instruction sets), its cores,
    threads and caches, the memory and the GPUs that `nvidia-smi` or the PCI
    bus show. It leaves out what changes without a screwdriver: frequencies,
    load, limits, versions, and a GPU known only to torch. Memory counts to
    the nearest quarter of an octave, because the kernel's own share of it
    varies between boots.
    """
    cpu = machine.cpu
    gpus = [] if isinstance(machine.gpus, str) else [g.name for g in machine.gpus if g.source != "torch"]
    facts = [
        machine.software.architecture,
        [cpu.model, cpu.signature, cpu.isa],
        [cpu.cores_physical, cpu.cores_logical],
        [cpu.l1d_bytes, cpu.l2_bytes, cpu.l3_bytes, cpu.l3_shared_by],
        _rounded(machine.memory.ram_bytes),
        sorted(gpus),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _rounded(ram_bytes: MaybeInt) -> MaybeInt:
    """Quarter octaves: 15.3 GiB and 15.9 GiB are one machine of 16, 12 GiB is another."""
    return round(4 * math.log2(ram_bytes)) if isinstance(ram_bytes, int) and ram_bytes > 0 else UNKNOWN
