"""The least time of a part on a device: max(FLOPs / peak, bytes / bandwidth, kernels x the shortest one).

Bytes are weights and cache, once each: activations stay in a cache of the device. The shortest kernel counts, because a
decode step of one sequence is a thousand kernels that have next to nothing to do. Rates and the number of launches are
passed in; MBU and MFU are what users of GPUs call the shares of bandwidth and of arithmetic that a step makes use of.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from perstep.errors import InputError
from perstep.theory.cost import Cost


@dataclass(frozen=True)
class DeviceRates:
    """How fast a device is at best, measured.

    Attributes:
        bytes_per_s: reading, from the memory that holds a whole step's weights and cache.
        peak_flops: of matrix products in the step's dtype, FLOP/s.
        shortest_kernel_ns: no kernel takes less; 0 if it is not known.
    """

    bytes_per_s: float
    peak_flops: float
    shortest_kernel_ns: float = 0.0

    def __post_init__(self) -> None:
        if self.bytes_per_s <= 0 or self.peak_flops <= 0 or self.shortest_kernel_ns < 0:
            raise InputError("a device's rates must be above 0, and its shortest kernel 0 ns or more")


@dataclass(frozen=True)
class DeviceBound:
    """The least time of a part on a device; `bound_ns` is the largest of the others."""

    compute_ns: float
    bandwidth_ns: float
    launches_ns: float

    @property
    def bound_ns(self) -> float:
        """The least time."""
        return max(self.compute_ns, self.bandwidth_ns, self.launches_ns)

    @property
    def binds(self) -> str:
        """What it is made of: `bandwidth`, `compute`, or `launches` where the shortest kernels add up to more."""
        terms = {"bandwidth": self.bandwidth_ns, "compute": self.compute_ns, "launches": self.launches_ns}
        return max(terms, key=terms.__getitem__)


def device_bound(costs: Sequence[Cost], rates: DeviceRates, *, launches: float) -> DeviceBound:
    """The bound of a part.

    Args:
        costs: of theory's parts that lie in it; none where theory has no formula, and then launches alone bound it.
        rates: of the device.
        launches: kernels, copies and fills in a step.
    """
    cost = sum(costs, Cost())
    return DeviceBound(
        compute_ns=cost.matmul_flops / rates.peak_flops * 1e9,
        bandwidth_ns=cost.streamed_bytes / rates.bytes_per_s * 1e9,
        launches_ns=launches * rates.shortest_kernel_ns,
    )


@dataclass(frozen=True)
class Utilisation:
    """Model bandwidth and model FLOPs utilisation of a step: shares of what the device reached in its ceilings."""

    mbu: float
    mfu: float


def utilisation(costs: Sequence[Cost], rates: DeviceRates, *, step_ns: float) -> Utilisation:
    """MBU: weights and cache, read once, over the step's time and the bandwidth. MFU: products likewise over the peak.

    Args:
        costs: of all parts of a step.
        rates: of the device.
        step_ns: how long the step takes, without instruments.
    """
    bound = device_bound(costs, rates, launches=0)
    return Utilisation(bound.bandwidth_ns / step_ns, bound.compute_ns / step_ns)
