"""Ceilings of a device: what its kernels take at best, and what it costs the host to have them run.

Every figure of a kernel is the kernel's own duration, as the profiler reports it: the same currency as the device-busy
time that it judges. Products read their weights from slices of one large buffer, each slice after all the others, so
that they come from memory as a decode step's do; `read` goes over the same bytes twice and finds them in a cache that
holds them. Small kernels of each kind have a shortest duration, whatever their work. What runs and times the arms is
passed in (`DeviceLab`); this module knows no profiler.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from perstep._words import plural, short
from perstep.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

BUDGET_S = 3.0
ROUNDS = 7
LEAST_ROUNDS = 3
"""Fewer rounds have no best one that could bound anything."""
SIZES = tuple(1 << power for power in (18, 20, 22, 24, 26, 28, 30))
"""Bytes of weights, 256 KiB to 1 GiB."""
ROWS = (1, 4, 16, 32, 64, 256, 1024, 4096)
BEYOND_CACHES_BYTES = 1 << 28
"""A set of 256 MiB comes from memory: the largest cache of a GPU today holds 126 MB (B200), and of an APU 256 MiB."""
MOST_PRODUCT_BYTES = 1 << 28
"""Products of many rows are timed with weights up to this: 256 MiB are as far away as any."""
MOST_FLOPS = 600_000_000_000
"""A product of more is left out: it would take a millisecond of a device that reaches 600 TFLOP/s."""
MEMORY_SHARE = 0.25
"""Of the memory that is free, so much may be taken."""
DEFAULT_WIDTH = 4096

Kind = Literal["elementwise", "cast", "reduce", "concatenate", "gather", "product", "attention"]
KINDS: tuple[Kind, ...] = ("elementwise", "cast", "reduce", "concatenate", "gather", "product", "attention")
"""The kinds of kernels that a decode step is made of; each has a shortest duration of its own."""
HOST_FIGURES = ("launch", "graph_node", "sync", "event")
"""What a launch, a node of a replayed graph, a read of a scalar and the recording of an event cost; a node's is the
device's time, the others are the host's."""


@dataclass(frozen=True)
class DeviceArm:
    """One kernel to time.

    Attributes:
        figure: its name: `product.ROWS.BYTES`, `read.BYTES`, `copy.BYTES` or `kernel.KIND`.
        rows: of a product.
        bytes_moved: what it reads from memory, and of a copy what it writes as well; 0 for the smallest kernels.
        flops: of a product.
    """

    figure: str
    rows: int = 0
    bytes_moved: int = 0
    flops: int = 0

    @property
    def kind(self) -> str:
        """The first word of the figure."""
        return self.figure.partition(".")[0]


class DeviceLab(Protocol):
    """What runs the arms on a device."""

    def kernels_ns(self, arms: Sequence[DeviceArm], rounds: int) -> dict[str, list[int]]:
        """Each arm's kernel time in each round, all arms in each round: figure -> [rounds]; what fails is left out."""
        ...

    def host_ns(self, figure: str) -> list[float]:
        """One of `HOST_FIGURES`, several times, in nanoseconds."""
        ...


