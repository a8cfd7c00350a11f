"""One cell in a process of its own: `python -m perstep.sweeps.cell SWEEP KEY ATTEMPT`, which a worker starts.

The cell's run says in its manifest to which sweep, cell and attempt it belongs. The process ends with its worker, so
that no run goes on that nobody counts.
"""

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from perstep.errors import InputError, PerstepError
from perstep.experiments import pipeline
from perstep.experiments.command_line import plan_from
from perstep.runs import Manifest
from perstep.sweeps.folder import CELLS, Sweep, read_sweep
from perstep.sweeps.grid import Cell, hash_of
from perstep.sweeps.queue import RUN

ORPHANED = 75
"""EX_TEMPFAIL of sysexits.h: nobody reads it."""


def main(arguments: Sequence[str]) -> int:
    """Measure a cell; its exit code is as that of every command."""
    folder, key, attempt = Path(arguments[0]), arguments[1], int(arguments[2])
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    try:
        sweep = read_sweep(folder)
        cell = next((one for one in sweep.cells if one.key == key), None)
        if cell is None:
            raise InputError(f"{folder} has no cell {key}")
        _measure(folder, sweep, cell, attempt)
    except PerstepError as error:
        print(" ".join(str(error).split()), file=sys.stderr)  # noqa: T201 - the worker reads it
        return error.exit_code
    return 0


def _measure(folder: Path, sweep: Sweep, cell: Cell, attempt: int) -> None:
    experiment = sweep.grid.experiment
    plan = plan_from(experiment, cell.words)
    if hash_of(experiment, plan) != cell.plan_hash:
        raise InputError(f"cell {cell.key} is another plan here; workers need the perstep of the sweep's beginning")

    def place(manifest: Manifest) -> None:
        manifest.config["sweep"] = {"sweep_id": sweep.sweep_id, "cell": cell.key, "attempt": attempt}

    sys.argv = ["perstep", experiment, *cell.words]  # the command that measures the same, for the manifest
    report = pipeline.run(
        experiment,
        plan,
        progress=lambda _share, _what: None,
        out=folder / CELLS / cell.key / str(attempt) / RUN,
        approve=place,
    )
    pipeline.check(report)


def _end_with_the_worker() -> None:
    """Wait for the end of stdin, which is a pipe from the worker: the kernel closes it when that one is gone."""
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
