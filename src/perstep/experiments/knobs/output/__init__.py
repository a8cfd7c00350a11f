"""`output`: latency against generated tokens, keyed by what was generated, not by what was asked for.

N tokens are one prefill and N - 1 decode forwards (law "divide by executed forwards"). Dividing decode time by N makes
it look as if each token became dearer with N: the factor (N - 1) / N, nothing else. Both columns stand side by side.
What a forward really costs more at later positions is read off the longest call, position by position.
"""

from perstep.experiments.knobs.findings import analyse_knob as analyse
from perstep.experiments.knobs.output.plan import Plan
from perstep.experiments.knobs.output.session import prepare
from perstep.experiments.knobs.output.show import content, files, summary, tables
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
