"""Writing a run: manifest first, then a line a round, flushed as it is made, then the manifest again.

A run that is killed keeps every finished round and can be resumed; one that fails or is
interrupted says so in its manifest. A lock keeps two writers apart. This module knows no experiment.
"""

import fcntl
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from perstep._version import __version__
from perstep.errors import InputError
from perstep.runs.files import cannot_write, encode_json, replace_file
from perstep.runs.manifest import MANIFEST, Manifest, Status, read_manifest
from perstep.runs.reader import SAMPLES, whole_lines

RUNS = Path(".perstep") / "runs"
_LOCK = ".lock"
_NUMBERED = re.compile(r"^(\d{4,})-")


def choose_folder(experiment: str, out: Path | None, *, force: bool, resume: bool) -> Path:
    """Where the run will lie: `out`, or the next number under `.perstep/runs`. Nothing is made yet.

    Raises:
        InputError: `out` is a file, or has something in it and neither `force` nor `resume` is given;
            or `resume` without an `out` that holds a run of this experiment.
    """
    if resume:
        if out is None:
            raise InputError("--resume needs --out DIR, the run to go on with; `perstep list` shows the runs")
        found = read_manifest(out).experiment
        if found != experiment:
            raise InputError(f"{out} holds a `{found}` run, it cannot be resumed as `{experiment}`")
        return out
    if out is None:
        numbers = [int(m[1]) for path in _children(RUNS) if (m := _NUMBERED.match(path.name))]
        return RUNS / f"{max(numbers, default=0) + 1:04d}-{experiment}"
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder that is new or empty")
    if any(path.name != _LOCK for path in _children(out)) and not force:
        raise InputError(f"--out {out} is not empty; choose another folder, or --resume it, or replace it with --force")
    return out


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from error


class RunWriter:
    """A run being written, as a context manager; leaving it settles the run's status.

    Args:
        folder: from `choose_folder`; made if it is not there.
        manifest: as known before measuring. Its `argv`, version and times are filled in here.
        resume: go on with the run in `folder`; its plan and workload must be the same.

    Attributes:
        manifest: to be completed by the experiment before it ends.
        rounds_done: complete rounds that were in the folder already.

    Raises:
        InputError: the folder cannot be written, is locked by another process, or holds another plan.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, resume: bool = False) -> None:
        self.folder = folder
        self.manifest = manifest
        self.rounds_done = 0
        manifest.perstep_version = __version__
        manifest.started_at = _utc_now()
        manifest.argv = list(sys.argv)
        self._lock = _take_lock(folder)
        try:
            if resume:
                self._check_same(read_manifest(folder))
                self.rounds_done = _cut_to_whole_lines(folder / SAMPLES)
            else:
                _remove_old_run(folder)
            self.save_manifest()
            self._samples = (folder / SAMPLES).open("ab", buffering=0)
        except OSError as error:
            self._lock.close()
            raise cannot_write(folder / SAMPLES, error) from error
        except BaseException:
            self._lock.close()
            raise

    def _check_same(self, old: Manifest) -> None:
        for name in ("plan", "workload"):
            new_values, old_values = msgspec.to_builtins(getattr(self.manifest, name)), getattr(old, name)
            for key in {**old_values, **new_values}:
                if new_values.get(key) != old_values.get(key):
                    raise InputError(
                        f"{self.folder} was measured with {key}={old_values.get(key)!r}, not {new_values.get(key)!r};"
                        " a run is resumed with the options it was begun with"
                    )
        self.manifest.started_at = old.started_at

    def append(self, round_sample: Any) -> None:
        """Add one round to `samples.jsonl` and flush it.

        Raises:
            InputError: it could not be written whole; the rounds before it are untouched.
        """
        line = msgspec.json.encode(round_sample) + b"\n"
        before = self._samples.tell()
        try:
            written = 0
            while written < len(line):
                written += self._samples.write(line[written:]) or 0
        except OSError as error:
            self._samples.truncate(before)
            raise cannot_write(self.folder / SAMPLES, error) from error

    def save_manifest(self) -> None:
        """Write the manifest as it is now."""
        replace_file(self.folder / MANIFEST, encode_json(self.manifest))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._samples.close()
        if kind is None:
            self.manifest.status = Status.COMPLETE
        elif issubclass(kind, KeyboardInterrupt):
            self.manifest.status = Status.INTERRUPTED
        else:
            self.manifest.status = Status.FAILED
            self.manifest.error = f"{kind.__name__}: {error}"
        self.manifest.finished_at = _utc_now()
        try:
            self.save_manifest()
        except InputError:
            # On a full disk the first error is the one to tell; a reader sees `running` without
            # a lock, and knows that the run ended there.
            if kind is None:
                raise
        finally:
            self._lock.close()


def is_being_written(folder: Path) -> bool:
    """Whether a live process holds the run's lock."""
    try:
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _take_lock(folder: Path) -> IO[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("ab")
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise InputError(
            f"{folder} is being written by another perstep; wait for it, or choose another --out"
        ) from error
    return lock


def _remove_old_run(folder: Path) -> None:
    """Remove what an earlier run wrote here, and nothing else that may lie in the folder."""
    if not (folder / MANIFEST).exists():
        return
    try:
        derived = read_manifest(folder).files
    except InputError:
        derived = []
    for name in (*derived, SAMPLES, MANIFEST):
        if Path(name).name == name:
            (folder / name).unlink(missing_ok=True)


def _cut_to_whole_lines(path: Path) -> int:
    """Drop a line that a killed run left unfinished; the number of whole ones before it."""
    if not path.exists():
        return 0
    lines, size = whole_lines(path)
    os.truncate(path, size)
    return lines


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
