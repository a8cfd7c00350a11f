"""Clocks, the recorder of marks, rounds, replay and the ledger. Knows no model."""

from perstep.measure.active import RESIDUAL, activate, deactivate, part, step
from perstep.measure.clock import Clock, FakeClock, HostClock, processor_clock
from perstep.measure.ledger import (
    FORWARD,
    RESIDUAL_SAID,
    Ledger,
    LedgerSamples,
    Part,
    Sum,
    belongs,
    build_ledger,
    measure_mark_ns,
)
from perstep.measure.pieces import in_pieces, pieces_at_the_mean
from perstep.measure.recorder import Recorder, Steps
from perstep.measure.replay import DecodeLoop, Mark, Trace, no_mark, record_trace, replay
from perstep.measure.rounds import Effort, Progress, Resolved, WarmUp, collector_off, run_rounds, warm_up
from perstep.measure.turns import TURNS, UNMARKED, is_marked
from perstep.measure.watched import WatchedSteps, build_watched_ledger

__all__ = [
    "FORWARD",
    "RESIDUAL",
    "RESIDUAL_SAID",
    "TURNS",
    "UNMARKED",
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
    "WatchedSteps",
    "activate",
    "belongs",
    "build_ledger",
    "build_watched_ledger",
    "collector_off",
    "deactivate",
    "in_pieces",
    "is_marked",
    "measure_mark_ns",
    "no_mark",
    "part",
    "pieces_at_the_mean",
    "processor_clock",
    "record_trace",
    "replay",
    "run_rounds",
    "step",
    "warm_up",
]
