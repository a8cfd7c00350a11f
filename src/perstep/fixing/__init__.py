"""`perstep fix`: what could replace the slow parts of a script's generate calls, tried and measured.

The script runs once, watched and captured; then its calls are made again with drop-ins. `fix_calls` does that and keeps
a run; the names of an experiment are here, so that `show` and `report` work on it. It has no `prepare`: a script cannot
be run again from its options alone.
"""

from perstep.fixing.capture import Captured, Captures
from perstep.fixing.findings import FixFindings, analyse, summary
from perstep.fixing.samples import Conditions, Sample, Workload
from perstep.fixing.show import content, csv, files, lines, tables
from perstep.fixing.store import fix_calls

__all__ = [
    "Captured",
    "Captures",
    "Conditions",
    "FixFindings",
    "Sample",
    "Workload",
    "analyse",
    "content",
    "csv",
    "files",
    "fix_calls",
    "lines",
    "summary",
    "tables",
]
