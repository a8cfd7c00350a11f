"""`perstep mask`: what a token mask costs."""

from typing import Annotated

from cyclopts import Parameter

from perstep.cli.experiment import DEFAULT_RUN_TO, RunTo, run_experiment
from perstep.experiments.mask.plan import Plan

_DEFAULT = Plan()


def mask(
    plan: Annotated[Plan, Parameter(name="*")] = _DEFAULT,
    to: Annotated[RunTo, Parameter(name="*")] = DEFAULT_RUN_TO,
) -> int:
    """What a JSON-schema mask costs a decode step, by engine and vocabulary.

    Every engine replays the same valid texts through one model. The step includes three parts of the engine: fill (find
    the mask), apply (write it into the logits) and accept (pass the chosen token to the engine). Build times are shown
    separately. The head is as wide as the vocabulary.
    """
    return run_experiment("mask", plan, to)
