"""Workers that are killed: every cell is in the table exactly once, and none is measured twice without need."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.sweeps.folder import Sweep
from perstep.sweeps.queue import Outcome, attempts
from perstep.sweeps.rows import read_rows


@pytest.mark.real_clock
@pytest.mark.parametrize(
    ("kills", "cells"), [(4, 8), pytest.param(50, 120, marks=pytest.mark.nightly)], ids=["a handful", "fifty"]
)
def test_sigkill_at_random_leaves_every_cell_once(
    small_sweep: Callable[..., Sweep],
    start_worker: Callable[[Path, float], "subprocess.Popen[Any]"],
    tmp_path: Path,
    kills: int,
    cells: int,
) -> None:
    """Three workers share a sweep, one is killed again and again, and another one takes its place."""
    folder = tmp_path / "sweep"
    sweep = small_sweep(folder, cells=cells)
    rng = random.Random(kills)
    workers = [start_worker(folder, 0.25) for _ in range(3)]
    log = folder / "log"
    for _ in range(kills):
        begun = len(log.read_text().splitlines()) if log.exists() else 0
        while not log.exists() or len(log.read_text().splitlines()) == begun:  # somebody works
            if all(worker.poll() is not None for worker in workers):
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        killed = workers.pop(rng.randrange(len(workers)))
        killed.kill()
        killed.wait()
        workers.append(start_worker(folder, 0.25))
    assert [worker.wait() for worker in workers] == [0] * len(workers)

    rows = read_rows(folder, sweep)
    assert [(row.cell.key, row.outcome) for row in rows] == [(cell.key, "done") for cell in sweep.cells]
    assert [row.figures["step_ns"] for row in rows] == [cell.position + 1 for cell in sweep.cells]
    begun_of = Counter(line.split()[0] for line in log.read_text().splitlines())
    lost = 0
    for cell in sweep.cells:
        found = attempts(folder / "cells" / cell.key)
        outcomes = [one.end.outcome for one in found if one.end is not None]
        assert outcomes == [Outcome.LOST] * (len(found) - 1) + [Outcome.DONE]
        assert begun_of[cell.key] <= len(found)
        lost += len(found) - 1
    assert lost <= kills, "only what was killed was measured again"
