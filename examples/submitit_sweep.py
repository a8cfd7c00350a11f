"""A sweep by submitit: `python examples/submitit_sweep.py GRID.toml OUT [CLUSTER]`, CLUSTER being slurm or local.

The first job begins the sweep, works too and makes the table; the others help until no cell is free.
"""

import subprocess
import sys
import time
from pathlib import Path

import submitit

NODES = 2


def work(number: int, grid: str, out: str) -> int:
    """One job: a worker, or the sweep itself; its exit code."""
    begun = Path(out) / "sweep.json"
    if number == 0:
        command = ["sweep", grid, "--out", out, *(["--resume"] if begun.exists() else ["--yes"])]
    else:
        while not begun.exists():
            time.sleep(1)
        command = ["worker", out]
    return subprocess.run([sys.executable, "-m", "perstep", *command], check=False).returncode


if __name__ == "__main__":
    grid, out, *cluster = sys.argv[1:]
    executor = submitit.AutoExecutor(folder="submitit", cluster=(cluster or ["slurm"])[0])
    executor.update_parameters(timeout_min=24 * 60, slurm_exclusive=True)
    jobs = [executor.submit(work, number, grid, out) for number in range(NODES)]
    sys.exit(max(job.result() for job in jobs))
