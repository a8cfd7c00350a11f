"""The ceilings of a device: what `machine --device` measures, and for a model's shapes every ledger on a device.

At most three seconds, once everything is warm.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perstep.errors import InputError, how_to_install
from perstep.machine.device_ceilings import (
    DEFAULT_WIDTH,
    ROWS,
    DeviceCeilings,
    DeviceLab,
    device_arms,
    measure_device_ceilings,
)
from perstep.targets import Target
from perstep.targets.transformers.device_check import check_device
from perstep.targets.transformers.device_lab import CudaLab

if TYPE_CHECKING:
    import torch


def device_machine(device: str, dtype: str = "bfloat16", *, lab: DeviceLab | None = None) -> DeviceCeilings:
    """The ceilings of a device, with products of 4,096 inputs.

    Args:
        device: as `--device` takes it.
        dtype: of the products.
        lab: runs the arms; the device's own by default.

    Raises:
        InputError: torch is not there, or the device cannot be used.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(f"--device needs torch, which is not installed: {how_to_install('hf')}") from error
    if device == "cpu":
        raise InputError("--device cpu: the processor's ceilings are measured without it; give cuda")
    if lab is None:
        check_device(device)
    return ceilings_at(torch.device(device), getattr(torch, dtype), DEFAULT_WIDTH, ROWS, lab)


def ceilings_of(target: Target, *, rows: int, lab: DeviceLab | None = None) -> DeviceCeilings:
    """The ceilings of the device that a model is on, in its dtype, with products as wide as it and of its rows.

    Args:
        target: the model.
        rows: of its products in a decode step: the batch.
        lab: runs the arms; the device's own by default.
    """
    model = target.model
    width = int(target.facts["hidden"] or DEFAULT_WIDTH)
    return ceilings_at(model.device, model.dtype, width, sorted({1, rows, 256, 4096}), lab)


def ceilings_at(
    device: "torch.device", dtype: "torch.dtype", width: int, rows: Sequence[int], lab: DeviceLab | None = None
) -> DeviceCeilings:
    """The ceilings of a device that has been checked.

    Args:
        device: where.
        dtype: of the products.
        width: inputs of each product.
        rows: of products.
        lab: runs the arms; the device's own by default.
    """
    import torch

    name, free = "unknown", 1 << 30
    if device.type == "cuda" and torch.cuda.is_available():
        name, free = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[0]
    spelt = str(dtype).removeprefix("torch.")
    arms, omitted = device_arms(itemsize=dtype.itemsize, free_bytes=free, width=width, rows=rows)
    lab = lab or CudaLab(spelt, width, device=str(device))
    return measure_device_ceilings(lab, arms, device=name, dtype=spelt, width=width, omitted=omitted)
