"""A device that this process uses: waiting for it, and how long its kernels run in a call.

Only a device that is in use already counts: nothing here brings one up.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perstep.experiments.device.waiting import Wait
from perstep.measure.device_work import attribute

if TYPE_CHECKING:
    from perstep.targets.transformers.device_profile import Profiler

PROFILED_CALLS = 5
"""Kernels take what they take, so that few calls tell."""


@dataclass(frozen=True)
class InUse:
    """A device in use.

    Attributes:
        name: as its maker has it.
        wait: returns once it has done what was queued before.
        profiler: sees its kernels.
    """

    name: str
    wait: Wait
    profiler: "Profiler"

    def busy_ns(self, call: Callable[[], object]) -> float:
        """How long kernels run in a call, the mean of a few profiled ones; an instant of several counts once.

        Args:
            call: warm.
        """

        def calls() -> None:
            for _ in range(PROFILED_CALLS):
                call()

        rows = self.profiler.rows(calls)
        begins, ends = (f([row.start_ns for row in rows], default=0) for f in (min, max))
        return attribute(rows, steps=[("calls", begins, ends + 1)]).steps[0].busy_ns / PROFILED_CALLS


def device_in_use() -> InUse | None:
    """The device that torch uses in this process; None where it uses none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    from perstep.targets.transformers.device_profile import KinetoProfiler

    return InUse(str(torch.cuda.get_device_name()), torch.cuda.synchronize, KinetoProfiler("cuda"))
