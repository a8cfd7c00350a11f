"""The queue of a sweep, which is its folder: who measures which cell, and how each attempt ended.

An attempt is a folder, `cells/<key>/<number>/`. `claim.json` says who measures there, `end.json` how that ended; each
is made by `link()`, so exactly one process makes it, on a shared file system too. An attempt ends once: by its own
worker (done, failed), or by another one that has found it lost. Whoever links `end.json` first decides, so a worker
that stood still and goes on finds its late result refused. The next attempt begins only behind an end that is not
`done`.

No two clocks are compared. A worker alive changes the number in `beat`; a watcher calls it lost if that number did not
change for `patience_s` of the watcher's own time. On one machine the kernel says so at once, by the attempt's lock.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from perstep._json import DamagedError, decode
from perstep.errors import InputError
from perstep.runs import (
    cannot_write,
    children,
    encode_json,
    is_being_written,
    open_regular,
    read_regular,
    take_lock,
    write_whole,
)

CLAIM, END, BEAT, RUN = "claim.json", "end.json", "beat", "run"
BEAT_S = 2.0
PATIENCE_S = 60.0
"""Thirty missed beats; network file systems may show a change some seconds late."""
MOST_FAILURES = 3
MOST_LOSSES = 10
"""A cell that takes its worker with it each time is given up too."""


Note = TypeVar("Note", bound=msgspec.Struct)


class DamagedAttemptError(InputError):
    """What an attempt left cannot be read; other cells are as they were."""


class Outcome(StrEnum):
    """How an attempt ended."""

    DONE = "done"
    FAILED = "failed"
    LOST = "lost"
    """Its worker is gone, or was taken to be."""
    STOPPED = "stopped"
    """By a person's Ctrl-C."""


class Claim(msgspec.Struct, frozen=True):
    """Who measures an attempt: a random name for it, which its folder of lock and beat has, and the machine's start."""

    worker: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    boot: str


class End(msgspec.Struct, frozen=True):
    """How an attempt ended, and why if it is not done."""

    outcome: Outcome
    why: str = ""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a cell; `end` is None while it is being measured, or after a kill."""

    folder: Path
    number: int
    claim: Claim
    end: End | None

    @property
    def worker(self) -> Path:
        """Where its worker's lock and beat are."""
        return self.folder / self.claim.worker


def link_once(path: Path, content: bytes) -> bool:
    """Make a file with this content if there is none; whether this call made it.

    Raises:
        InputError: the file system refuses.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open_regular(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            write_whole(file, content)
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            # Over NFS an answer may get lost and the link be asked for twice: the second time it is there, and ours.
            return draft.stat().st_nlink > 1
        return True
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def attempts(cell: Path) -> list[Attempt]:
    """The attempts at a cell that somebody has claimed, in their order.

    Raises:
        DamagedAttemptError: one cannot be read, or a link leads out of the sweep, where nothing is written.
    """
    _refuse_links(cell.parent, cell)
    try:
        numbers = sorted(int(path.name) for path in children(cell) if path.name.isdecimal())
    except InputError as error:
        raise DamagedAttemptError(str(error)) from error
    result = []
    for number in numbers:
        folder = cell / str(number)
        _refuse_links(folder, folder / RUN)
        claim = _read(folder / CLAIM, Claim)
        if claim is not None:
            result.append(Attempt(folder, number, claim, _read(folder / END, End)))
    return result


def _refuse_links(*folders: Path) -> None:
    for folder in folders:
        if folder.is_symlink():
            raise DamagedAttemptError(f"{folder} is a link, and a sweep consists of folders; remove it")


def _read(path: Path, kind: type[Note]) -> Note | None:
    try:
        return decode(read_regular(path), kind)
    except FileNotFoundError:
        return None
    except (OSError, DamagedError) as error:
        why = getattr(error, "strerror", None) or error
        raise DamagedAttemptError(
            f"{path} is damaged: {why}; remove the folder {path.parent} to measure it again"
        ) from error


def verdict(tries: list[Attempt]) -> Outcome | None:
    """What became of a cell: done, failed for good, or None while it is to be measured."""
    outcomes = [attempt.end.outcome for attempt in tries if attempt.end is not None]
    if Outcome.DONE in outcomes:
        return Outcome.DONE
    if outcomes.count(Outcome.FAILED) >= MOST_FAILURES or outcomes.count(Outcome.LOST) >= MOST_LOSSES:
        return Outcome.FAILED
    return None


def is_over(cell: Path) -> bool:
    """Whether nobody is to measure a cell any more: it is done, has failed for good, or its folder is damaged."""
    try:
        return verdict(attempts(cell)) is not None
    except DamagedAttemptError:
        return True


def boot_id() -> str:
    """This machine since its last start; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass
