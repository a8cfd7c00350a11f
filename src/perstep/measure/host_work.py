"""What the host did in each part of each step of a trace: its time, and the operators in it.

The time of a part is that of the step's own thread, and exclusive: an instant belongs to the innermost range that holds
it. So parts + residual = step, exactly, in whole nanoseconds (law "parts add up"). Of nested operators the innermost
counts too. A pure function of a trace's rows; knows no model.
"""

from bisect import bisect_right
from collections.abc import Sequence

from perstep.measure.active import RESIDUAL
from perstep.measure.device_rows import Innermost, Row
from perstep.measure.device_work import KernelSum, StepWork


def host_work(steps: Sequence[tuple[str, int, int]], parts: Sequence[Row], ops: Sequence[Row]) -> list[StepWork]:
    """The host's time by step and part.

    Args:
        steps: (kind, start, end) in nanoseconds, in their order, none of which overlap.
        parts: the ranges of the steps' thread, by the names of their parts.
        ops: the operators of that thread.

    Returns:
        One for each step. In place of a device's work a part has as `busy_ns` the host's time, as `sum_ns` the time in
        operators, as `launches` the number of operators that begin in it, and as `kernels` operators by name, each
        with its own time.
    """
    inner = Innermost([(row.name, row.start_ns, row.end_ns) for row in parts])
    operators = Innermost([(row.name, row.start_ns, row.end_ns) for row in ops])
    work = [StepWork(kind) for kind, _, _ in steps]
    for step, (_, start, end) in zip(work, steps, strict=True):
        for name, begins, ends in inner.pieces(start, end):
            part = step.part(name or RESIDUAL)
            part.busy_ns += ends - begins
            for operator, at, until in operators.pieces(begins, ends):
                if operator is not None:
                    part.sum_ns += until - at
                    part.kernels.setdefault(operator, KernelSum()).total_ns += until - at
    starts = [start for _, start, _ in steps]
    for row in ops:
        index = bisect_right(starts, row.start_ns) - 1
        if index >= 0 and row.start_ns < steps[index][2]:
            part = work[index].part(inner.at(row.start_ns) or RESIDUAL)
            part.launches += 1
            part.kernels.setdefault(row.name, KernelSum()).count += 1
    return work
