"""`perstep ledger`: the main job."""

from typing import Annotated

from cyclopts import Parameter

from perstep.cli.experiment import DEFAULT_RUN_TO, RunTo, run_experiment
from perstep.experiments.ledger import Plan

_DEFAULT = Plan()


def ledger(
    plan: Annotated[Plan, Parameter(name="*")] = _DEFAULT,
    to: Annotated[RunTo, Parameter(name="*")] = DEFAULT_RUN_TO,
) -> int:
    """What each part of a decode step costs.

    Prefill and decode have separate ledgers. In each, parts + residual = step, exactly. The table also shows the
    uninstrumented step and the instrumentation overhead.
    """
    return run_experiment("ledger", plan, to)
