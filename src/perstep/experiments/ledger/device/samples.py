"""The samples of profiled steps: what the device did in them, as columns, a round at a time. Pure data."""

from collections.abc import Sequence

import msgspec
import numpy as np

from perstep.measure.device_work import StepWork, TraceCounts, TraceWork
from perstep.runs import Column


class WorkColumns(msgspec.Struct, omit_defaults=True, eq=False):
    """The profiled steps of one kind in one round; one number a step, nanoseconds but for `launches`.

    Attributes:
        busy_ns: part -> instants on which its kernels ran, and none that had started before.
        sum_ns: part -> its kernels' own durations.
        launches: part -> calls of the host that put work on the device.
        replayed_ns: part -> what lies in graph replays that could not be split, over all steps.
        kernels: part -> kernel -> how many and how long together, over all steps.
    """

    busy_ns: dict[str, Column]
    sum_ns: dict[str, Column]
    launches: dict[str, Column]
    replayed_ns: dict[str, int] = {}
    kernels: dict[str, dict[str, tuple[int, int]]] = {}

    @property
    def steps(self) -> int:
        """How many steps were profiled."""
        return max((len(column) for column in self.busy_ns.values()), default=0)


class ProfiledRound(TraceCounts, omit_defaults=True):
    """The profiled steps of one round, and what of the trace could not be attributed.

    Attributes:
        kinds: kind of step -> its profiled steps.
        differing_choices: choices that were not those of the replayed trace.
    """

    kinds: dict[str, WorkColumns]
    differing_choices: int = 0


def profiled_round(work: TraceWork, differing: int = 0) -> ProfiledRound:
    """What is kept of a trace.

    Args:
        work: of its steps.
        differing: choices that were not those of the replayed trace.
    """
    kinds: dict[str, list[StepWork]] = {}
    for step in work.steps:
        kinds.setdefault(step.kind, []).append(step)
    return ProfiledRound(
        kinds={kind: _columns(steps) for kind, steps in kinds.items()},
        differing_choices=differing,
        **msgspec.structs.asdict(work.counts),
    )


def _columns(steps: Sequence[StepWork]) -> WorkColumns:
    names = dict.fromkeys(name for step in steps for name in step.parts)
    kernels: dict[str, dict[str, tuple[int, int]]] = {}
    for step in steps:
        for name, part in step.parts.items():
            sums = kernels.setdefault(name, {})
            for kernel, each in part.kernels.items():
                count, total = sums.get(kernel, (0, 0))
                sums[kernel] = (count + each.count, total + each.total_ns)
    replayed = {name: sum(s.parts[name].replayed_ns for s in steps if name in s.parts) for name in names}

    def column(field: str) -> dict[str, Column]:
        return {
            name: np.array([getattr(s.parts[name], field) if name in s.parts else 0 for s in steps], np.int64)
            for name in names
        }

    return WorkColumns(
        busy_ns=column("busy_ns"),
        sum_ns=column("sum_ns"),
        launches=column("launches"),
        replayed_ns={name: ns for name, ns in replayed.items() if ns},
        kernels=kernels,
    )
