"""What the four knob experiments (depth, experts, context, output) share: options, passes, rounds, results."""

from perstep.experiments.knobs.combine import latency_model_of_runs
from perstep.experiments.knobs.findings import KnobFindings, analyse_knob
from perstep.experiments.knobs.latency_model import LatencyModel, fit_latency_model
from perstep.experiments.knobs.models import prepare_models
from perstep.experiments.knobs.options import KnobOptions, NewTokens, OpenNewTokens, PromptOptions
from perstep.experiments.knobs.samples import Configuration, Pass, Sample
from perstep.experiments.knobs.session import Arm, KnobSession, Subject, record_all, with_quality
from perstep.experiments.knobs.show import Drawing, headlines, parts, picture, readme, tables_of

__all__ = [
    "Arm",
    "Configuration",
    "Drawing",
    "KnobFindings",
    "KnobOptions",
    "KnobSession",
    "LatencyModel",
    "NewTokens",
    "OpenNewTokens",
    "Pass",
    "PromptOptions",
    "Sample",
    "Subject",
    "analyse_knob",
    "fit_latency_model",
    "headlines",
    "latency_model_of_runs",
    "parts",
    "picture",
    "prepare_models",
    "readme",
    "record_all",
    "tables_of",
    "with_quality",
]
