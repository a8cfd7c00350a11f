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

    Prefill and decode have ledgers of their own. In each, parts + residual = step, exactly; beside them stand
    the step without instruments and how much the instruments slowed it down.
    """
    return run_experiment("ledger", plan, to)
