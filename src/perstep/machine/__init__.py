"""This machine: what it is, what disturbs it, and how fast it can be at best.

Knows no model and no run. Importing it imports neither NumPy nor torch, SciPy
or psutil; the functions that need them import them.
"""

from perstep.machine._arms import CeilingArm
from perstep.machine._host import load_average
from perstep.machine.between_runs import BetweenRunNoise, load_between_run_noise, save_between_run_noise
from perstep.machine.busy import BusyProcess, busy_processes
from perstep.machine.ceiling_sweep import (
    NEAREST_BYTES,
    CeilingSweep,
    SweepCeilings,
    SweepFigures,
    sweep_ceilings,
    sweep_figures,
)
from perstep.machine.ceilings import Ceiling, Ceilings, ceiling_arms, measure_ceilings
from perstep.machine.describe import Machine, describe, identity
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
    "CeilingSweep",
    "Ceilings",
    "LoadedCeilings",
    "Machine",
    "Noise",
    "NoiseLimits",
    "NoiseProbe",
    "NoiseSummary",
    "QuietProbe",
    "SavedCeilings",
    "SweepCeilings",
    "SweepFigures",
    "busy_processes",
    "busy_reason",
    "ceiling_arms",
    "describe",
    "identity",
    "is_hit",
    "load_average",
    "load_between_run_noise",
    "load_ceilings",
    "measure_ceilings",
    "noise_warnings",
    "save_between_run_noise",
    "save_ceilings",
    "summarise_noise",
    "sweep_ceilings",
    "sweep_figures",
    "waited_share",
    "warnings_for",
]
