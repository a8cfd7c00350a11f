"""Ceilings at chosen set sizes, measured a round at a time beside what they judge.

A virtual machine may report an L3 of 480 MiB of which it has a sliver, so no level is believed: bandwidth is measured
at the very sizes that matter (a working set, a layer, a whole step's footprint), and a set takes the figure of the
nearest size. Likewise the cost of a library call: hot, and right after that many bytes were read. Each ceiling has an
interval, from its median over rounds to its best round; bounds use the latter. `measure_ceilings` in `ceilings.py` has
the figures of named levels, which are kept between runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

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

LEAST_NS = 100_000  # a timing lasts at least so long
MOST_BYTES = 1 << 30  # sets beyond this are as far away as any
NEAREST_BYTES = 256 << 10
"""The smallest set: reading less takes about as long as the call."""
VECTOR_NUMBERS = 1 << 16  # three arrays of 256 KiB stay in L2
SMALL = 8  # numbers in a call whose work is nothing
WIDE_ROW = 1024  # numbers; rows as short as those of a small model are read more slowly, longer ones no faster
LEAST_QUIET = 3  # rounds without others on the processor, for a best round to be the machine's


@dataclass(frozen=True)
class LadderFigures:
    """What a ladder found: the medians over rounds, or the best rounds.

    Attributes:
        read_gb_s: set size in bytes -> GB/s (10^9 bytes) of multiplying it with a vector, in rising order.
        call_ns: bytes that were read just before (0: none) -> ns of one small library call.
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
class LadderCeilings:
    """Ceilings with their intervals, and whether they were taken in peace.

    Attributes:
        typical: medians over rounds, of reading as the model reads.
        best: the best round of each, of reading in the faster way: nothing was seen to be faster.
        rounds: of the run, in each of which all were timed at least once.
        quiet_rounds: those in which the processor was not taken away.
    """

    typical: LadderFigures
    best: LadderFigures
    rounds: int
    quiet_rounds: int

    def why_no_bounds(self) -> str:
        """Why the best rounds bound nothing; empty if they do."""
        if self.rounds < LEAST_QUIET:
            return f"not judged: ceilings need {LEAST_QUIET} rounds for an interval, and there are {self.rounds}"
        return self._disturbed() if self.quiet_rounds < LEAST_QUIET else ""

    def why_no_medians(self) -> str:
        """Why nothing may be predicted from the medians, or empty."""
        return self.why_no_bounds() or (self._disturbed() if 2 * self.quiet_rounds <= self.rounds else "")

    def _disturbed(self) -> str:
        taken = self.rounds - self.quiet_rounds
        return f"ceilings disturbed; not judged: the processor was taken away in {taken} of {self.rounds} rounds"


class Ladder:
    """The arms, each with the number of calls that one timing takes.

    Args:
        sizes: set sizes in bytes; those above 1 GiB, or a quarter of the free memory, count as that; 256 KiB is
            added as the nearest.
        call_up_to: calls are timed after sets up to this size, and the next; after all of them if None.
        library: whose calls and products are timed: `numpy` (float32 and float64), or `torch`, which must have
            been imported.
        dtype: of the numbers.
        row: how long the rows of the matrices are: a model's hidden size.
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
            raise InputError(f"set sizes are {list(sizes)}; give one or more, above 0 bytes")
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
        """Time every arm once, in an order that turns from call to call: arm name -> its figure."""
        found = {}
        for one in round_order(self._timed, self._count):
            with self._setter(one.arm.threads):
                elapsed_ns = time_calls(one.arm, one.calls, self._now)
            if elapsed_ns > 0:
                found[one.arm.name] = one.arm.value(one.calls, elapsed_ns)
        self._count += 1
        return found


def ladder_ceilings(rounds: Sequence[Mapping[str, float]], noises: Sequence[Noise]) -> LadderCeilings | None:
    """Ceilings from rounds: a pure function; None where a figure is missing.

    Args:
        rounds: what each call of `Ladder.measure` returned.
        noises: of the run's rounds, each of which holds one call or several.
    """
    typical, best = ladder_figures(rounds), ladder_figures(rounds, best=True)
    if typical is None or best is None:
        return None
    return LadderCeilings(typical, best, len(noises), sum(not was_taken(noise) for noise in noises))


def ladder_figures(rounds: Sequence[Mapping[str, float]], *, best: bool = False) -> LadderFigures | None:
    """What rounds of `Ladder.measure` say: a pure function; None where a figure is missing.

    Args:
        rounds: what each call returned.
        best: the best round of each figure, in place of the median; of the two ways of reading a set the faster.
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
    return LadderFigures(read, call, gemm, vector, special, len(rounds))


def _size_of(figure: str) -> int:
    size = figure.partition(".")[2]
    return int(size) if size else -1


def _read_arms(
    kind: str, buffer: Buffer, sizes: Sequence[int], row: int, threads: int, dtype: str, torch: Any
) -> Iterator[CeilingArm]:
    """The first `size` bytes as a matrix with rows of `row` numbers times a vector, as decoding goes over weights."""
    import numpy as np

    for size in sizes:
        held = buffer[: size // 2]
        arm = partial(CeilingArm, figure=f"{kind}.{size}", unit="GB/s", threads=threads, working_set_bytes=size)
        if torch is None:
            numbers = held.view(np.dtype(dtype))
            rows = max(1, numbers.size // row)
            columns = min(row, numbers.size)
            matrix = numbers[: rows * columns].reshape(rows, columns)
            out = np.empty((1, rows), dtype=dtype)
            call = partial(np.matmul, np.ones((1, columns), dtype=dtype), matrix.T, out)
            yield arm(method="np.matmul", call=call, work=matrix.nbytes)
        else:
            numbers_of = getattr(torch, dtype)
            tensor = torch.from_numpy(held.view(np.int16)).view(numbers_of)
            rows = max(1, tensor.numel() // row)
            columns = min(row, tensor.numel())
            matrix = tensor[: rows * columns].view(rows, columns)
            call = partial(torch.nn.functional.linear, torch.ones(1, columns, dtype=numbers_of), matrix)
            yield arm(method="torch linear", call=call, work=rows * columns * tensor.element_size())


def _call_arms(buffer: Buffer, sizes: Sequence[int], threads: int, torch: Any) -> Iterator[CeilingArm]:
    """Four different small calls, hot and right after reading a set: per call, nanoseconds."""
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
        held = buffer[: size // 2].view(np.float32)
        yield arm(figure=f"call.{size}", before=partial(np.dot, held, held), working_set_bytes=size)


def _arithmetic_arms(threads: int, dtype: str, torch: Any) -> Iterator[CeilingArm]:
    """Products, vectors and special functions, each where its operands are near."""
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
