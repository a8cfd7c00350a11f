"""Writing a run: manifest first, then a line a round, flushed as it is made, then the manifest again.

A run that is killed keeps every finished round and can be resumed; one that fails or is
interrupted says so in its manifest. A lock keeps two writers apart. This module knows no experiment.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from perstep._version import __version__
from perstep.errors import InputError
from perstep.runs.columns import encode_sample
from perstep.runs.files import cannot_write, children, encode_json, replace_file
from perstep.runs.manifest import MANIFEST, Manifest, Status, read_manifest
from perstep.runs.privacy import command_line, command_without_text, with_short_paths, without_text
from perstep.runs.reader import SAMPLES, whole_lines

RUNS = Path(".perstep") / "runs"
"""Where runs are stored unless a folder is named."""
EFFORT = {"budget", "precision", "rounds", "fast", "rigorous"}
"""Fields of a plan that say how long to measure, not what: a run may be resumed with others."""
_LOCK = ".lock"
_NUMBERED = re.compile(r"^(\d{4,})-")


def check_out(experiment: str, out: Path | None, *, force: bool, resume: bool) -> None:
    """Check where the run is to lie, before anything is loaded. Nothing is made yet.

    Raises:
        InputError: `out` is a file; or has something in it that is no run, or a run and neither `force` nor `resume`
            is given; or `resume` without an `out` that holds a run of this experiment, or together with `force`.
    """
    if resume:
        if force:
            raise InputError("--resume and --force exclude each other; give one of them")
        if out is None:
            raise InputError("--resume needs --out DIR, the run to go on with; `perstep list` shows the runs")
        found = read_manifest(out).experiment
        if found != experiment:
            raise InputError(f"{out} holds a `{found}` run, it cannot be resumed as `{experiment}`")
    elif out is not None and (held := {path.name for path in children(out)} - {_LOCK}):
        if MANIFEST not in held and SAMPLES not in held:
            raise InputError(
                f"--out {out} is not empty and holds no run, so --force would not help; choose another folder"
            )
        if not force:
            raise InputError(
                f"--out {out} is not empty; choose another folder, or --resume it, or replace it with --force"
            )


def next_folder(experiment: str) -> Path:
    """A new folder with the next number under `.perstep/runs`; two callers at once get two numbers.

    Raises:
        InputError: it cannot be made.
    """
    while True:
        numbers = [int(m[1]) for path in children(RUNS) if (m := _NUMBERED.match(path.name))]
        folder = RUNS / f"{max(numbers, default=0) + 1:04d}-{experiment}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise cannot_write(folder, error) from error
        return folder


class RunWriter:
    """A run being written, as a context manager; leaving it settles the run's status.

    Args:
        folder: made if it is not there.
        manifest: as known before measuring. Its `argv`, version and times are filled in here.
        resume_after: go on with the run in `folder`, of which the caller has read this many rounds; its plan and
            workload must be the same.
        force: replace the run in `folder`.
        keep_text: store prompts and a script's arguments as they are, not their hashes.

    Attributes:
        manifest: to be completed by the experiment before it ends.

    Raises:
        InputError: the folder cannot be written, is locked by another process, or holds another plan; or it
            holds a run and neither `resume_after` nor `force` is given. Nothing has been written over.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        resume_after: int | None = None,
        force: bool = False,
        keep_text: bool = False,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        manifest.perstep_version = __version__
        manifest.started_at = _utc_now()
        manifest.date = manifest.started_at[:10]
        manifest.argv = command_line()
        if not keep_text:
            # Before anything is written; what a script is called with are the last words of the command.
            manifest.argv = command_without_text(manifest.argv, len(manifest.plan.get("arguments", [])))
            manifest.plan, manifest.workload = without_text(manifest.plan), without_text(manifest.workload)
        self._lock = _take_lock(folder)
        try:
            self._samples = self._begin(force=force) if resume_after is None else self._go_on(resume_after)
        except OSError as error:
            self._lock.close()
            raise cannot_write(folder / SAMPLES, error) from error
        except BaseException:
            self._lock.close()
            raise

    def _begin(self, *, force: bool) -> IO[bytes]:
        if (self.folder / MANIFEST).exists() and not force:
            raise InputError(f"{self.folder} holds a run by now; choose another --out, or replace it with --force")
        derived = _derived_files(self.folder)
        # The new manifest first: where it cannot be written, the old run is still whole.
        self.save_manifest()
        for path in derived:
            path.unlink()
        return (self.folder / SAMPLES).open("wb", buffering=0)

    def _go_on(self, rounds: int) -> IO[bytes]:
        self._check_same(read_manifest(self.folder))
        path = self.folder / SAMPLES
        lines, size = whole_lines(path)
        if lines != rounds:
            raise InputError(
                f"{self.folder} has {lines} rounds, not {rounds}: another perstep went on with it; try again"
            )
        if path.stat().st_size > size:
            os.truncate(path, size)
            self.manifest.warnings.append(
                f"line {lines + 1} of {SAMPLES} was cut off when the run was killed; that round was measured again"
            )
        self.save_manifest()
        return path.open("ab", buffering=0)

    def _check_same(self, old: Manifest) -> None:
        for name in ("plan", "workload"):
            # as it would be read again: a tuple becomes a list
            now = msgspec.json.decode(msgspec.json.encode(getattr(self.manifest, name)))
            new_values, old_values = (with_short_paths(without_text(values)) for values in (now, getattr(old, name)))
            for key in {**old_values, **new_values}.keys() - EFFORT:
                if new_values.get(key) != old_values.get(key):
                    raise InputError(
                        f"{self.folder} was measured with {key}={old_values.get(key)!r}, not {new_values.get(key)!r};"
                        " a run is resumed with the options it was begun with"
                    )
        self.manifest.started_at = old.started_at
        self.manifest.date = old.date

    def append(self, round_sample: Any) -> None:
        """Add one round to `samples.jsonl` and flush it.

        Raises:
            InputError: it could not be written whole; the rounds before it are untouched.
        """
        line = encode_sample(round_sample) + b"\n"
        before = self._samples.tell()
        try:
            written = 0
            while written < len(line):
                written += self._samples.write(line[written:]) or 0
        except OSError as error:
            with suppress(OSError):  # a reader leaves an unfinished last line out
                self._samples.truncate(before)
            raise cannot_write(self.folder / SAMPLES, error) from error

    def save_manifest(self) -> None:
        """Write the manifest as it is now, its paths shortened."""
        for name in ("argv", "plan", "workload", "model", "conditions", "boundaries", "warnings", "error"):
            setattr(self.manifest, name, with_short_paths(getattr(self.manifest, name)))
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


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other writers away from a run.

    Raises:
        InputError: another process writes it, or the folder cannot be written.
    """
    with _take_lock(folder):
        yield


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


def _derived_files(folder: Path) -> list[Path]:
    """What an earlier run in the folder made beside manifest and samples; nothing else that may lie there."""
    try:
        names = read_manifest(folder).files
    except InputError:
        return []
    return [folder / name for name in names if Path(name).name == name and (folder / name).is_file()]


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
