"""The bound beside a mask's time on a device: bytes of logits, tables and bits over its ceilings, and its launches.

A part that is faster anyway has none (law "a bound bounds"): its logits lay nearer than the ceilings were measured.
"""

import msgspec

from perstep.experiments.bounds import BEATEN
from perstep.experiments.device.limits import DevicePartBound, rates_of
from perstep.experiments.mask.device import ArmOnDevice
from perstep.experiments.mask.roofline import AboutCell
from perstep.machine.device_ceilings import DeviceCeilings
from perstep.report.format import duration
from perstep.theory.cost import Cost
from perstep.theory.device import DeviceBound
from perstep.theory.masking import masking_bounds, masking_costs

MASK_PARTS = ("mask.fill", "mask.accept", "mask.apply")


class MaskBound(msgspec.Struct, frozen=True):
    """The least time of a mask's kernels in a step.

    Attributes:
        parts: of every part of the mask that launches something.
        bytes_moved: part -> the least that it reads and writes.
    """

    parts: dict[str, DevicePartBound]
    bytes_moved: dict[str, float]

    @property
    def bound_ns(self) -> float | None:
        """Of the parts together; None where one has no bound."""
        bounds = [part.bound_ns for part in self.parts.values()]
        return None if not bounds or None in bounds else sum(ns for ns in bounds if ns is not None)

    @property
    def binds(self) -> str:
        """What it is made of, the largest part first; or why there is none."""
        parts = sorted(self.parts.values(), key=lambda part: -(part.bound_ns or 0.0))
        withdrawn = dict.fromkeys(part.withdrawn for part in parts if part.withdrawn)
        return ", ".join(withdrawn or dict.fromkeys(part.binds for part in parts))


def mask_bound(there: ArmOnDevice, about: AboutCell, ceilings: DeviceCeilings | None) -> MaskBound | None:
    """The bound of an arm's mask; None without a mask, without launches, or without ceilings that bound.

    Args:
        there: what the device does in a step.
        about: what was counted about the cell.
        ceilings: of the device.
    """
    launches = {part: count for part, count in there.part_launches.items() if part in MASK_PARTS and count}
    if not there.way or not launches or ceilings is None or ceilings.why_no_bounds():
        return None
    forbidden = 0.0 if about.allowed_mean is None else about.vocab_size - about.allowed_mean
    costs = masking_costs(there.way, rows=about.batch, width=about.vocab_size, forbidden=forbidden)
    moved = {part: costs.get(part, Cost()).total_bytes for part in launches}
    rates = {part: rates_of(ceilings, size) for part, size in moved.items()}
    bounds = masking_bounds(costs, rates, launches)
    return MaskBound({part: _judged(there.parts[part], bound) for part, bound in bounds.items()}, moved)


def _judged(took_ns: float, bound: DeviceBound) -> DevicePartBound:
    if took_ns < bound.bound_ns:
        return DevicePartBound(None, "", BEATEN)
    return DevicePartBound(bound.bound_ns, bound.binds)


def bound_note(ceilings: DeviceCeilings) -> str:
    """What the bounds are made of."""
    return (
        "The bound of the mask is, part by part, the larger of its bytes (logits, rows of a table or packed bits, read "
        "and written once by each kernel) at the best rate that was measured for that size, and its launches times "
        f"the shortest kernel ({duration(ceilings.shortest_ns() or 0.0)}); nothing is fitted."
    )
