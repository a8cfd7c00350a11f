"""`cache`: what a decode step costs against the length of its context, with a KV cache and without one.

Every context is prefilled once; then single decode steps are timed, the cursor put back after each, so that the context
does not move. All points are visited in every round, in a drawn order and its reverse, with the ceilings of the machine
among them, so that drift does not become a slope. Bytes come from shapes and are checked against the live buffers (law
"bytes come from shapes"). A point that the budget cannot hold is left out and listed, never extrapolated.
"""

from perstep.experiments.cache.findings import CacheFindings, analyse
from perstep.experiments.cache.plan import Plan
from perstep.experiments.cache.samples import Conditions, Sample, Workload, timeline
from perstep.experiments.cache.session import prepare
from perstep.experiments.cache.show import content, csv, files, summary, tables

__all__ = [
    "CacheFindings",
    "Conditions",
    "Plan",
    "Sample",
    "Workload",
    "analyse",
    "content",
    "csv",
    "files",
    "prepare",
    "summary",
    "tables",
    "timeline",
]
