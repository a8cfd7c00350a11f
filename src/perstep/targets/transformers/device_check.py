"""Whether a device can be measured on, asked before anything is built: it exists, is alone, idle and large enough.

What is wrong is one sentence that says what would be right. How busy a GPU is comes from NVML where pynvml is
installed, else from nvidia-smi where there is one; where there is neither, nothing is said.
"""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from perstep.errors import InputError
from perstep.targets.transformers.protocols import Model

BUSY_FROM = 10
"""Per cent of the time in which kernels of others ran: from here on the device is busy."""
LOOKS = 3
"""So often it is looked at before it is called busy: what has just ended still counts for a moment."""
LOOK_EVERY_S = 0.4
MOST_PROCESSES = 3
"""Processes that are named; of more there is the number."""


@dataclass(frozen=True)
class DeviceUse:
    """What is known of a GPU.

    Attributes:
        busy_percent: of the time in which kernels ran.
        used_mib: memory in use.
        processes: ids of the processes that use it, this one left out; none where only nvidia-smi was asked.
    """

    busy_percent: int
    used_mib: int
    processes: tuple[int, ...] = ()


def check_device(device: str) -> None:
    """Check that a device can be measured on.

    Args:
        device: as `--device` takes it.

    Raises:
        InputError: it is none, not here, several at once, or busy before this process has used any.
    """
    if device == "cpu":
        return
    import torch

    if "," in device or device == "auto":
        raise InputError(
            f"--device {device}: perstep measures on one device at a time; give cuda, or cuda:1 for the second"
        )
    kind = device.partition(":")[0]
    if kind == "mps":
        raise InputError(
            f"--device {device}: perstep does not see what that device does; give cpu, or cuda on a machine with one"
        )
    if kind != "cuda":
        raise InputError(f"--device {device} cannot be used here: perstep measures on cpu or cuda")
    began = torch.cuda.is_initialized()
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"--device {device} cannot be used here: {why}; give cpu, or one that is here") from error
    if not began:  # later, what runs there may be our own
        refuse_if_busy(device, device_use)


def refuse_if_busy(
    device: str, use: Callable[[str], DeviceUse | None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Refuse a GPU on which others run kernels.

    Args:
        device: as torch spells it.
        use: asked how busy it is; None where that cannot be known.
        sleep: waits between looks, in seconds.

    Raises:
        InputError: at every look it was busy.
    """
    seen = []
    for look in range(LOOKS):
        usage = use(device)
        if usage is None or usage.busy_percent < BUSY_FROM:
            return
        seen.append(usage)
        if look < LOOKS - 1:
            sleep(LOOK_EVERY_S)
    least = min(seen, key=lambda each: each.busy_percent)
    raise InputError(
        f"--device {device} is busy: kernels of other programs run {least.busy_percent} % of the time "
        f"({least.used_mib:,} MiB in use{_of(least.processes)}); wait until it is idle, or give another device"
    )


def _of(processes: Sequence[int]) -> str:
    if not processes:
        return ""
    shown = ", ".join(map(str, processes[:MOST_PROCESSES]))
    more = f" and {len(processes) - MOST_PROCESSES} more" if len(processes) > MOST_PROCESSES else ""
    return f" by {'process' if len(processes) == 1 else 'processes'} {shown}{more}"


def device_use(device: str) -> DeviceUse | None:
    """How busy a GPU is, by NVML or nvidia-smi; None where there is neither, or it does not answer."""
    import torch

    try:
        uuid = str(torch.cuda.get_device_properties(device).uuid)
    except (AttributeError, RuntimeError, AssertionError):
        return None
    return _by_nvml(uuid) or _by_nvidia_smi(uuid)


def _by_nvml(uuid: str) -> DeviceUse | None:
    """With the processes; None where pynvml is not installed, or the driver does not answer."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            pids = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)} - {os.getpid()}
            used = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
            return DeviceUse(int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu), used >> 20, tuple(sorted(pids)))
        finally:
            nvml.nvmlShutdown()
    except Exception:  # a driver without it, a device that does not tell: each version of NVML has its own errors
        return None


def _by_nvidia_smi(uuid: str) -> DeviceUse | None:
    try:
        said = subprocess.run(
            ["nvidia-smi", f"--id=GPU-{uuid}", "--query-gpu=utilization.gpu,memory.used",
             "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout  # fmt: skip
        busy, used = said.splitlines()[0].split(",")
        return DeviceUse(int(busy), int(used))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def refuse_if_no_room(what: str, needed_bytes: int, device: str, remedy: str) -> None:
    """Refuse what does not fit into the free memory of a device, before it is allocated.

    Args:
        what: needs the memory, as a sentence begins with it.
        needed_bytes: at least.
        device: as torch spells it; on a CPU nothing is refused here.
        remedy: what would be right.

    Raises:
        InputError: less is free.
    """
    if device.partition(":")[0] != "cuda":
        return
    import torch

    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
        device
    )  # kept by torch for its next tensors
    if needed_bytes > free:
        raise InputError(
            f"{what} needs at least {needed_bytes / 1e9:.1f} GB, and of {total / 1e9:.1f} GB on {device} "
            f"{free / 1e9:.1f} are free: {remedy}"
        )


def spread_over(model: Model) -> list[str]:
    """The devices that a model's layers lie on by its `device_map`; empty where they lie on one.

    Args:
        model: a transformers model.
    """
    placed = getattr(model, "hf_device_map", None) or {}
    devices = sorted({str(place) for place in placed.values()})
    return devices if len(devices) > 1 else []


def refuse_if_spread(model: Model) -> None:
    """Refuse a model whose layers lie on several devices.

    Args:
        model: a transformers model, perhaps loaded with a `device_map`.

    Raises:
        InputError: it lies on more than one device.
    """
    if devices := spread_over(model):
        raise InputError(
            f"the model is spread over {', '.join(devices)} (device_map): perstep measures on one device at a time; "
            "load it without a device_map, or with fewer layers"
        )
