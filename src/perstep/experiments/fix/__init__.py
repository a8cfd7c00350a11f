"""`perstep fix`: what could replace the slow parts of a script's generate calls, tried and measured."""

from perstep.experiments.fix.capture import Captured, Captures
from perstep.experiments.fix.measure import Fix, FixFindings, Tried, find_fixes
from perstep.experiments.fix.patch import Edit, diff
from perstep.experiments.fix.show import lines, tables

__all__ = ["Captured", "Captures", "Edit", "Fix", "FixFindings", "Tried", "diff", "find_fixes", "lines", "tables"]
