"""`perstep gate`: a comparison of stored runs as an exit code, for a CI job."""

from typing import Annotated

from cyclopts import Parameter

from perstep.cli.codes import NOT_RESOLVED, REGRESSION
from perstep.cli.output import print_tables
from perstep.cli.streams import remark, write
from perstep.report import Output
from perstep.runs import encode_json
from perstep.stored.gate import Outcome, gate_table, judge, parse_limits
from perstep.stored.repeats import load_pair


def gate(
    ref: str,
    new: str,
    /,
    *,
    fail_on: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    strict: Annotated[bool, Parameter(negative="")] = False,
    allow_different: Annotated[bool, Parameter(negative="")] = False,
    output: Annotated[Output, Parameter(name=["-o", "--output"])] = "table",
) -> int:
    """Fail if a run is confidently slower than another, beyond a limit.

    The exit code is 1 only if the whole interval of a change lies above its limit. With --strict it is 3 if the
    interval includes the limit or there is no interval. It is 4 if a run is invalid. Use `-o md` for a CI
    job's summary.

    Args:
        ref: The run or baseline to compare with.
        new: The run to judge.
        fail_on: PART:PERCENT, such as step:5% or mask.apply:20%; may be repeated. [default: step:5%]
        strict: Exit with 3 if a limit is not resolved.
        allow_different: Compare runs that did not do the same work; the differences are printed.
        output: Format of the result on stdout.
    """
    limits = parse_limits(fail_on)
    pair = load_pair(ref, new, allow_different=allow_different)
    judgement = judge(pair.ref, pair.new, pair.spread, limits, allow_different=allow_different)
    if output == "json":
        write(encode_json(judgement).decode())
    else:
        print_tables([gate_table(judgement)], output)
    if judgement.outcome == Outcome.FAILED:
        remark(f"perstep: {judgement.conclusion}")
        return REGRESSION
    if strict and judgement.outcome == Outcome.NOT_RESOLVED:
        remark(f"perstep: {judgement.conclusion}")
        return NOT_RESOLVED
    return 0
