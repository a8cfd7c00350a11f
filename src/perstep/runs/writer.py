"""Writing a run: manifest first, then a line a round, flushed as it is made, then the manifest again.

A run that is killed keeps every finished round and can be resumed; one that fails or is
interrupted says so in its manifest. A lock keeps two writers apart. This module knows no experiment.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from perstep._json import DamagedError, decode
from perstep._version import __version__
from perstep._words import plural
from perstep.errors import InputError
from perstep.runs.columns import encode_sample
from perstep.runs.files import (
    MAX_BYTES,
    cannot_write,
    children,
    is_leftover,
    is_regular,
    open_regular,
    read_regular,
    write_whole,
)
from perstep.runs.lock import LOCK, take_lock
from perstep.runs.manifest import MANIFEST, Manifest, Status, read_manifest, write_manifest
from perstep.runs.privacy import command_line, command_without_text, with_short_paths, without_text
from perstep.runs.reader import SAMPLES, WholeLines, samples_beside, samples_path, whole_lines

RUNS = Path(".perstep") / "runs"
"""Where runs are stored unless a folder is named."""
EFFORT = {"budget", "precision", "rounds", "fast", "rigorous"}
"""Fields of a plan that say how long to measure, not what: a run may be resumed with others."""
_DERIVED = {".csv", ".diff", ".html", ".json", ".md", ".png"}
"""Endings of what experiments derive. A manifest from elsewhere may name other files; those are not removed."""
_NUMBERED = re.compile(r"^(\d{4,})-")
_BESIDE = re.compile(re.escape(samples_beside(Path(), "").name) + "[0-9a-f]{16}")


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
        stored = read_manifest(out).experiment
        if stored != experiment:
            raise InputError(f"{out} holds a `{stored}` run, it cannot be resumed as `{experiment}`")
    elif out is not None and (names := {path.name for path in children(out) if not _own_hidden(path.name)}):
        if MANIFEST not in names and SAMPLES not in names:
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
        manifest.run_id = secrets.token_hex(8)
        manifest.perstep_version = __version__
        manifest.started_at = _utc_now()
        manifest.date = manifest.started_at[:10]
        manifest.argv = command_line()
        if not keep_text:
            # Before anything is written; what a script is called with are the last words of the command.
            manifest.argv = command_without_text(manifest.argv, len(manifest.plan.get("arguments", [])))
            manifest.plan, manifest.workload = without_text(manifest.plan), without_text(manifest.workload)
        self._lock = take_lock(folder)
        try:
            self._digest = hashlib.sha256()
            self._lines = 0
            self._samples = self._begin(force=force) if resume_after is None else self._go_on(resume_after)
        except OSError as error:
            self._lock.close()
            raise cannot_write(folder / SAMPLES, error) from error
        except BaseException:
            self._lock.close()
            raise

    def _begin(self, *, force: bool) -> IO[bytes]:
        if os.path.lexists(self.folder / MANIFEST) and not force:
            raise InputError(f"{self.folder} holds a run by now; choose another --out, or replace it with --force")
        samples = self.folder / SAMPLES
        if samples.is_dir():
            raise InputError(f"{samples} is a folder; choose another --out, or remove it")
        # The manifest makes the run: until it is replaced the old run is whole, from then on the new one is, whose
        # samples are found beside their name. A kill at any instant leaves one of the two.
        beside = samples_beside(self.folder, self.manifest.run_id)
        open_regular(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL).close()
        self.manifest.files = _derived_files(self.folder)
        try:
            self.save_manifest()
        except BaseException:
            beside.unlink()
            raise
        beside.replace(samples)
        remove_derived(self.folder, self.manifest.files)
        self.manifest.files = []
        for path in children(self.folder):
            if path.name != LOCK and _own_hidden(path.name) and is_regular(path):
                path.unlink()
        return open_regular(samples, os.O_WRONLY | os.O_APPEND)

    def _go_on(self, rounds: int) -> IO[bytes]:
        old = read_manifest(self.folder)
        self._check_same(old)
        path = samples_path(self.folder, old.run_id)
        file = open_regular(path, os.O_RDWR | os.O_APPEND)
        try:
            whole = whole_lines(path)
            cut = os.fstat(file.fileno()).st_size > whole.size
            self._check_rounds(whole, rounds, "" if cut else old.samples_sha256)
            if cut:
                file.truncate(whole.size)
                self.manifest.warnings.append(
                    f"line {rounds + 1} of {SAMPLES} was cut off when the run was killed; that round was measured again"
                )
            self._digest, self._lines = whole.digest, whole.count
            self.save_manifest()
            if path.name != SAMPLES:
                path.replace(self.folder / SAMPLES)
        except BaseException:
            file.close()
            raise
        return file

    def _check_rounds(self, whole: WholeLines, rounds: int, sha256: str) -> None:
        if whole.count != rounds:
            raise InputError(
                f"{self.folder} has {plural(whole.count, 'round')}, not {rounds}: another perstep went on with it; try "
                "again"
            )
        if sha256 not in ("", whole.digest.hexdigest()):
            raise InputError(
                f"{self.folder / SAMPLES} is not what the run wrote; restore it, or measure again with --force"
            )

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
        self.manifest.run_id = old.run_id
        self.manifest.files = old.files

    def append(self, round_sample: object) -> None:
        """Add one round to `samples.jsonl` and flush it.

        Raises:
            InputError: it could not be written whole; the rounds before it are untouched.
        """
        place = b'{"run_id":"%b","line_number":%d,' % (self.manifest.run_id.encode(), self._lines + 1)
        line = place + encode_sample(round_sample)[1:] + b"\n"
        if len(line) > MAX_BYTES:
            raise InputError(
                f"a round has {plural(len(line), 'byte')}, and {MAX_BYTES:,} are read; measure fewer tokens"
            )
        before = self._samples.tell()
        try:
            write_whole(self._samples, line)
        except OSError as error:
            with suppress(OSError):  # a reader leaves an unfinished last line out
                self._samples.truncate(before)
            raise cannot_write(self.folder / SAMPLES, error) from error
        self._digest.update(line)
        self._lines += 1

    def save_manifest(self) -> None:
        """Write the manifest as it is now, its paths shortened."""
        # Not the conditions: names in them are those of the samples, such as an interpreter that `compare` runs.
        for name in ("argv", "plan", "workload", "model", "boundaries", "warnings", "error"):
            setattr(self.manifest, name, with_short_paths(getattr(self.manifest, name)))
        write_manifest(self.folder, self.manifest)

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
        self.manifest.samples_sha256 = self._digest.hexdigest()
        try:
            self.save_manifest()
        except InputError:
            # On a full disk the first error is the one to tell; a reader sees `running` without
            # a lock, and knows that the run ended there.
            if kind is None:
                raise
        finally:
            self._lock.close()


class _Files(msgspec.Struct):
    files: list[str] = []


def _derived_files(folder: Path) -> list[str]:
    """What the manifest in the folder, of whatever version, says that its run made."""
    try:
        return decode(read_regular(folder / MANIFEST), _Files).files
    except (OSError, DamagedError):
        return []


def remove_derived(folder: Path, names: Iterable[str]) -> None:
    """Remove derived files of a run: regular files in its folder, of the kinds that experiments make, and no others.

    Raises:
        OSError: one cannot be removed.
    """
    for name in names:
        path = folder / name
        if Path(name).name == name != MANIFEST and path.suffix in _DERIVED and is_regular(path):
            path.unlink()


def _own_hidden(name: str) -> bool:
    """Whether a file of this name is the lock, or what a kill left of a file that was about to be written."""
    return name == LOCK or is_leftover(name) or _BESIDE.fullmatch(name) is not None


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
