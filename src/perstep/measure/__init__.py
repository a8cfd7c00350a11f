"""Clocks, the recorder of laps, rounds, replay and the ledger. Knows no model."""

from perstep.measure.clock import Clock, FakeClock, HostClock
from perstep.measure.ledger import Ledger, LedgerSamples, Part, Sum, build_ledger, measure_mark_ns
from perstep.measure.recorder import RESIDUAL, Recorder, Steps
from perstep.measure.replay import DecodeLoop, Mark, Trace, no_mark, record_trace, replay
from perstep.measure.rounds import Effort, Progress, Resolved, WarmUp, collector_off, run_rounds, warm_up

__all__ = [
    "RESIDUAL",
    "Clock",
    "DecodeLoop",
    "Effort",
    "FakeClock",
    "HostClock",
    "Ledger",
    "LedgerSamples",
    "Mark",
    "Part",
    "Progress",
    "Recorder",
    "Resolved",
    "Steps",
    "Sum",
    "Trace",
    "WarmUp",
    "build_ledger",
    "collector_off",
    "measure_mark_ns",
    "no_mark",
    "record_trace",
    "replay",
    "run_rounds",
    "warm_up",
]
