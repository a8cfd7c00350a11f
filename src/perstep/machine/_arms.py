"""What is run to find a ceiling: one callable per way of doing it, with the work of one call.

Each arm names the figure it speaks for (`read.l3`), the method (`np.dot`),
what one call moves or computes, and the threads it expects. The buffers are
filled with 16-bit patterns that are ordinary numbers near 1 in every dtype
(float16, bfloat16, float32, float64), so one buffer serves them all and no
arithmetic meets a denormal or a NaN.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import numpy.typing as npt

    Buffer = npt.NDArray[np.uint16]

Unit = Literal["GB/s", "GFLOP/s", "ns"]

PATTERN_LOW, PATTERN_HIGH = (
    0x3F00,
    0x4000,
)  # float16 1.75..2, bfloat16 0.5..2, float32 0.5..2, float64 3e-5..2
LINE_BYTES = 64
BLOCK_BYTES = 8 << 20  # memory is touched for the first time in blocks, so that a deadline can be kept
TORCH_DTYPES = ("float32", "float64", "bfloat16", "float16")
NUMPY_DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class CeilingArm:
    """One way to reach for a ceiling.

    Attributes:
        figure: what it measures, such as `read.memory` or `gemm.float32`.
        method: how, such as `np.dot`.
        call: does the work once.
        work: bytes moved, floating-point operations or calls in one `call()`.
        unit: of the figure: `GB/s` and `GFLOP/s` are work over time, `ns` is time over work.
        threads: the thread count that must be in force during the call; None if it does not matter.
        level: the cache level the data stays in, `memory`, or None.
        dtype: of the numbers, or None.
        working_set_bytes: what one call goes over, or None.
        bytes_read: for a matrix-vector product, the bytes of the matrix: its
            time is also a reading speed.
        before: run before each call and not timed, or None.
    """

    figure: str
    method: str
    call: Callable[[], object]
    work: int
    unit: Unit
    threads: int | None = None
    level: str | None = None
    dtype: str | None = None
    working_set_bytes: int | None = None
    bytes_read: int | None = None
    before: Callable[[], object] | None = None

    @property
    def key(self) -> str:
        """The figure with its thread count, such as `read.memory@2`."""
        return self.figure if self.threads is None else f"{self.figure}@{self.threads}"

    @property
    def name(self) -> str:
        """A name of its own for each arm, such as `read.memory@2 np.dot`."""
        return f"{self.key} {self.method}"

    def value(self, calls: int, elapsed_ns: int) -> float:
        """The figure, in `unit`, that `calls` calls in `elapsed_ns` amount to: 1 byte/ns is 1 GB/s."""
        if self.unit == "ns":
            return elapsed_ns / (calls * self.work)
        return calls * self.work / elapsed_ns


Torch = Any
"""The module, which is not imported here; None where it is not there."""


def imported_torch() -> Torch:
    """The torch module if it is imported already, else None. It is never imported here."""
    return sys.modules.get("torch")


def filled_buffer(size_bytes: int, now: Callable[[], int], deadline_ns: int | None) -> Buffer | None:
    """A buffer of ordinary numbers, every page written; None if the deadline passed before."""
    import numpy as np

    block = np.random.default_rng(0).integers(PATTERN_LOW, PATTERN_HIGH, BLOCK_BYTES // 2, dtype=np.uint16)
    buffer = np.empty(size_bytes // 2, dtype=np.uint16)
    for start in range(0, buffer.size, block.size):
        if deadline_ns is not None and now() > deadline_ns:
            return None
        part = buffer[start : start + block.size]
        part[:] = block[: part.size]
    return buffer


def bandwidth_arms(buffer: Buffer, level: str, threads: int, pool: ThreadPoolExecutor | None) -> Iterator[CeilingArm]:
    """Reading a buffer in several ways, and copying its first half onto its second.

    With more than one thread, NumPy's single-threaded operations run on equal
    slices in a pool of Python threads; handing the slices over costs tens of
    microseconds, so that is done only beyond the caches of one core.
    """
    import numpy as np

    arm = partial(CeilingArm, unit="GB/s", threads=threads, level=level, working_set_bytes=buffer.nbytes)
    half = buffer.size // 2
    source, target = buffer[:half], buffer[half : 2 * half]
    if threads == 1 or pool is None:
        floats, ints = buffer.view(np.float32), buffer.view(np.int32)
        yield arm(f"read.{level}", "np.dot", partial(np.dot, floats, floats), buffer.nbytes)
        yield arm(f"read.{level}", "np.maximum.reduce", partial(np.maximum.reduce, ints), buffer.nbytes)
        yield arm(f"copy.{level}", "np.copyto", partial(np.copyto, target, source), 4 * half)
    else:
        slices = [part.view(np.int32) for part in _equal_slices(buffer, threads)]
        pairs = list(zip(_equal_slices(target, threads), _equal_slices(source, threads), strict=True))
        read = partial(_on_all, pool, np.maximum.reduce, [(part,) for part in slices])
        yield arm(f"read.{level}", "np.maximum.reduce on slices", read, sum(part.nbytes for part in slices))
        copied = sum(2 * to.nbytes for to, _ in pairs)
        yield arm(f"copy.{level}", "np.copyto on slices", partial(_on_all, pool, np.copyto, pairs), copied)
    torch = imported_torch()
    if torch is not None:
        to, of = (torch.from_numpy(part.view(np.int16)) for part in (target, source))
        yield arm(f"copy.{level}", "torch.Tensor.copy_", partial(to.copy_, of), 4 * half)


def _equal_slices(buffer: Buffer, count: int) -> list[Buffer]:
    size = buffer.size // count // 4 * 4  # whole 8-byte words
    return [buffer[index * size : (index + 1) * size] for index in range(count)]


def _on_all(pool: ThreadPoolExecutor, function: Callable[..., object], arguments: Sequence[tuple[object, ...]]) -> None:
    for future in [pool.submit(function, *each) for each in arguments]:
        future.result()


def gemv_arms(buffer: Buffer, level: str, threads: int) -> Iterator[CeilingArm]:
    """One matrix times one vector, as in decoding with a batch of 1: the matrix is the buffer."""
    import numpy as np

    def arm(method: str, dtype: str, call: Callable[[], object], numbers: int, size: int) -> CeilingArm:
        return CeilingArm(
            figure=f"gemv.{level}.{dtype}",
            method=method,
            call=call,
            work=2 * numbers,
            unit="GFLOP/s",
            threads=threads,
            level=level,
            dtype=dtype,
            working_set_bytes=numbers * size,
            bytes_read=numbers * size,
        )

    for dtype in NUMPY_DTYPES:
        flat = buffer.view(np.dtype(dtype))
        rows, columns = matrix_shape(flat.size)
        matrix = flat[: rows * columns].reshape(rows, columns)
        vector, out = np.ones(columns, dtype=dtype), np.empty(rows, dtype=dtype)
        call = partial(np.matmul, matrix, vector, out)
        yield arm("np.matmul", dtype, call, matrix.size, matrix.itemsize)
    torch = imported_torch()
    for dtype in TORCH_DTYPES if torch is not None else ():
        kind = getattr(torch, dtype)
        tensor = torch.from_numpy(buffer.view(np.int16)).view(kind)
        rows, columns = matrix_shape(tensor.numel())
        matrix_t = tensor[: rows * columns].view(rows, columns)
        call = partial(torch.mv, matrix_t, torch.ones(columns, dtype=kind), out=torch.empty(rows, dtype=kind))
        yield arm("torch.mv", dtype, call, rows * columns, matrix_t.element_size())


def matrix_shape(numbers: int) -> tuple[int, int]:
    """Rows and columns of a matrix of about this many numbers: columns a power of two, at most 4096."""
    columns = min(4096, 1 << max(0, (numbers.bit_length() - 1) // 2))
    return numbers // columns, columns


def gemm_arms(threads: int) -> Iterator[CeilingArm]:
    """Square matrix products, 2·n³ operations; n grows with the threads so that each has enough to do."""
    import numpy as np

    n = 512 if threads <= 4 else 1024 if threads <= 16 else 2048
    numbers_2NN = np.random.default_rng(0).random((2, n, n))
    for dtype in NUMPY_DTYPES:
        a, b = numbers_2NN.astype(dtype)
        yield _gemm_arm("np.matmul", dtype, partial(np.matmul, a, b, np.empty_like(a)), n, threads, a.itemsize)
    torch = imported_torch()
    for dtype in TORCH_DTYPES if torch is not None else ():
        kind = getattr(torch, dtype)
        at, bt = torch.from_numpy(numbers_2NN).to(kind)
        call = partial(torch.mm, at, bt, out=torch.empty_like(at))
        yield _gemm_arm("torch.mm", dtype, call, n, threads, at.element_size())


def _gemm_arm(method: str, dtype: str, call: Callable[[], object], n: int, threads: int, itemsize: int) -> CeilingArm:
    return CeilingArm(
        figure=f"gemm.{dtype}",
        method=f"{method} n={n}",
        call=call,
        work=2 * n**3,
        unit="GFLOP/s",
        threads=threads,
        dtype=dtype,
        working_set_bytes=3 * n * n * itemsize,
    )


def call_overhead_arms() -> Iterator[CeilingArm]:
    """Operations on 8 numbers or an 8 x 8 matrix: almost all of their time is the call itself."""
    import numpy as np

    x, y = np.ones(8, dtype=np.float32), np.empty(8, dtype=np.float32)
    a, b = np.ones((8, 8), dtype=np.float32), np.empty((8, 8), dtype=np.float32)
    arm = partial(CeilingArm, work=1, unit="ns", dtype="float32")
    yield arm("call_overhead.numpy.add", "np.add(x, x, out)", partial(np.add, x, x, y))
    yield arm("call_overhead.numpy.matmul", "np.matmul(a, a, out)", partial(np.matmul, a, a, b))
    torch = imported_torch()
    if torch is not None:
        xt, yt = torch.ones(8), torch.empty(8)
        at, bt = torch.ones(8, 8), torch.empty(8, 8)
        yield arm("call_overhead.torch.add", "torch.add(x, x, out=y)", partial(torch.add, xt, xt, out=yt))
        yield arm("call_overhead.torch.mm", "torch.mm(a, a, out=b)", partial(torch.mm, at, at, out=bt))
