"""Decode loops that are written by hand, around any module."""

from perstep.targets.loops._models import Callee
from perstep.targets.loops.by_hand import Finished, HandLoops

__all__ = ["Callee", "Finished", "HandLoops"]
