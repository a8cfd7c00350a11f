"""`experts`: latency and quality against the experts a token of a mixture-of-experts model, by implementation.

The routers' own `top_k` is changed and put back; a dense model, and a family on which it does nothing, is refused by
name. All configurations replay the tokens of the unchanged model. Host syncs are counted in calls of their own.
"""

from perstep.experiments.knobs.experts.plan import Plan
from perstep.experiments.knobs.experts.samples import Conditions
from perstep.experiments.knobs.experts.session import prepare
from perstep.experiments.knobs.experts.show import content, files, summary, tables
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
