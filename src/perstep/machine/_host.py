"""What surrounds the processor: GPUs, virtualisation, power supply, load and boot time.

`none` and `none seen` mean that the place where such a thing would show was
read and shows none; a hypervisor may hide itself, so that one is never `none`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from perstep.machine._sources import NONE, UNKNOWN, MaybeFloat, MaybeInt, Source

NONE_SEEN = "none seen"
PCI = "sys/bus/pci/devices"
GPU_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
VIRTUAL_PRODUCTS = ("KVM", "QEMU", "VMware", "VirtualBox", "Virtual Machine", "Amazon EC2")
GPU_CLASSES = ("0x0300", "0x0302", "0x0380", "0x1200")  # VGA, 3D, display, processing accelerator


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU and who told of it: `nvidia-smi`, the PCI bus, or an already imported torch."""

    name: str
    driver: str = UNKNOWN
    memory_bytes: MaybeInt = UNKNOWN
    source: Literal["nvidia-smi", "pci", "torch"]


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Virtualisation, power, boot time (Unix seconds) and the load average of 1, 5 and 15 minutes."""

    virtualisation: str = UNKNOWN
    container: str = UNKNOWN
    power: str = UNKNOWN
    boot_time_unix_s: MaybeInt = UNKNOWN
    load_average_1min: MaybeFloat = UNKNOWN
    load_average_5min: MaybeFloat = UNKNOWN
    load_average_15min: MaybeFloat = UNKNOWN


Gpus = tuple[Gpu, ...] | Literal["unknown", "none"]


def read_host(source: Source) -> Host:
    """The surroundings of `source`."""
    loads = _loads(source)
    return Host(
        virtualisation=_virtualisation(source),
        container=_container(source),
        power=_power(source),
        boot_time_unix_s=_boot_time(source),
        load_average_1min=loads[0],
        load_average_5min=loads[1],
        load_average_15min=loads[2],
    )


def read_gpus(source: Source) -> Gpus:
    """The GPUs: from `nvidia-smi`, else the PCI bus, else torch if it is imported."""
    query = "--query-gpu=name,driver_version,memory.total"
    gpus = _nvidia_gpus(source.run(["nvidia-smi", query, "--format=csv,noheader,nounits"]))
    if gpus:
        return gpus
    devices = source.entries(PCI)
    if devices:
        return _pci_gpus(source, [device.name for device in devices])
    return _torch_gpus(source)


def _nvidia_gpus(table: str | None) -> tuple[Gpu, ...]:
    gpus = []
    for line in (table or "").splitlines():
        name, driver, mib = [*(cell.strip() for cell in line.split(",")), "", ""][:3]
        if name:
            memory: MaybeInt = int(mib) * 1024**2 if mib.isdigit() else UNKNOWN
            gpus.append(Gpu(name=name, driver=driver or UNKNOWN, memory_bytes=memory, source="nvidia-smi"))
    return tuple(gpus)


def _pci_gpus(source: Source, devices: list[str]) -> Gpus:
    gpus = []
    for device in devices:
        kind, vendor, model = (source.text(f"{PCI}/{device}/{name}") for name in ("class", "vendor", "device"))
        if kind is None or vendor is None:
            return UNKNOWN  # it may be one
        if not kind.startswith(GPU_CLASSES) or vendor not in GPU_VENDORS:
            continue
        try:
            driver = (source.root / PCI / device / "driver").readlink().name
        except OSError:
            driver = UNKNOWN
        name = f"{GPU_VENDORS[vendor]} (PCI {vendor[2:]}:{model[2:]})" if model else UNKNOWN
        gpus.append(Gpu(name=name, driver=driver, source="pci"))
    return tuple(gpus) or NONE


def _torch_gpus(source: Source) -> Gpus:
    """GPUs of an imported torch; its CUDA context is never created only to ask for a name."""
    cuda = getattr(source.modules.get("torch"), "cuda", None)
    if cuda is None:
        return UNKNOWN
    if not cuda.is_available():
        mps = getattr(getattr(source.modules["torch"], "backends", None), "mps", None)
        if mps is not None and mps.is_available():
            return (Gpu(name="Apple GPU (Metal)", source="torch"),)
        return NONE
    if not cuda.is_initialized():
        return UNKNOWN
    properties = [cuda.get_device_properties(index) for index in range(cuda.device_count())]
    return tuple(Gpu(name=str(one.name), memory_bytes=int(one.total_memory), source="torch") for one in properties)


def _virtualisation(source: Source) -> str:
    vendor = source.text("sys/class/dmi/id/sys_vendor")
    product = source.text("sys/class/dmi/id/product_name")
    names = " ".join(name for name in (vendor, product) if name)
    cpuinfo = (source.text("proc/cpuinfo") or "").split()
    if "microsoft" in source.uname.release.lower():
        return "virtual machine: WSL"
    if "hypervisor" in cpuinfo:
        return f"virtual machine: {names}" if names else "virtual machine"
    hypervisor = source.text("sys/hypervisor/type")
    if hypervisor:
        return f"virtual machine: {hypervisor}"
    if any(word in names for word in VIRTUAL_PRODUCTS) and "metal" not in names:
        return f"virtual machine: {names}"
    return NONE_SEEN if "flags" in cpuinfo else UNKNOWN  # only x86 has a flag whose absence says something


def _container(source: Source) -> str:
    if (source.root / ".dockerenv").exists():
        return "docker"
    if (source.root / "run/.containerenv").exists():
        return "podman"
    groups = source.text("proc/self/cgroup")
    for name in ("kubepods", "docker", "lxc"):
        if groups is not None and name in groups:
            return name
    return UNKNOWN if groups is None else NONE_SEEN


def _power(source: Source) -> str:
    """`ac`, `battery`, or `none seen` where no power supply is listed (servers, virtual machines)."""
    if source.uname.system == "Darwin":
        output = source.run(["pmset", "-g", "batt"]) or ""
        return "battery" if "'Battery Power'" in output else "ac" if "'AC Power'" in output else UNKNOWN
    supplies = source.entries("sys/class/power_supply")
    if supplies is None:
        return UNKNOWN
    states = set()
    for supply in supplies:
        folder = f"sys/class/power_supply/{supply.name}"
        if source.text(f"{folder}/scope") == "Device":  # the battery of a mouse
            continue
        if source.text(f"{folder}/type") == "Battery":
            states.add(source.word(f"{folder}/status"))
        else:
            states.add("online" if source.text(f"{folder}/online") == "1" else UNKNOWN)
    if "Discharging" in states:
        return "battery"
    if states & {"online", "Charging", "Full", "Not charging"}:
        return "ac"
    return UNKNOWN if states else NONE_SEEN


def _boot_time(source: Source) -> MaybeInt:
    for line in (source.text("proc/stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "btime" and value.strip().isdigit():
            return int(value)
    return UNKNOWN


def load_average() -> MaybeFloat:
    """The load average of the last minute, now."""
    return _loads(Source())[0]


def _loads(source: Source) -> tuple[MaybeFloat, MaybeFloat, MaybeFloat]:
    text = source.text("proc/loadavg")
    if text is None and source.uname.system == "Darwin":
        text = (source.run(["sysctl", "-n", "vm.loadavg"]) or "").strip("{ }\n")
    try:
        one, five, fifteen = (float(word) for word in (text or "").split()[:3])
    except ValueError:
        return UNKNOWN, UNKNOWN, UNKNOWN
    return one, five, fifteen
