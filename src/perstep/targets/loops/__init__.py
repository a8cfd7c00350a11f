"""Decode loops that are written by hand, around any module."""

from perstep.targets.loops._models import Callee
from perstep.targets.loops.by_hand import Finished, HandLoops
from perstep.targets.loops.source import source_line

__all__ = ["Callee", "Finished", "HandLoops", "source_line"]
