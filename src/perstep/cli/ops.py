"""`perstep ops`: operators at several lengths, and masks judged before a cache is built."""

from typing import Annotated

from cyclopts import Parameter

from perstep.cli.experiment import DEFAULT_RUN_TO, RunTo, run_experiment
from perstep.experiments.ops.plan import Plan

_DEFAULT = Plan()


def ops(
    plan: Annotated[Plan, Parameter(name="*")] = _DEFAULT,
    to: Annotated[RunTo, Parameter(name="*")] = DEFAULT_RUN_TO,
) -> int:
    """What each operator of a layer costs at several lengths, and what a cached or fused mask wins.

    Operators are timed in their places in a whole step and alone. Shares are of the step at that very length.
    `--what-if attn.mask.build=0` tells what making a part free would win, before anyone writes it.
    """
    return run_experiment("ops", plan, to)
