"""A sweep of ceilings over buffer sizes, measured once per round in the same rounds as the steps.

A virtual machine may report an L3 of 480 MiB and own a small part of it, so reported sizes are not used: bandwidth is
measured at the sizes of the steps (a working set, a layer, a whole step's footprint), and a set gets the bandwidth of
the nearest size. So is the overhead of a library call: with warm caches, and right after that many bytes were read.
Each ceiling has an interval, from its median over rounds to its best round; bounds use the best round.
`measure_ceilings` in `ceilings.py` has the figures of named levels, which are stored between runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from perstep._words import plural
from perstep.errors import InputError
from perstep.machine._arms import (
    LINE_BYTES,
    NUMPY_DTYPES,
    CeilingArm,
    filled_buffer,
    gemm_arms,
    imported_torch,
)
from perstep.machine._rounds import ThreadSetter, Timed, calibrate, round_order, time_calls
from perstep.machine.noise import was_taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from perstep.machine._arms import Buffer
    from perstep.machine.noise import Noise

LEAST_NS = 100_000  # least duration of one timing
MOST_BYTES = 1 << 30  # larger sets are read at the same speed
NEAREST_BYTES = 256 << 10
"""The smallest set: a smaller read takes about as long as the call."""
VECTOR_NUMBERS = 1 << 16  # three arrays of 256 KiB stay in L2
SMALL = 8  # numbers in a call with negligible work
WIDE_ROW = 1024  # numbers; short rows, as in a small model, are read more slowly, longer rows no faster
LEAST_QUIET = 3  # undisturbed rounds that a best round needs to describe the machine


@dataclass(frozen=True)
class SweepFigures:
    """Figures of a sweep: the medians over rounds, or the best rounds.

    Attributes:
        read_gb_s: set size in bytes -> GB/s (10^9 bytes) of multiplying it with a vector, in rising order.
        call_ns: bytes that were read just before (0: none, warm caches) -> ns of one small library call.
        gemm_gflop_s: of a square matrix product.
        vector_g_s: numbers multiplied, 10^9 a second, in cache.
        special_g_s: exponentials, 10^9 a second, in cache.
        rounds: how many.
    """

    read_gb_s: dict[int, float]
    call_ns: dict[int, float]
    gemm_gflop_s: float
    vector_g_s: float
    special_g_s: float
    rounds: int


@dataclass(frozen=True)
class SweepCeilings:
    """Ceilings with their intervals, and how many rounds were undisturbed.

    Attributes:
        typical: medians over rounds, with rows of the model's width.
        best: the best round of each, with the faster row width.
        rounds: rounds of the run; each timed all ceilings at least once.
        quiet_rounds: those in which the processor was not taken away.
    """

    typical: SweepFigures
    best: SweepFigures
    rounds: int
    quiet_rounds: int

    def why_no_bounds(self) -> str:
        """Why the best rounds cannot be used for bounds; empty if they can."""
        if self.rounds < LEAST_QUIET:
            return f"not judged: ceilings need {LEAST_QUIET} rounds for an interval, and there are {self.rounds}"
        return self._disturbed() if self.quiet_rounds < LEAST_QUIET else ""

    def why_no_medians(self) -> str:
        """Why the medians cannot be used for predictions; empty if they can."""
        return self.why_no_bounds() or (self._disturbed() if 2 * self.quiet_rounds <= self.rounds else "")

    def _disturbed(self) -> str:
        taken = self.rounds - self.quiet_rounds
        return (
            f"ceilings disturbed; not judged: the processor was taken away in {taken} of {plural(self.rounds, 'round')}"
        )


class CeilingSweep:
    """Ceilings at several buffer sizes: the arms, each with its calls per timing.

    Args:
        sizes: set sizes in bytes; sizes above 1 GiB or a quarter of the free memory are reduced to that; 256 KiB is
            added as the smallest.
        call_up_to: calls are timed after sets up to this size and the next larger one; None: after all sets.
        library: the library to time: `numpy` (float32 and float64), or `torch`, which must have been imported.
        dtype: of the numbers.
        row: length of the rows of the matrices: a model's hidden size.
        threads: in force during the timings.
        now: the clock, in nanoseconds.

    Raises:
        InputError: no size is positive, or the library has no such dtype.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        call_up_to: int | None = None,
        library: str = "numpy",
        dtype: str = "float32",
        row: int = 1024,
        threads: int = 1,
        now: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        from psutil import virtual_memory

        if not sizes or min(sizes) < 1:
            raise InputError(f"set sizes in bytes are {list(sizes)}; give one or more, each above 0")
        if library == "numpy" and dtype not in NUMPY_DTYPES:
            raise InputError(f"numpy ceilings are measured in {' or '.join(NUMPY_DTYPES)}, not {dtype}")
        most = max(min(MOST_BYTES, virtual_memory().available // 4), NEAREST_BYTES)
        taken = {min(max(size, NEAREST_BYTES), most) // LINE_BYTES * LINE_BYTES for size in sizes}
        self.sizes = tuple(sorted(taken | {NEAREST_BYTES}))
        self._now, self._setter, self._count = now, ThreadSetter(), 0
        buffer = filled_buffer(self.sizes[-1], now, None)
        assert buffer is not None  # noqa: S101 - there is no deadline
        torch = imported_torch() if library == "torch" else None
        arms = [
            *_read_arms("read", buffer, self.sizes, row, threads, dtype, torch),
            *(_read_arms("wide", buffer, self.sizes, WIDE_ROW, threads, dtype, torch) if row != WIDE_ROW else ()),
            *_call_arms(buffer, self._called(call_up_to), threads, torch),
            *_arithmetic_arms(threads, dtype, torch),
        ]
        self._timed: list[Timed] = []
        for arm in arms:
            with self._setter(arm.threads):
                one = calibrate(arm, LEAST_NS, now)
            if one is not None:
                self._timed.append(one)

    def _called(self, call_up_to: int | None) -> tuple[int, ...]:
        if call_up_to is None:
            return self.sizes
        return self.sizes[: 1 + sum(size < call_up_to for size in self.sizes)]

    def measure(self) -> dict[str, float]:
        """Time every arm once, in an order that rotates from call to call: arm name -> its figure."""
        figures = {}
        for one in round_order(self._timed, self._count):
            with self._setter(one.arm.threads):
                elapsed_ns = time_calls(one.arm, one.calls, self._now)
            if elapsed_ns > 0:
                figures[one.arm.name] = one.arm.value(one.calls, elapsed_ns)
        self._count += 1
        return figures


def sweep_ceilings(rounds: Sequence[Mapping[str, float]], noises: Sequence[Noise]) -> SweepCeilings | None:
    """Ceilings from rounds: a pure function; None where a figure is missing.

    Args:
        rounds: what each call of `CeilingSweep.measure` returned.
        noises: of the run's rounds; each round has one call or several.
    """
    typical, best = sweep_figures(rounds), sweep_figures(rounds, best=True)
    if typical is None or best is None:
        return None
    return SweepCeilings(typical, best, len(noises), sum(not was_taken(noise) for noise in noises))


def sweep_figures(rounds: Sequence[Mapping[str, float]], *, best: bool = False) -> SweepFigures | None:
    """Figures from rounds of `CeilingSweep.measure`: a pure function; None where a figure is missing.

    Args:
        rounds: what each call returned.
        best: use the best round of each figure instead of the median, and the faster of the two row widths.
    """
    from statistics import median

    values: dict[str, list[float]] = {}
    for one in rounds:
        for name, value in one.items():
            figure = name.split("@")[0]
            values.setdefault(figure.replace("wide.", "read.") if best else figure, []).append(value)
    figures = {
        figure: (min(seen) if figure.startswith("call.") else max(seen)) if best else median(seen)
        for figure, seen in values.items()
    }
    read, call = (
        {_size_of(name): figures[name] for name in sorted(figures, key=_size_of) if name.startswith(kind)}
        for kind in ("read.", "call.")
    )
    gemm, vector, special = (figures.get(name) for name in ("gemm", "vector", "special"))
    if not read or 0 not in call or gemm is None or vector is None or special is None:
        return None
    return SweepFigures(read, call, gemm, vector, special, len(rounds))


def _size_of(figure: str) -> int:
    size = figure.partition(".")[2]
    return int(size) if size else -1


def _read_arms(
    kind: str, buffer: Buffer, sizes: Sequence[int], row: int, threads: int, dtype: str, torch: ModuleType | None
) -> Iterator[CeilingArm]:
    """The first `size` bytes as a matrix with rows of `row` numbers times a vector, as decoding reads weights."""
    import numpy as np

    for size in sizes:
        read = buffer[: size // 2]
        arm = partial(CeilingArm, figure=f"{kind}.{size}", unit="GB/s", threads=threads, working_set_bytes=size)
        if torch is None:
            numbers = read.view(np.dtype(dtype))
            rows = max(1, numbers.size // row)
            columns = min(row, numbers.size)
            matrix = numbers[: rows * columns].reshape(rows, columns)
            out = np.empty((1, rows), dtype=dtype)
            call = partial(np.matmul, np.ones((1, columns), dtype=dtype), matrix.T, out)
            yield arm(method="np.matmul", call=call, work=matrix.nbytes)
        else:
            numbers_of = getattr(torch, dtype)
            tensor = torch.from_numpy(read.view(np.int16)).view(numbers_of)
            rows = max(1, tensor.numel() // row)
            columns = min(row, tensor.numel())
            matrix = tensor[: rows * columns].view(rows, columns)
            call = partial(torch.nn.functional.linear, torch.ones(1, columns, dtype=numbers_of), matrix)
            yield arm(method="torch linear", call=call, work=rows * columns * tensor.element_size())


def _call_arms(buffer: Buffer, sizes: Sequence[int], threads: int, torch: ModuleType | None) -> Iterator[CeilingArm]:
    """Four different small calls, with warm caches and right after reading a set: nanoseconds per call."""
    import numpy as np

    if torch is None:
        x, out = np.ones(SMALL, np.float32), np.empty(SMALL, np.float32)
        a, product = np.ones((SMALL, SMALL), np.float32), np.empty((SMALL, SMALL), np.float32)

        def calls() -> None:
            np.multiply(x, x, out=out)
            np.exp(x, out=out)
            np.matmul(a, a, out=product)
            np.add.reduce(x)
    else:
        xt, at = torch.ones(SMALL), torch.ones(SMALL, SMALL)
        linear = torch.nn.functional.linear

        def calls() -> None:
            torch.mul(xt, xt)
            torch.exp(xt)
            linear(at, at)
            torch.cat((xt, xt))

    arm = partial(CeilingArm, method="four small calls", call=calls, work=4, unit="ns", threads=threads)
    yield arm(figure="call.0")
    for size in sizes:
        read = buffer[: size // 2].view(np.float32)
        yield arm(figure=f"call.{size}", before=partial(np.dot, read, read), working_set_bytes=size)


def _arithmetic_arms(threads: int, dtype: str, torch: ModuleType | None) -> Iterator[CeilingArm]:
    """Products, vectors and special functions, with operands in cache."""
    import numpy as np

    method = "np.matmul" if torch is None else "torch.mm"
    for arm in gemm_arms(threads):
        if arm.dtype == dtype and arm.method.startswith(method):
            yield CeilingArm("gemm", arm.method, arm.call, arm.work, arm.unit, threads, dtype=dtype)
    one = partial(CeilingArm, work=VECTOR_NUMBERS, unit="GFLOP/s", threads=threads)
    if torch is None:
        x = np.linspace(0.5, 1.5, VECTOR_NUMBERS).astype(dtype)
        out = np.empty_like(x)
        yield one(figure="vector", method="np.multiply", call=partial(np.multiply, x, x, out))
        yield one(figure="special", method="np.exp", call=partial(np.exp, x, out))
    else:
        xt = torch.linspace(0.5, 1.5, VECTOR_NUMBERS, dtype=getattr(torch, dtype))
        to = torch.empty_like(xt)
        yield one(figure="vector", method="torch.mul", call=partial(torch.mul, xt, xt, out=to))
        yield one(figure="special", method="torch.exp", call=partial(torch.exp, xt, out=to))
