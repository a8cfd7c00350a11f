"""`compare`: which of several callables, commands or builds is faster, and by how much.

The arms take turns in balanced rounds on one machine at one time; the change is the median of paired
log-ratios with an exact interval, the verdict is read off that interval (docs/statistics.md).

Commands and functions in other interpreters get new processes in every round: two processes of one
program differ (address layout, hash seed, page placement), and one pair of them, however long it runs,
cannot tell. Wall time gives no verdict where most rounds waited for a processor; the change of
processor time then stands beside it, as such.
"""

from perstep.experiments.compare.api import Comparison, compare
from perstep.experiments.compare.findings import ArmResult, CompareFindings, analyse
from perstep.experiments.compare.plan import Plan
from perstep.experiments.compare.samples import Conditions, Sample, Workload
from perstep.experiments.compare.session import CompareSession, prepare
from perstep.experiments.compare.show import content, csv, files, summary, tables

__all__ = [
    "ArmResult",
    "CompareFindings",
    "CompareSession",
    "Comparison",
    "Conditions",
    "Plan",
    "Sample",
    "Workload",
    "analyse",
    "compare",
    "content",
    "csv",
    "files",
    "prepare",
    "summary",
    "tables",
]
