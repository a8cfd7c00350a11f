"""`mask`: what a JSON-schema mask costs a decode step, by engine, vocabulary, batch and complexity of the schema.

Arms replay one trace of valid texts through the reference decoder with a head as wide as the vocabulary: no mask, the
naive walk, token tables, and the engines people use. Finding a mask and applying it are different parts (law "building
and applying are different parts").
"""

from perstep.experiments.mask.findings import MaskFindings, analyse
from perstep.experiments.mask.plan import Plan
from perstep.experiments.mask.samples import Conditions, Sample, Workload
from perstep.experiments.mask.session import MaskSession, prepare
from perstep.experiments.mask.show import content, csv, files, summary, tables

__all__ = [
    "Conditions",
    "MaskFindings",
    "MaskSession",
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
