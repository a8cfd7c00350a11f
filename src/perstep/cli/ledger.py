"""`perstep ledger`: the main job."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep.cli.experiment import run_experiment
from perstep.experiments.ledger import Plan
from perstep.report import Output

_DEFAULT = Plan()


def ledger(
    plan: Annotated[Plan, Parameter(name="*")] = _DEFAULT,
    *,
    output: Annotated[Output, Parameter(name=["-o", "--output"])] = "table",
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    force: Annotated[bool, Parameter(negative="")] = False,
    strict: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="")] = False,
) -> int:
    """What each part of a decode step costs.

    Prefill and decode have ledgers of their own. In each, parts + residual = step, exactly; beside them stand
    the step without instruments and how much the instruments slowed it down.

    Args:
        output: Form of the result on stdout.
        out: Folder for the run. [default: the next number under .perstep/runs]
        resume: Go on with the run in --out.
        force: Replace the run in --out.
        strict: Exit with 3 if the precision was not reached.
        quiet: No progress, no remarks.
    """
    return run_experiment(
        "ledger", plan, output=output, out=out, resume=resume, force=force, strict=strict, quiet=quiet
    )
