"""Runs the arms of `machine.device_ceilings` on a CUDA device: kernels under the profiler, the rest by the clock.

All arms run in one session of the profiler, in rounds over all of them, each under a range of its own; an arm's time is
that of the kernels launched in its range. A device that has rested runs slowly for some milliseconds, so products are
run first.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from perstep.machine.device_ceilings import DeviceArm
from perstep.measure.device_rows import RANGE_PREFIX, STEP_PREFIX
from perstep.measure.device_work import attribute
from perstep.targets.transformers.device_profile import KinetoProfiler, OpenRange, Profiler

if TYPE_CHECKING:
    import torch

Call = Callable[[], object]

WARM_S = 0.3
"""A device is kept busy for so long before anything is timed."""
HOST_CALLS = 200
HOST_ROUNDS = 5
GRAPH_NODES = 200
_SMALL = 2048
"""Numbers of the smallest kernels."""


class CudaLab:
    """The current CUDA device.

    Args:
        dtype: of the products, as torch spells it.
        width: inputs of each product.
        device: as torch spells it.
        profiler: takes the rows.
    """

    def __init__(
        self, dtype: str, width: int, *, device: str = "cuda", profiler: Profiler | None = None, warm_s: float = WARM_S
    ) -> None:
        import torch

        self._torch, self._device, self._width = torch, device, width
        self._dtype = getattr(torch, dtype)
        self._profiler = profiler or KinetoProfiler(device)
        self._warm_s = warm_s
        self._buffer = torch.empty(0)

    def kernels_ns(self, arms: Sequence[DeviceArm], rounds: int) -> dict[str, list[int]]:
        """Each arm's kernel time in each round."""
        largest = max((arm.bytes_moved for arm in arms), default=0)
        self._buffer = self._torch.ones(max(largest, 1 << 20) // 2, dtype=self._torch.bfloat16, device=self._device)
        try:
            calls = self._working(arms)
            self._warm_up(calls)
            return self._profiled(calls, rounds)
        finally:
            self._buffer = self._torch.empty(0)
            if self._torch.device(self._device).type == "cuda":
                self._torch.cuda.empty_cache()  # gigabytes, which the model may need

    def host_ns(self, figure: str) -> list[float]:
        """What a launch, a graph's node, a sync or an event costs, in nanoseconds."""
        if self._torch.device(self._device).type != "cuda":
            return []
        with self._torch.cuda.device(self._device):
            return self._host_ns(figure)

    def _host_ns(self, figure: str) -> list[float]:
        x = self._torch.ones(_SMALL, device=self._device)
        if figure == "graph_node":
            return self._graph_node_ns(x)
        event, scalar = self._torch.cuda.Event(enable_timing=True), x[0]
        call: Call = {
            "launch": lambda: x.add_(1), "sync": scalar.item, "event": event.record,
        }[figure]  # fmt: skip
        call()
        return [self._host_round(call) for _ in range(HOST_ROUNDS)]

    def _host_round(self, call: Call) -> float:
        self._torch.cuda.synchronize()
        begin = time.perf_counter_ns()
        for _ in range(HOST_CALLS):
            call()
        elapsed = time.perf_counter_ns() - begin
        self._torch.cuda.synchronize()
        return elapsed / HOST_CALLS

    def _graph_node_ns(self, x: "torch.Tensor") -> list[float]:
        cuda = self._torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            x.add_(1)
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            for _ in range(GRAPH_NODES):
                x.add_(1)
        taken = []
        for _ in range(HOST_ROUNDS + 1):
            begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            taken.append(begin.elapsed_time(end) * 1e6 / GRAPH_NODES)
        return taken[1:]  # the first replay uploads the graph

    def _working(self, arms: Sequence[DeviceArm]) -> dict[str, Call]:
        """The arms that run here, each called once."""
        calls = {}
        for arm in arms:
            try:
                call = self._call(arm)
                call()
            except (RuntimeError, NotImplementedError):
                continue  # named as left out by who asked for it
            calls[arm.figure] = call
        return calls

    def _warm_up(self, calls: dict[str, Call]) -> None:
        until = time.monotonic() + self._warm_s
        while calls and time.monotonic() < until:
            for call in calls.values():
                call()
            if self._torch.device(self._device).type == "cuda":  # else the queue would hold seconds of work
                self._torch.cuda.synchronize(self._device)

    def _profiled(self, calls: dict[str, Call], rounds: int) -> dict[str, list[int]]:
        open_range = self._open_range()

        def run() -> None:
            for _ in range(rounds):
                with open_range(STEP_PREFIX + "ceilings"):
                    for figure, call in calls.items():
                        if figure.startswith("read."):
                            call()  # brings the set as near as it gets; unattributed
                        with open_range(RANGE_PREFIX + figure):
                            call()

        work = attribute(self._profiler.rows(run))
        return {figure: [step.parts[figure].busy_ns for step in work.steps if figure in step.parts] for figure in calls}

    def _open_range(self) -> OpenRange:
        open_range: OpenRange = self._torch.profiler.record_function
        return open_range

    def _call(self, arm: DeviceArm) -> Call:
        word, _, rest = arm.figure.partition(".")
        if word == "kernel":
            return self._smallest(rest)
        if word == "copy":
            half = arm.bytes_moved // 4  # numbers of two bytes; each byte moves twice
            source, target = self._buffer[:half], self._buffer[half : 2 * half]
            return lambda: target.copy_(source)
        itemsize = self._dtype.itemsize
        numbers = self._buffer.view(self._torch.uint8)
        size = arm.bytes_moved // (self._width * itemsize) * self._width * itemsize
        rows = self._torch.ones(max(arm.rows, 1), self._width, dtype=self._dtype, device=self._device)
        linear = self._torch.nn.functional.linear
        slices = 1 if word == "read" else max(1, numbers.numel() // max(size, 1))
        turn = iter(range(1 << 62))

        def product() -> "torch.Tensor":
            start = next(turn) % slices * size
            return linear(rows, numbers[start : start + size].view(self._dtype).view(-1, self._width))

        return product

    def _smallest(self, kind: str) -> Call:
        """A kernel of a kind with next to no work."""
        torch = self._torch
        x = torch.ones(1, _SMALL, dtype=self._dtype, device=self._device)
        wide = x.float()
        index = torch.zeros(1, dtype=torch.long, device=self._device)
        square = torch.ones(64, 64, dtype=self._dtype, device=self._device)
        heads = torch.ones(1, 1, 1, 64, dtype=self._dtype, device=self._device)
        row = square[:1]
        functional = torch.nn.functional
        calls: dict[str, Call] = {
            "elementwise": lambda: x * x,
            "cast": lambda: wide.to(self._dtype),
            "reduce": lambda: wide.mean(-1),
            "concatenate": lambda: torch.cat((x, x), -1),
            "gather": lambda: functional.embedding(index, square),
            "product": lambda: functional.linear(row, square),
            "attention": lambda: functional.scaled_dot_product_attention(heads, heads, heads),
        }
        return calls[kind]
