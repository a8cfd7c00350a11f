"""`generate`: what logits processors and stopping criteria cost in `generate()`, by taking them away.

All cells (with all of them, without each, without any) replay one trace in balanced rounds; beside them the same
parts are timed in place. With a compiler, cold and warm stand side by side. `ablation/` measures and analyses.
"""

from perstep.experiments.ablation.findings import AblationFindings
from perstep.experiments.ablation.samples import Sample
from perstep.experiments.ablation.show import csv
from perstep.experiments.generate.findings import analyse
from perstep.experiments.generate.plan import Plan
from perstep.experiments.generate.samples import Conditions, Workload
from perstep.experiments.generate.session import prepare
from perstep.experiments.generate.show import content, files, summary, tables

__all__ = [
    "AblationFindings",
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
]
