"""`watch`: what each part of a step costs in somebody's own generate calls, which run once and unchanged."""

from perstep.watching.findings import SiteFindings, WatchFindings, analyse
from perstep.watching.pairs import paired, timeline
from perstep.watching.samples import Conditions, Sample, Workload
from perstep.watching.show import content, csv, files, summary, tables

__all__ = [
    "Conditions",
    "Sample",
    "SiteFindings",
    "WatchFindings",
    "Workload",
    "analyse",
    "content",
    "csv",
    "files",
    "paired",
    "summary",
    "tables",
    "timeline",
]
