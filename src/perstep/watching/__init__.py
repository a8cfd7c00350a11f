"""`watch`: what each part of a step costs in somebody's own generate calls, which run once and unchanged."""

from perstep.watching.findings import SiteFindings, WatchFindings, analyse
from perstep.watching.samples import Sample
from perstep.watching.show import csv, files, summary, tables

__all__ = ["Sample", "SiteFindings", "WatchFindings", "analyse", "csv", "files", "summary", "tables"]
