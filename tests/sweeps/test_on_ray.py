"""A sweep on a Ray cluster of several nodes, all on this machine; skipped without the ray extra."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.sweeps.folder import Sweep
from perstep.sweeps.grid import Cell
from perstep.sweeps.queue import Held, Outcome, attempts
from perstep.sweeps.rows import read_rows

ray = pytest.importorskip("ray", reason="needs the ray extra")
pytestmark = [pytest.mark.nightly, pytest.mark.real_clock, pytest.mark.filterwarnings("default")]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes that offer themselves, and one that does not."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.offering = [made.add_node(num_cpus=1, resources={"perstep": 1}) for _ in range(2)]
    yield made
    made.shutdown()


def slow(folder: Path, cell: Cell, held: Held) -> str:
    """Takes a second, and tells on which node."""
    import time

    import ray

    with (folder / "log").open("a") as log:
        log.write(f"{cell.key} {held.number} {ray.get_runtime_context().get_node_id()}\n")
    for _ in range(4):
        held.beat()
        time.sleep(0.25)
    return ""


def run(cluster: Any, folder: Path, sweep: Sweep, perform: Any = slow, progress: Any = None) -> list[str]:
    """What was remarked."""
    from perstep.sweeps.on_ray import connected, run_on_ray

    ray.cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
    said: list[str] = []
    told = progress or (lambda _share, _what: None)
    with connected(cluster.address) as connection:
        run_on_ray(connection, folder, sweep, told, said.append, perform)
    return said


def outcomes(folder: Path, sweep: Sweep) -> list[list[Any]]:
    """Of every attempt at every cell."""
    found = [attempts(folder / "cells" / cell.key) for cell in sweep.cells]
    return [[one.end and one.end.outcome for one in each] for each in found]


def test_two_nodes_share_a_sweep(cluster: Any, small_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    """One worker on each node that offers itself, none on the one that does not; every cell once."""
    folder = tmp_path / "sweep"
    sweep = small_sweep(folder, cells=6)
    assert run(cluster, folder, sweep) == []
    assert outcomes(folder, sweep) == [[Outcome.DONE]] * 6
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    assert sorted(key for key, _, _ in lines) == sorted(cell.key for cell in sweep.cells)
    assert {node for _, _, node in lines} == {node.node_id for node in cluster.offering}


def test_a_node_that_dies_costs_its_cell_an_attempt_and_one_that_joins_helps(
    cluster: Any, small_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    """Ray repeats nothing; the queue finds the attempt lost."""
    folder = tmp_path / "sweep"
    sweep = small_sweep(folder, cells=8)
    changed = []

    def progress(share: float, _what: str) -> None:
        if share > 0 and not changed:
            changed.append(True)
            cluster.remove_node(cluster.offering[0], allow_graceful=False)
            cluster.add_node(num_cpus=1, resources={"perstep": 1})

    run(cluster, folder, sweep, progress=progress)  # it may end before Ray has noticed the loss
    assert changed
    ends = outcomes(folder, sweep)
    assert all(end[-1] is Outcome.DONE and end.count(Outcome.DONE) == 1 for end in ends)
    assert sum(len(end) - 1 for end in ends) <= 1
    keys = [tuple(line.split()[:2]) for line in (folder / "log").read_text().splitlines()]
    assert len(keys) == len(set(keys)), "no attempt was made twice"


KILLS = 50


def test_sigkill_of_driver_worker_or_node_at_random_leaves_every_cell_once(
    cluster: Any, small_sweep: Callable[..., Sweep], start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    """Fifty times one of the three dies while a cell is measured, and another one takes its place."""
    folder = tmp_path / "sweep"
    sweep = small_sweep(folder, cells=300)
    rng, log = random.Random(KILLS), folder / "log"
    driver = start_worker(folder, 3.0, cluster.address)
    killed = Counter[str]()
    for _ in range(KILLS):
        begun = lines(log)
        while lines(log) == begun:  # somebody works
            assert driver.poll() is None
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1.0))
        kind = rng.choice(["driver", "worker", "node"])
        killed[kind] += 1
        if kind == "driver":
            driver.kill()
            driver.wait()
            driver = start_worker(folder, 3.0, cluster.address)
        elif kind == "worker":
            with suppress(ProcessLookupError):  # it may have died with a node
                os.kill(int(lines(log)[-1].split()[2]), signal.SIGKILL)
        else:
            cluster.remove_node(cluster.offering.pop(0), allow_graceful=False)
            cluster.offering.append(cluster.add_node(num_cpus=1, resources={"perstep": 1}))
    (folder / "hurry").touch()
    assert driver.wait() == 0
    assert (tmp_path / "stdout").read_text() == "", "stdout is for the table; Ray prints what becomes of nodes"

    rows = read_rows(folder, sweep)
    assert [(row.cell.key, row.outcome) for row in rows] == [(cell.key, "done") for cell in sweep.cells]
    assert [row.figures["step_ns"] for row in rows] == [cell.position + 1 for cell in sweep.cells]
    ends = outcomes(folder, sweep)
    assert all(end[-1] is Outcome.DONE and end.count(Outcome.DONE) == 1 for end in ends)
    tries = [tuple(line.split()[:2]) for line in lines(log)]
    assert len(tries) == len(set(tries)), "no attempt was made twice"
    lost = sum(len(end) - 1 for end in ends)
    assert lost <= KILLS + killed["driver"], "only what was killed was measured again; a driver takes two workers along"


def lines(log: Path) -> list[str]:
    """A line an attempt that began."""
    return log.read_text().splitlines() if log.exists() else []


def test_nodes_of_other_versions_are_named(
    cluster: Any, small_sweep: Callable[..., Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is measured."""
    import msgspec

    sweep = small_sweep(tmp_path / "sweep", cells=1)
    other = msgspec.structs.replace(sweep, versions={**sweep.versions, "numpy": "1.0"})
    with pytest.raises(InputError, match=r"node .* would measure something else than this sweep: numpy is"):
        run(cluster, tmp_path / "sweep", other)
    assert list((tmp_path / "sweep" / "cells").iterdir()) == []


@pytest.mark.parametrize(
    ("address", "wrong"),
    [
        ("127.0.0.1:1", r"cannot reach a Ray cluster at 127.0.0.1:1 ("),
        ("nowhere.invalid:6379", "cannot reach a Ray cluster at nowhere.invalid:6379 ("),
        ("nonsense", "cannot reach a Ray cluster at nonsense (an address is HOST:PORT)"),
    ],
)
def test_an_address_where_no_cluster_is(cli: Callable[..., Any], address: str, wrong: str) -> None:
    """It is named in one line, and nothing is written: with the right one the same command begins the sweep."""
    Path("grid.toml").write_text('experiment = "ledger"\n[grid]\nbatch = [1]')
    said = cli("sweep", "grid.toml", "--out", "out", "--executor", "ray", "--address", address)
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert wrong in said.err
    assert not Path("out").exists()
