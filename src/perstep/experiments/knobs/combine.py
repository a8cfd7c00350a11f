"""One linear model from several stored runs of one model on one machine: over all the knobs that they turned."""

from collections.abc import Sequence
from pathlib import Path

from perstep.errors import InputError
from perstep.experiments import pipeline
from perstep.experiments.knobs.latency_model import LatencyModel, fit_latency_model
from perstep.experiments.knobs.records import KnobFindings, Summary
from perstep.runs import open_run


def latency_model_of_runs(runs: Sequence[str | Path]) -> LatencyModel:
    """Fit the configurations of several runs of depth, experts, context and output together.

    Args:
        runs: their folders, or their names under `.perstep/runs`.

    Raises:
        InputError: none is given, one is of another experiment, model, batch, dtype or device, or is invalid.
    """
    if not runs:
        raise InputError("no run is given; give the folders of depth, experts, context or output runs")
    rows: list[Summary] = []
    first: tuple[object, ...] = ()
    for run in runs:
        stored = open_run(run)
        findings = pipeline.load(stored).findings
        if not isinstance(findings, KnobFindings):
            raise InputError(f"{run} is a `{stored.manifest.experiment}` run; give depth, experts, context or output")
        if findings.invalid:
            raise InputError(f"{run} is invalid: {findings.invalid}")
        workload = stored.manifest.workload
        same = (stored.manifest.model, *(workload[name] for name in ("batch", "dtype", "device", "threads")))
        if first and same != first:
            raise InputError(f"{run} is not of the same model and workload as {runs[0]}; give runs of one model")
        first = same
        rows += [s for s in findings.summary if s.samples]
    return fit_latency_model(rows)
