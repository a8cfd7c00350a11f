"""`ops`: what each operator of a layer costs at several lengths, and what a cached mask could win.

Operators are timed in their places in a whole step, whose parts add up, and alone; the masks (rebuilt, cached, fused)
and parts made free are arms of the same rounds. Shares are of the step at that very length, and nothing else.
"""

from perstep.experiments.ops.findings import analyse
from perstep.experiments.ops.plan import Plan
from perstep.experiments.ops.samples import Conditions, Model, Sample, Workload, ledger_samples, timeline
from perstep.experiments.ops.session import prepare
from perstep.experiments.ops.show import content, csv, files, summary, tables

__all__ = [
    "Conditions",
    "Model",
    "Plan",
    "Sample",
    "Workload",
    "analyse",
    "content",
    "csv",
    "files",
    "ledger_samples",
    "prepare",
    "summary",
    "tables",
    "timeline",
]
