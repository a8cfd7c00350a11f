"""What bounds a part on a device: its ceilings as rates, and the bound as it is shown."""

from math import log

import msgspec

from perstep.machine.device_ceilings import DeviceCeilings
from perstep.theory.device import DeviceRates


class DevicePartBound(msgspec.Struct, frozen=True):
    """The least time of a part's kernels in a step, what binds, and why there is none if it is withdrawn."""

    bound_ns: float | None
    binds: str
    withdrawn: str = ""


def rates_of(ceilings: DeviceCeilings, footprint_bytes: float | None) -> DeviceRates:
    """A device's rates at their best, for a step that reads a footprint in bytes (None: more than any cache holds).

    A set is read at the figure of the size that is nearest by ratio: what caches hold is never asked, only measured.
    """
    by_size: dict[int, float] = {}
    for figure in (*ceilings.of("read"), *ceilings.of("product")):
        if figure.gb_s:
            by_size[figure.bytes_moved] = max(by_size.get(figure.bytes_moved, 0.0), figure.gb_s)
    memory = ceilings.memory_gb_s or 0.0
    if footprint_bytes and by_size and footprint_bytes < max(by_size):
        nearest = min(by_size, key=lambda size: abs(log(size / footprint_bytes)))
        memory = max(memory, by_size[nearest])
    return DeviceRates(memory * 1e9, (ceilings.peak_tflop_s or 0.0) * 1e12, ceilings.shortest_ns() or 0.0)
