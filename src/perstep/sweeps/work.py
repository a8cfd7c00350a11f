"""A worker: takes one cell after another and measures each in a fresh process, until there is nothing left to do.

Any number of workers may share a sweep's folder: the local executor is one, `perstep worker` is one, and Ray starts one
a node.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from perstep._words import plural
from perstep.measure import Progress
from perstep.sweeps.folder import CELLS, Sweep
from perstep.sweeps.grid import Cell
from perstep.sweeps.queue import BEAT_S, DamagedAttemptError, Held, Outcome, Watcher, attempts, claimed, verdict

PAUSE_S = 0.5
"""Between two looks at cells that others measure."""
_MOST_SAID = 500
_BEGUN = 1e-9
"""More than 0, which is the share while something is only prepared."""


def tell(progress: Progress, total: int, left: int, where: str = "") -> None:
    """Say how many of a sweep's cells have ended."""
    ended = total - left
    progress(max(ended / total, _BEGUN), f"{ended:,} of {plural(total, 'cell')}{where}")


class Perform(Protocol):
    """Measures a cell: everything that a worker does with it, but for the claim and the end."""

    def __call__(self, folder: Path, cell: Cell, attempt: Held) -> str:
        """Empty if it is measured, else why it failed, in a line.

        Args:
            folder: of the sweep.
            cell: to be measured.
            attempt: the attempt; `beat` is called at least every `BEAT_S`.
        """
        ...


def in_fresh_process(folder: Path, cell: Cell, attempt: Held) -> str:
    """Measure a cell in a process of its own; this one beats meanwhile, and does nothing else."""
    words = [str(folder), cell.key, str(attempt.number)]
    log = attempt.worker / "stderr.txt"  # in a folder of a random name, where nobody can have laid a link
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "perstep.sweeps.cell", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            while True:
                attempt.beat()
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(BEAT_S)
                    break
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stdin is not None:
                process.stdin.close()
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if code == 0:
        return ""
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{ended}: {lines[-1][:_MOST_SAID]}" if lines else ended


@dataclass
class Worker:
    """Works through a sweep.

    Attributes:
        folder: of the sweep.
        sweep: what is in it.
        progress: told after each cell.
        stays: whether it waits for cells that other live workers measure; else it leaves them to those.
        perform: measures one cell.
        watcher: tells which attempts of others are lost.
        wait: sleeps.
        damaged: sentences about cells whose folders cannot be read; they are left out.
    """

    folder: Path
    sweep: Sweep
    progress: Progress
    stays: bool
    perform: Perform = in_fresh_process
    watcher: Watcher = field(default_factory=Watcher)
    wait: Callable[[float], None] = time.sleep
    damaged: list[str] = field(default_factory=list)
    _left: dict[str, Cell] = field(default_factory=dict)

    def run(self) -> None:
        """Measure cells until none is left.

        Raises:
            InputError: the folder cannot be written.
            KeyboardInterrupt: with what is done, and how to go on.
        """
        self._left = {cell.key: cell for cell in self.sweep.cells}
        for cell in self.sweep.cells:
            with self._without_damaged(cell):
                self._drop_ended(cell)
        self._say()  # first what others did: it took none of this worker's time
        try:
            while self._left:
                if self._one() or not self._left:
                    continue
                if not self.stays and self._others_live():
                    return
                self.wait(PAUSE_S)
        except KeyboardInterrupt as error:
            ended = f"{len(self.sweep.cells) - len(self._left):,} of {plural(len(self.sweep.cells), 'cell')} ended"
            raise KeyboardInterrupt(f"interrupted; {ended}: go on with --out {self.folder} --resume") from error

    def _one(self) -> bool:
        """Measure the next cell that nobody has; whether there was one. Cells that failed come after the others."""
        tried: list[tuple[int, Cell]] = []
        for cell in list(self._left.values()):
            with self._without_damaged(cell):
                tries = attempts(self.folder / CELLS / cell.key)
                if verdict(tries) is not None:
                    del self._left[cell.key]
                    self._say()
                elif tries:
                    tried.append((len(tries), cell))
                elif self._measure(cell):
                    return True
        for _, cell in sorted(tried, key=lambda pair: (pair[0], pair[1].position)):
            with self._without_damaged(cell):
                if self._measure(cell):
                    return True
        return False

    @contextmanager
    def _without_damaged(self, cell: Cell) -> Iterator[None]:
        """Leave out a cell whose folder cannot be read; the others are measured."""
        try:
            yield
        except DamagedAttemptError as error:
            self.damaged.append(str(error))
            self._left.pop(cell.key, None)

    def _measure(self, cell: Cell) -> bool:
        with claimed(self.folder / CELLS / cell.key, self.watcher) as attempt:
            if attempt is None:
                return False
            try:
                why = self.perform(self.folder, cell, attempt)
            except KeyboardInterrupt:
                attempt.end(Outcome.STOPPED, "interrupted")
                raise
            attempt.end(Outcome.FAILED if why else Outcome.DONE, why)
        self._drop_ended(cell)
        self._say()
        return True

    def _drop_ended(self, cell: Cell) -> None:
        if verdict(attempts(self.folder / CELLS / cell.key)) is not None:
            del self._left[cell.key]

    def _say(self) -> None:
        tell(self.progress, len(self.sweep.cells), len(self._left))

    def _others_live(self) -> bool:
        """Whether a live worker has each cell that is left."""
        last = [attempts(self.folder / CELLS / key)[-1:] for key in self._left]
        return all(tries and tries[0].end is None and self.watcher.is_alive(tries[0]) for tries in last)
