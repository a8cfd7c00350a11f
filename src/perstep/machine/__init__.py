"""This machine: what it is, what disturbs it, and how fast it can be at best.

Knows no model and no run. Importing it imports neither NumPy nor torch, SciPy
or psutil; the functions that need them import them.
"""

from perstep.machine._arms import CeilingArm
from perstep.machine._host import load_average
from perstep.machine.between_runs import BetweenRunNoise, load_between_run_noise, save_between_run_noise
from perstep.machine.busy import BusyProcess, busy_processes
from perstep.machine.ceilings import Ceiling, Ceilings, ceiling_arms, measure_ceilings
from perstep.machine.describe import Machine, describe, identity
from perstep.machine.ladder import (
    NEAREST_BYTES,
    Ladder,
    LadderCeilings,
    LadderFigures,
    ladder_ceilings,
    ladder_figures,
)
from perstep.machine.noise import (
    Noise,
    NoiseLimits,
    NoiseProbe,
    NoiseSummary,
    QuietProbe,
    busy_reason,
    is_hit,
    summarise_noise,
    waited_share,
)
from perstep.machine.store import LoadedCeilings, SavedCeilings, load_ceilings, save_ceilings
from perstep.machine.warnings import noise_warnings, warnings_for

__all__ = [
    "NEAREST_BYTES",
    "BetweenRunNoise",
    "BusyProcess",
    "Ceiling",
    "CeilingArm",
    "Ceilings",
    "Ladder",
    "LadderCeilings",
    "LadderFigures",
    "LoadedCeilings",
    "Machine",
    "Noise",
    "NoiseLimits",
    "NoiseProbe",
    "NoiseSummary",
    "QuietProbe",
    "SavedCeilings",
    "busy_processes",
    "busy_reason",
    "ceiling_arms",
    "describe",
    "identity",
    "is_hit",
    "ladder_ceilings",
    "ladder_figures",
    "load_average",
    "load_between_run_noise",
    "load_ceilings",
    "measure_ceilings",
    "noise_warnings",
    "save_between_run_noise",
    "save_ceilings",
    "summarise_noise",
    "waited_share",
    "warnings_for",
]
