"""`depth`: latency and quality against the decoder blocks that run, the others skipped in place.

Configurations are sets of active blocks. All replay the full model's tokens in balanced rounds; a skipped block that
ran makes the run invalid. Quality stands beside latency, so that the fastest configuration is not taken for the best.
"""

from perstep.experiments.knobs.depth.plan import Plan
from perstep.experiments.knobs.depth.samples import Conditions
from perstep.experiments.knobs.depth.session import prepare
from perstep.experiments.knobs.depth.show import content, files, summary, tables
from perstep.experiments.knobs.findings import analyse_knob as analyse
from perstep.experiments.knobs.samples import Sample, Workload, timeline
from perstep.experiments.knobs.show import summary_csv as csv

__all__ = [
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
