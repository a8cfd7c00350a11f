"""A device that is not there: kernels beside operators that torch's own profiler saw on the host, and its ceilings."""

from collections.abc import Callable, Collection
from typing import Any

from perstep.machine.device_ceilings import DeviceCeilings, DeviceFigure
from perstep.measure.device_rows import Row

KERNEL_NS = 1_000
"""Each kernel, unless a test says otherwise."""
LAG_NS = 5_000
"""A kernel begins so long after its operator at the earliest, and after the kernel before it."""


class MadeUpKernels:
    """torch's own profiler on the host, with a launch and a kernel for each operator of a few kinds that it saw.

    Args:
        launching: operators that launch a kernel, such as `aten::mm`.
        kernel_ns: what the kernel of an operator takes, 1 µs by default.
    """

    def __init__(
        self, launching: Collection[str], kernel_ns: Callable[[str], int] = lambda _operator: KERNEL_NS
    ) -> None:
        from perstep.targets.transformers.device_profile import KinetoProfiler

        self._host, self.launching, self._kernel_ns = KinetoProfiler("cpu"), launching, kernel_ns

    def rows(self, call: Callable[[], None]) -> list[Row]:
        """As torch's profiler gives them on a device."""
        rows, free_ns = self._host.rows(call), 0
        for number, row in enumerate([each for each in rows if each.name in self.launching], start=1):
            launch = row._replace(name="cudaLaunchKernel", duration_ns=1, correlation=10_000_000 + number)
            ns, begin_ns = self._kernel_ns(row.name), max(row.start_ns + LAG_NS, free_ns)
            free_ns = begin_ns + ns
            name = f"kernel_{row.name.removeprefix('aten::')}"
            kernel = Row(name, "DeviceType.CUDA", begin_ns, ns, launch.correlation, row.correlation, 0, 7)
            rows += [launch, kernel]
        return rows


def made_up_ceilings(*_args: Any, **_options: Any) -> DeviceCeilings:
    """1,000 GB/s, 1,000 TFLOP/s, and no kernel under 400 ns."""
    product = DeviceFigure(value=2e9, best=1e9, worst=3e9, repeats=7, rows=1, bytes_moved=10**12, flops=10**15)
    smallest = DeviceFigure(value=800.0, best=400.0, worst=1200.0, repeats=7)
    figures = {"product.1.1": product, "kernel.elementwise": smallest}
    return DeviceCeilings(device="made up", dtype="float32", width=16, figures=figures)


def profiled_on_the_cpu(monkeypatch: Any, profiler: object) -> None:
    """Let models on the cpu be measured as those on a device are.

    Args:
        monkeypatch: pytest's.
        profiler: sees what their device does.
    """
    monkeypatch.setattr("perstep.targets.transformers.target.device_of", lambda _model: object())
    monkeypatch.setattr("perstep.targets.transformers.target.KinetoProfiler", lambda _device: profiler)
