"""One linear model from several stored runs of one model on one machine: over all the knobs that they turned."""

from collections.abc import Sequence
from pathlib import Path

from perstep.errors import InputError
from perstep.experiments import pipeline
from perstep.experiments.conditions import typed
from perstep.experiments.knobs.findings import KnobFindings, Summary
from perstep.experiments.knobs.latency_model import LatencyModel, fit_latency_model
from perstep.experiments.knobs.samples import Workload
from perstep.experiments.knobs.show import Part, parts
from perstep.runs import open_run


def latency_model_of_runs(runs: Sequence[str | Path], model: str | None = None) -> LatencyModel:
    """Fit the configurations of several runs of depth, experts, context and output together.

    Args:
        runs: their folders, or their names under `.perstep/runs`.
        model: the name of one, where a run is of several.

    Raises:
        InputError: none is given, one is of another experiment, model, batch, dtype or device, is invalid, or is of
            several models of which none is named.
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
        manifest, findings = _one(str(run), parts(stored.manifest, findings), model)
        w = typed(manifest, Workload)
        same = (manifest.model, w.batch, w.dtype, w.device, w.threads)
        if first and same != first:
            raise InputError(f"{run} is not of the same model and workload as {runs[0]}; give runs of one model")
        first = same
        rows += [s for s in findings.summary if s.samples]
    return fit_latency_model(rows)


def _one(run: str, models: Sequence[Part], wanted: str | None) -> Part:
    """The model of a run that was asked for."""
    if wanted is None and len(models) == 1:
        return models[0]
    named = [part for part in models if part[1].model == wanted]
    if not named:
        names = "; ".join(part[1].model for part in models)
        asked = "name one of them as `model`" if wanted is None else f"{wanted} is none of them"
        raise InputError(f"{run} is of {names}: {asked}")
    return named[0]
