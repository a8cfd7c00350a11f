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
    """What each operator of a layer costs at several lengths, and what a cached or fused mask saves.

    Operators are timed in their places in a whole step, and alone. Shares are of the step at the same length.
    `--what-if attn.mask.build=0` measures the time saved if a part were free, before anyone writes it.
    """
    return run_experiment("ops", plan, to)
