"""How much runs of the same code differ on this machine: a few ledgers of `mini`, each in a fresh process.

A process has its own memory layout and its own moment on the machine; rounds inside one run do not see that.
`perstep selftest` keeps the result, and `perstep compare` uses it where a workload has no repeats of its own.
"""

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from perstep.errors import InvalidMeasurement
from perstep.machine import BetweenRunNoise
from perstep.measure import Progress
from perstep.runs import open_run
from perstep.stored.between import Run
from perstep.stored.repeats import machine_record, reduce_run
from perstep.targets import BUILT_IN

MIN_RUNS = 4
ROUNDS = 20


def measure_fresh_runs(seconds: float, progress: Progress) -> BetweenRunNoise | None:
    """Run short ledgers, four at least, until the time is up.

    Args:
        seconds: about how long it may take.
        progress: told after each run.

    Returns:
        The spread of their headline and of each part; None on a machine that cannot be identified.

    Raises:
        InvalidMeasurement: a run failed; with what it said.
    """
    began_s = time.monotonic()
    with TemporaryDirectory(prefix="perstep-") as folder:
        runs: list[Run] = []
        while len(runs) < MIN_RUNS or time.monotonic() - began_s < seconds:
            progress(min((time.monotonic() - began_s) / seconds, 1.0), f"run {len(runs) + 1} in a fresh process")
            out = Path(folder) / str(len(runs))
            options = ["-m", BUILT_IN, "-p", "32", "-n", "16", "--rounds", str(ROUNDS), "-q", "--out", str(out)]
            command = [sys.executable, "-m", "perstep", "ledger", *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                said = done.stderr.strip() or f"exit code {done.returncode}"
                raise InvalidMeasurement(f"a ledger in a fresh process failed: {said}")
            runs.append(reduce_run(open_run(out)))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return machine_record(runs, workload=f"{BUILT_IN}, 32 tokens, 16 new", measured_at=now)