class DeviceFigure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure: `value` is the median over rounds, `best` the shortest; nanoseconds.

    `bytes_moved` and `flops` turn a time into a rate.
    """

    value: float
    best: float
    worst: float
    repeats: int
    rows: int = 0
    bytes_moved: int = 0
    flops: int = 0

    @property
    def gb_s(self) -> float | None:
        """GB/s (10^9 bytes) in the best round; None of what moves none."""
        return self.bytes_moved / self.best if self.bytes_moved and self.best else None

    @property
    def tflop_s(self) -> float | None:
        """TFLOP/s in the best round; None of what computes none."""
        return self.flops / self.best / 1e3 if self.flops and self.best else None


class DeviceCeilings(msgspec.Struct, frozen=True, kw_only=True):
    """The ceilings of one device, for products in one dtype.

    Attributes:
        device: its name.
        dtype: of the products.
        width: inputs of each product: the length of a row of weights.
        figures: by name.
        omitted: what was left out, and why.
        elapsed_ns: how long measuring took.
    """

    device: str
    dtype: str
    width: int
    figures: dict[str, DeviceFigure]
    omitted: dict[str, str] = {}
    elapsed_ns: int = 0

    def of(self, kind: str) -> list[DeviceFigure]:
        """The figures whose name begins with this word, smallest first."""
        figures = [figure for name, figure in self.figures.items() if name.partition(".")[0] == kind]
        return sorted(figures, key=lambda figure: (figure.rows, figure.bytes_moved))

    @property
    def memory_gb_s(self) -> float | None:
        """The best that was reached with the largest set, in any way; None where none is larger than caches are."""
        moved = [figure for kind in ("product", "read", "copy") for figure in self.of(kind)]
        largest = max((figure.bytes_moved for figure in moved), default=0)
        far = [figure.gb_s for figure in moved if figure.bytes_moved >= max(largest // 4, BEYOND_CACHES_BYTES)]
        return max((gb_s for gb_s in far if gb_s), default=None)

    @property
    def peak_tflop_s(self) -> float | None:
        """The best product; None where none was timed."""
        return max((figure.tflop_s or 0.0 for figure in self.of("product")), default=None)

    def shortest_ns(self, kind: Kind | None = None) -> float | None:
        """The shortest kernel of a kind, or of any: no kernel was seen to take less."""
        names = [f"kernel.{each}" for each in ((kind,) if kind else KINDS)]
        return min((self.figures[name].best for name in names if name in self.figures), default=None)

    def why_no_bounds(self) -> str:
        """Why these bound nothing; empty if they do."""
        repeats = [figure.repeats for name, figure in self.figures.items() if name not in HOST_FIGURES]
        if not repeats:
            return "no ceiling of the device was measured"
        if min(repeats) < LEAST_ROUNDS:
            return f"the device's ceilings have {plural(min(repeats), 'round')}, and need {LEAST_ROUNDS}"
        return "" if self.memory_gb_s and self.peak_tflop_s else "the device's bandwidth or products were not measured"


def device_arms(
    *, itemsize: int, free_bytes: int, width: int = DEFAULT_WIDTH, rows: Iterable[int] = ROWS
) -> tuple[list[DeviceArm], dict[str, str]]:
    """The arms for a device, and what is left out for want of memory.

    Args:
        itemsize: bytes of a number of the products.
        free_bytes: of the device's memory.
        width: inputs of each product.
        rows: of products, besides 1.
    """
    most = int(MEMORY_SHARE * free_bytes)
    sizes = [size for size in SIZES if 2 * size <= most]
    omitted = {
        f"read.{size}": f"twice {size / 2**20:.0f} MiB are over a quarter of the memory that is free"
        for size in SIZES
        if size not in sizes
    }
    arms = [DeviceArm(f"kernel.{kind}") for kind in KINDS]
    arms += [DeviceArm(f"read.{size}", 1, size) for size in sizes]
    arms += [DeviceArm(f"copy.{size}", 0, 2 * size) for size in sizes]
    for count in sorted({1, *rows}):
        for size in sizes:
            outputs = size // itemsize // width
            flops = 2 * count * width * outputs
            if outputs and flops <= MOST_FLOPS and (count == 1 or size <= MOST_PRODUCT_BYTES):
                arms.append(DeviceArm(f"product.{count}.{size}", count, outputs * width * itemsize, flops))
    return arms, omitted


def measure_device_ceilings(
    lab: DeviceLab,
    arms: Sequence[DeviceArm],
    *,
    device: str,
    dtype: str,
    width: int = DEFAULT_WIDTH,
    omitted: dict[str, str] | None = None,
    budget_s: float = BUDGET_S,
    rounds: int = ROUNDS,
    now: Callable[[], int] = time.perf_counter_ns,
) -> DeviceCeilings:
    """Measure a device's ceilings.

    The kernels are timed in one session of the profiler; what the host pays is timed with the time that is left.

    Args:
        lab: runs and times.
        arms: what to time.
        device: its name, for the record.
        dtype: of the products.
        width: inputs of each product.
        omitted: what was left out before.
        budget_s: what has no time within it is left out and named.
        rounds: how often each arm is timed.
        now: the clock, in nanoseconds.

    Raises:
        InputError: the budget is not positive.
    """
    if budget_s <= 0:
        raise InputError(f"budget_s is {short(budget_s)}; it must be more than 0 seconds")
    begin_ns, left_out = now(), dict(omitted or {})
    figures = {}
    taken = lab.kernels_ns(arms, rounds)
    for arm in arms:
        seen = [ns for ns in taken.get(arm.figure, []) if ns > 0]
        if seen:
            figures[arm.figure] = _figure(seen, arm)
        else:
            left_out[arm.figure] = "it did not run on this device"
    for name in HOST_FIGURES:
        if now() - begin_ns > budget_s * 1e9:
            left_out[name] = "no time"
        elif spent := [ns for ns in lab.host_ns(name) if ns > 0]:
            figures[name] = _figure(spent, DeviceArm(name))
        else:
            left_out[name] = "it could not be timed on this device"
    return DeviceCeilings(
        device=device, dtype=dtype, width=width, figures=figures, omitted=left_out, elapsed_ns=now() - begin_ns
    )


def _figure(seen: Sequence[float], arm: DeviceArm) -> DeviceFigure:
    from statistics import median

    return DeviceFigure(
        value=float(median(seen)),
        best=float(min(seen)),
        worst=float(max(seen)),
        repeats=len(seen),
        rows=arm.rows,
        bytes_moved=arm.bytes_moved,
        flops=arm.flops,
    )
