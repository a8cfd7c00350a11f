"""`perstep selftest`: what this machine can resolve."""

from typing import Annotated

from cyclopts import Parameter

from perstep.cli.output import print_tables, progress_shown
from perstep.cli.streams import write
from perstep.experiments.conditions import threads_limited
from perstep.experiments.device.planted import DeviceTest, device_tables, run_device_test
from perstep.experiments.device.waiting import waiting_for
from perstep.experiments.options import Seconds, check_seed
from perstep.report import Output
from perstep.runs import encode_json
from perstep.selftest import SelfTest, run_selftest, tables


def selftest(
    *,
    device: str = "cpu",
    budget: Annotated[Seconds, Parameter(show_default=False)] = 60.0,
    json: Annotated[bool, Parameter(negative="")] = False,
    output: Annotated[Output, Parameter(name=["-o", "--output"])] = "table",
    seed: int = 0,
    quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="")] = False,
) -> int:
    """Measure which changes this machine can resolve, in tests with known answers.

    The tests compare identical programs, compare programs that differ by 1, 2 and 5 %, and add delays of 20, 200 and
    2,000 µs to each part of a ledger. On a device they compare identical programs that put kernels there, and add
    delays on the host and on the device.

    Args:
        device: cpu, or cuda: delays of 500 and 3,000 µs on the host and on the device.
        budget: Time limit, at least 20s. [default: 60s]
        json: Same as -o json.
        output: Format of the result on stdout.
        seed: Random seed for the order of the arms.
        quiet: No progress.
    """
    check_seed(seed)
    test: SelfTest | DeviceTest
    with progress_shown(quiet=quiet) as progress, threads_limited(1):
        if waiting_for(device) is None:
            test = run_selftest(budget, progress=progress, seed=seed)
        else:
            test = run_device_test(device, budget, progress=progress, seed=seed)
    if json or output == "json":
        write(encode_json(test).decode())
    else:
        print_tables(tables(test) if isinstance(test, SelfTest) else device_tables(test), output)
    return 0