class Watcher:
    """Tells which attempts are lost, by this process's own time alone.

    Attributes:
        patience_s: how long a beat may stand still.
        now_s: this process's monotonic time.
        boot: of this machine; empty never takes a lock's word.
    """

    patience_s: float = PATIENCE_S
    now_s: Callable[[], float] = time.monotonic
    boot: str = field(default_factory=boot_id)
    _seen: dict[Path, tuple[bytes, float, bool]] = field(default_factory=dict)

    def is_lost(self, attempt: Attempt) -> bool:
        """Whether nobody measures an attempt that has not ended."""
        if self._is_here(attempt) and not is_being_written(attempt.worker):
            return True
        beat = _beat_of(attempt.worker)
        before, since_s, _ = self._seen.get(attempt.worker, (None, 0.0, False))
        if beat != before:
            self._seen[attempt.worker] = (beat, self.now_s(), before is not None)
            return False
        return self.now_s() - since_s > self.patience_s

    def is_alive(self, attempt: Attempt) -> bool:
        """Whether its beat was seen to change, or the kernel says that its worker holds its lock."""
        if self._is_here(attempt) and is_being_written(attempt.worker):
            return True
        return self._seen.get(attempt.worker, (b"", 0.0, False))[2]

    def _is_here(self, attempt: Attempt) -> bool:
        return bool(self.boot) and attempt.claim.boot == self.boot


def _beat_of(folder: Path) -> bytes:
    try:
        return read_regular(folder / BEAT)
    except OSError:
        return b""


@dataclass
class Held:
    """An attempt that this process measures.

    Attributes:
        folder: of the attempt; its run goes into `run` in it.
        number: from 1.
        worker: its folder of lock and beat.
    """

    folder: Path
    number: int
    worker: Path
    _beats: int = 0

    def beat(self) -> None:
        """Say that this worker is alive."""
        self._beats += 1
        with suppress(OSError):  # a full disk is told by the run
            (self.worker / BEAT).write_bytes(b"%d" % self._beats)

    def end(self, outcome: Outcome, why: str = "") -> bool:
        """Say how it ended; False if another worker has meanwhile found it lost: then nothing of it counts."""
        return end_attempt(self.folder, outcome, why)


def end_attempt(folder: Path, outcome: Outcome, why: str = "") -> bool:
    """End an attempt; whether this call did."""
    return link_once(folder / END, encode_json(End(outcome, why)))


@contextmanager
def claimed(cell: Path, watcher: Watcher) -> Iterator[Held | None]:
    """The next attempt at a cell, for this process alone; None if there is nothing to do, or another one has it.

    Raises:
        InputError: the folder cannot be written, or what lies there is damaged.
    """
    tries = attempts(cell)
    if tries and tries[-1].end is None:
        if not watcher.is_lost(tries[-1]):
            yield None
            return
        end_attempt(tries[-1].folder, Outcome.LOST, "its worker is gone")
        tries = attempts(cell)
    if verdict(tries) is not None or (tries and tries[-1].end is None):
        yield None
        return
    number = tries[-1].number + 1 if tries else 1
    folder, name = cell / str(number), secrets.token_hex(8)
    with take_lock(folder / name):  # before the claim, so that who sees the claim sees the lock
        attempt = Held(folder, number, folder / name)
        attempt.beat()
        mine = link_once(folder / CLAIM, encode_json(Claim(name, watcher.boot)))
        yield attempt if mine else None
    if not mine:
        shutil.rmtree(folder / name, ignore_errors=True)
