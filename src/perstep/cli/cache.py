"""`perstep cache`: what the KV cache costs and saves."""

from typing import Annotated

from cyclopts import Parameter

from perstep.cli.experiment import DEFAULT_RUN_TO, RunTo, run_experiment
from perstep.experiments.cache import Plan

_DEFAULT = Plan()


def cache(
    plan: Annotated[Plan, Parameter(name="*")] = _DEFAULT,
    to: Annotated[RunTo, Parameter(name="*")] = DEFAULT_RUN_TO,
) -> int:
    """What a decode step costs against the length of its context, with a KV cache and without.

    Memory from shapes, live buffers and resident pages; latency measured, fitted, and predicted from the ceilings of
    this machine. Points that do not fit into the budget are omitted and listed.
    """
    return run_experiment("cache", plan, to)
