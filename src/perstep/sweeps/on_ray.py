"""A sweep on a Ray cluster that exists: one worker on each node that offers itself, all on one shared folder.

Ray only starts the workers; who measures what, and what becomes of a node that dies, the folder's queue decides. So a
task is never repeated by Ray (`max_retries=0`): a cell that is measured again silently is another measurement. A node
offers itself with `--resources='{"perstep": 1}'`, and its one worker takes that resource and all of its processors.
Nodes that join later get a worker too. Ray is imported here and nowhere else.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from perstep._words import plural
from perstep.errors import InputError, how_to_install
from perstep.measure import Progress
from perstep.sweeps.folder import CELLS, Sweep, check_versions, read_sweep, versions_here
from perstep.sweeps.queue import is_over
from perstep.sweeps.work import Perform, Worker, in_fresh_process, tell

RayModule = Any
"""Ray, which is not installed where this is type-checked."""
Ref = Any
"""What Ray gives for a task that runs."""
Remote = Any
"""An argument or answer of what runs on a node: what Ray can carry there."""
RESOURCE = "perstep"
_LOOK_S = 2.0
_CONNECT_S = 10.0


@contextmanager
def connected(address: str | None) -> Iterator[RayModule]:
    """Ray, connected to a cluster.

    Ray prints pages of a lost node's state on stdout, which is for the table, so nothing is printed there meanwhile.

    Args:
        address: of the cluster; that of this machine if None.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
    """
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        ray = _connected(address)
        try:
            yield ray
        finally:
            ray.shutdown()


def run_on_ray(
    ray: RayModule,
    folder: Path,
    sweep: Sweep,
    progress: Progress,
    remark: Callable[[str], None],
    perform: Perform = in_fresh_process,
) -> None:
    """Work through a sweep on the nodes of a cluster, until every cell has ended.

    Args:
        ray: connected to the cluster.
        folder: of the sweep, where every node sees it.
        sweep: what is in it.
        progress: told how many cells have ended.
        remark: told what becomes of nodes.
        perform: measures one cell.

    Raises:
        InputError: no node offers itself, or a node lacks the folder or has other versions.
    """
    _Cluster(ray, folder.resolve(), sweep, remark, perform).run(progress)


def _connected(address: str | None) -> RayModule:
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--executor ray needs Ray, which is not installed: {how_to_install('ray')}") from error

    try:
        if address is not None:
            _knock(address)
        ray.init(address=address or "auto", log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        asked = "a Ray cluster on this machine" if address is None else f"a Ray cluster at {address}"
        why = str(error).split("\n")[0][:200]
        raise InputError(f"cannot reach {asked} ({why}); `ray start --head` begins one, --address names it") from error
    return ray


def _knock(address: str) -> None:
    """See that somebody listens there: Ray itself tries for minutes.

    Raises:
        OSError: nobody does.
        ValueError: it is no HOST:PORT.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError("an address is HOST:PORT")
    socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()


class _Cluster:
    """The workers of a sweep on the nodes of a cluster."""

    def __init__(
        self, ray: RayModule, folder: Path, sweep: Sweep, remark: Callable[[str], None], perform: Perform
    ) -> None:
        self._ray, self._folder, self._sweep, self._remark = ray, folder, sweep, remark
        self._perform = perform
        self._tasks: dict[Ref, str] = {}
        self._refused: set[str] = set()
        self._left = {cell.key for cell in sweep.cells}

    def run(self, progress: Progress) -> None:
        """Until every cell has ended."""
        if not self._offering():
            raise InputError(
                f"no node of the Ray cluster has the resource {RESOURCE!r}; start them with "
                "ray start --address=HOST:6379 --resources='{\"perstep\": 1}'"
            )
        self._check_nodes(self._offering())
        while not self._ended():
            tell(progress, len(self._sweep.cells), len(self._left), f" on {plural(len(self._tasks), 'node')}")
            self._start()
            self._collect()
        for task in self._tasks:
            self._ray.cancel(task, force=True)

    def _offering(self) -> dict[str, Mapping[str, float]]:
        """Node -> its resources, of the live nodes that offer themselves."""
        nodes = [node for node in self._ray.nodes() if node["Alive"] and RESOURCE in node["Resources"]]
        return {node["NodeID"]: node["Resources"] for node in nodes}

    def _check_nodes(self, nodes: Mapping[str, Mapping[str, float]]) -> None:
        """Refuse to begin where any node would measure something else."""
        asked = {node: self._on(node, {"num_cpus": 0}, _look, str(self._folder)) for node in nodes}
        for node, task in asked.items():
            try:
                answer = self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                self._lost(node, error)
                continue
            self._check_answer(node, answer)

    def _check_answer(self, node: str, answer: tuple[str, dict[str, str]]) -> None:
        sweep_id, versions = answer
        if sweep_id != self._sweep.sweep_id:
            raise InputError(f"node {node[:8]} does not see the sweep in {self._folder}; put --out on a shared folder")
        check_versions(self._sweep, versions, f"node {node[:8]}")

    def _on(
        self, node: str, resources: Mapping[str, Remote], function: Callable[..., Remote], *arguments: Remote
    ) -> Ref:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        placed = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        task = self._ray.remote(function).options(max_retries=0, scheduling_strategy=placed, **resources)
        return task.remote(*arguments)

    def _start(self) -> None:
        """A worker on every node that has none."""
        for node, offered in self._offering().items():
            if node not in self._tasks.values() and node not in self._refused:
                whole = {"num_cpus": offered.get("CPU", 0), "resources": {RESOURCE: offered[RESOURCE]}}
                task = self._on(node, whole, _work, str(self._folder), self._sweep.sweep_id, self._perform)
                self._tasks[task] = node

    def _collect(self) -> None:
        """Take note of workers that have ended: with an error, by the loss of their node, or for want of cells."""
        if not self._tasks:
            time.sleep(_LOOK_S)
            return
        ended, _ = self._ray.wait(list(self._tasks), timeout=_LOOK_S)
        for task in ended:
            node = self._tasks.pop(task)
            try:
                refused = self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                self._lost(node, error)
                continue
            if refused:
                self._refused.add(node)
                self._remark(f"warning: {refused}")
        if not self._tasks and self._refused and not self._offering().keys() - self._refused:
            raise InputError("no node is left that can measure this sweep; the warnings above say why")

    def _lost(self, node: str, error: Exception) -> None:
        self._remark(
            f"warning: the worker on node {node[:8]} was lost ({type(error).__name__}); others go on with its cell"
        )

    def _ended(self) -> bool:
        cells = self._folder / CELLS
        self._left = {key for key in self._left if not is_over(cells / key)}
        return not self._left


def _look(folder: str) -> tuple[str, dict[str, str]]:
    """On a node: which sweep it sees in the folder, and its versions."""
    try:
        return read_sweep(Path(folder)).sweep_id, versions_here()
    except InputError:
        return "", versions_here()


def _work(folder: str, sweep_id: str, perform: Perform) -> str:
    """On a node: a worker; empty if it worked, else why this node may not."""
    sweep = read_sweep(Path(folder))
    if sweep.sweep_id != sweep_id:
        return f"{folder} on this node is another sweep"
    try:
        check_versions(sweep, versions_here(), "a node that joined")
    except InputError as error:
        return str(error)
    Worker(Path(folder), sweep, lambda _share, _what: None, stays=True, perform=perform).run()
    return ""
