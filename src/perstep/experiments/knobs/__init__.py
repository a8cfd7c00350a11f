"""What the four knob experiments (depth, experts, context, output) share: options, passes, rounds, results."""

from perstep.experiments.knobs.combine import latency_model_of_runs
from perstep.experiments.knobs.latency_model import LatencyModel, fit_latency_model
from perstep.experiments.knobs.options import KnobOptions, NewTokens, PromptOptions
from perstep.experiments.knobs.passes import Pass, Runner, Sample, Work, open_runner, record_all
from perstep.experiments.knobs.records import Configuration, KnobFindings
from perstep.experiments.knobs.results import analyse_knob
from perstep.experiments.knobs.session import Arm, KnobSession

__all__ = [
    "Arm",
    "Configuration",
    "KnobFindings",
    "KnobOptions",
    "KnobSession",
    "LatencyModel",
    "NewTokens",
    "Pass",
    "PromptOptions",
    "Runner",
    "Sample",
    "Work",
    "analyse_knob",
    "fit_latency_model",
    "latency_model_of_runs",
    "open_runner",
    "record_all",
]
