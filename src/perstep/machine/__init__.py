"""This machine: what it is, what disturbs it, what it can do at most. Knows no model and no run."""

from perstep.machine.describe import Machine, describe, identity
from perstep.machine.noise import Noise, NoiseProbe, NoiseSummary, is_hit, summarise_noise
from perstep.machine.warnings import warnings_for

__all__ = [
    "Machine",
    "Noise",
    "NoiseProbe",
    "NoiseSummary",
    "describe",
    "identity",
    "is_hit",
    "summarise_noise",
    "warnings_for",
]
