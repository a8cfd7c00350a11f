"""`perstep generate`: what processors and criteria cost, by taking them away."""

from typing import Annotated

from cyclopts import Parameter

from perstep.cli.experiment import DEFAULT_RUN_TO, RunTo, run_experiment
from perstep.experiments.generate import Plan

_DEFAULT = Plan()


def generate(
    plan: Annotated[Plan, Parameter(name="*")] = _DEFAULT,
    to: Annotated[RunTo, Parameter(name="*")] = DEFAULT_RUN_TO,
) -> int:
    """What logits processors and stopping criteria cost in a call of generate.

    Each of them, and all together, are removed on one replayed trace. They are also timed in place, and a sentence says
    where the two results disagree and why. Without --model and --arch a small byte-level Llama is measured, with UTF-8
    validation and word stopping in plain Python.
    """
    return run_experiment("generate", plan, to)
