"""`perstep compare --live`: commands, callables or builds that take turns."""

from perstep.cli.experiment import RunTo, run_experiment
from perstep.errors import InputError
from perstep.experiments.compare import Plan
from perstep.experiments.options import RunOptions


def compare_live(
    arms: tuple[str, ...], options: RunOptions, to: RunTo, *, pythons: tuple[str, ...], check: bool, threshold: float
) -> int:
    """Time the arms in balanced rounds and print the verdicts; the exit code.

    Args:
        arms: commands, or Python callables as module:function; with `pythons` one script, or script.py:function.
        options: how long and how precisely.
        to: where the run goes.
        pythons: interpreters that all run the one script.
        check: refuse callables whose results differ.
        threshold: changes wholly inside ± this are the same.

    Raises:
        InputError: fewer than two arms, one that cannot be run, or a baseline.
    """
    if to.baseline is not None:
        raise InputError("--baseline compares a run with a stored one; with --live all arms run now, so leave it out")
    plan = Plan(**vars(options), arms=arms, pythons=pythons, threshold=threshold, check=check)
    return run_experiment("compare", plan, to)
