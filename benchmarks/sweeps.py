"""What a cell costs besides measuring, by the local executor and by Ray, and how Ray scales over nodes.

Cells sleep, so only the queue and its launchers are timed. Claimed: a cell costs at most 100 ms more by Ray than
locally (200 cells of 50 ms), and three local nodes end at least 2.5 times as many cells a minute as one (cells of 5 s).
Needs the ray extra. Prints the figures and writes results/sweeps.json.

    python -P benchmarks/sweeps.py --date 2026-01-31            # about three minutes
    python -P benchmarks/sweeps.py --date 2026-01-31 --quick    # a tenth of the cells; nothing is written
"""

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from perstep.sweeps.folder import Sweep, begin
from perstep.sweeps.grid import Cell, cells_of, parse_grid, points
from perstep.sweeps.on_ray import connected, run_on_ray
from perstep.sweeps.queue import Held, Outcome, attempts
from perstep.sweeps.work import Worker

RESULT = Path(__file__).parent / "results" / "sweeps.json"
COST_CLAIM_MS, SCALE_CLAIM = 100.0, 2.5
GRID = 'experiment = "ledger"\nreference_every = 0\n[grid]\nseed = "1-{cells}"'


def sweep_of(folder: Path, cells: int) -> Sweep:
    """A sweep of this number of cells."""
    raw = GRID.format(cells=cells).encode()
    grid = parse_grid(raw, "grid.toml")
    return begin(folder, grid, raw, cells_of(grid, [point for point in points(grid) if point is not None]))


def sleep(seconds: float, _folder: Path, _cell: Cell, held: Held) -> str:
    """A cell that takes this long, and tells when it began and ended."""
    began = time.time()
    held.beat()
    time.sleep(seconds)
    (held.folder / "times").write_text(f"{began} {time.time()}")
    return ""


def ended(folder: Path, sweep: Sweep) -> float:
    """Seconds from the first cell's beginning to the last one's end; each was measured once."""
    times = []
    for cell in sweep.cells:
        (one,) = attempts(folder / "cells" / cell.key)
        assert one.end is not None
        assert one.end.outcome is Outcome.DONE
        times.append([float(value) for value in (one.folder / "times").read_text().split()])
    return max(end for _, end in times) - min(begin for begin, _ in times)


def local(seconds: float, cells: int) -> float:
    """Seconds for a sweep by the local executor."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "sweep"
        sweep = sweep_of(folder, cells)
        Worker(folder, sweep, lambda _share, _what: None, stays=True, perform=partial(sleep, seconds)).run()
        return ended(folder, sweep)


def by_ray(seconds: float, cells: int, nodes: int) -> float:
    """Seconds for a sweep on a cluster of this number of local nodes, its start left out."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1, resources={"perstep": 1})
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "sweep"
            sweep = sweep_of(folder, cells)
            with connected(cluster.address) as connection:
                run_on_ray(connection, folder, sweep, lambda _s, _w: None, print, partial(sleep, seconds))
            return ended(folder, sweep)
    finally:
        cluster.shutdown()


def main() -> int:
    """1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--date", required=True, help="of the run, for the result file")
    parser.add_argument("--quick", action="store_true", help="a tenth of the cells; nothing is written")
    options = parser.parse_args()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    short, long = (20, 6) if options.quick else (200, 18)
    local_s, ray_s = local(0.05, short), by_ray(0.05, short, 1)
    one_s, three_s = by_ray(5.0, long, 1), by_ray(5.0, long, 3)
    cost_ms, scale = 1e3 * (ray_s - local_s) / short, one_s / three_s
    print(f"{short} cells of 50 ms: {1e3 * local_s / short:.1f} ms a cell locally, {cost_ms:+.1f} ms by Ray")
    print(
        f"{long} cells of 5 s: {one_s:.1f} s on one node, {three_s:.1f} s on three: {scale:.2f} times as many a minute"
    )
    held = cost_ms <= COST_CLAIM_MS and scale >= SCALE_CLAIM
    print("claims hold" if held else "CLAIMS DO NOT HOLD")
    if not options.quick:
        result = {
            "schema_version": 1,
            "date": options.date,
            "cells_of_50_ms": {"cells": short, "local_s": local_s, "ray_s": ray_s, "more_by_ray_ms": cost_ms},
            "cells_of_5_s": {"cells": long, "one_node_s": one_s, "three_nodes_s": three_s, "scale": scale},
            "claims": {"more_by_ray_ms": COST_CLAIM_MS, "scale": SCALE_CLAIM, "hold": held},
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
