"""`context`: latency against input tokens: text, and images in a vision-language model.

Vision tower, prefill and decode are intervals of one call, never differences of runs. Vision tokens are counted in
what the model is given, not computed from the size of an image. Text lengths are beginnings of one prompt.
"""

from perstep.experiments.knobs.context.plan import Plan
from perstep.experiments.knobs.context.session import prepare
from perstep.experiments.knobs.context.show import content, files, summary, tables
from perstep.experiments.knobs.findings import analyse_knob as analyse
from perstep.experiments.knobs.samples import Conditions, Sample, Workload, timeline
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
