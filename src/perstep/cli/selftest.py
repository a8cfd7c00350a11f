"""`perstep selftest`: what this machine can resolve."""

from typing import Annotated

from cyclopts import Parameter

from perstep.cli.output import print_tables, progress_shown
from perstep.cli.streams import write
from perstep.experiments.conditions import threads_limited
from perstep.experiments.options import Seconds, check_seed
from perstep.report import Output
from perstep.runs import encode_json
from perstep.selftest import run_selftest, tables


def selftest(
    *,
    budget: Annotated[Seconds, Parameter(show_default=False)] = 60.0,
    json: Annotated[bool, Parameter(negative="")] = False,
    output: Annotated[Output, Parameter(name=["-o", "--output"])] = "table",
    seed: int = 0,
    quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="")] = False,
) -> int:
    """Measure which changes this machine can resolve, in tests with known answers.

    The tests compare identical programs, compare programs that differ by 1, 2 and 5 %, and add delays of 20, 200 and
    2,000 µs to each part of a ledger.

    Args:
        budget: Time limit, at least 20s. [default: 60s]
        json: Same as -o json.
        output: Format of the result on stdout.
        seed: Random seed for the order of the arms.
        quiet: No progress.
    """
    check_seed(seed)
    with progress_shown(quiet=quiet) as progress, threads_limited(1):
        result = run_selftest(budget, progress=progress, seed=seed)
    if json or output == "json":
        write(encode_json(result).decode())
    else:
        print_tables(tables(result), output)
    return 0
