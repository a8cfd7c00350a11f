"""Finding runs: by path, under `.perstep/runs` by number or name, among the baselines by name."""

import os
from dataclasses import dataclass
from math import inf
from pathlib import Path

from perstep._words import plural
from perstep.errors import InputError
from perstep.runs.baselines import BASELINES, baseline_folder, baselines_in_words
from perstep.runs.files import children
from perstep.runs.lock import is_being_written
from perstep.runs.manifest import MANIFEST, Manifest, Status, read_manifest
from perstep.runs.writer import RUNS

_MOST_DIGITS = 18


@dataclass(frozen=True)
class StoredRun:
    """A run on disk."""

    folder: Path
    manifest: Manifest

    @property
    def status(self) -> str:
        """The manifest's status; `interrupted` for one that says `running` though nobody writes it any more."""
        if self.manifest.status is Status.RUNNING and not is_being_written(self.folder):
            return Status.INTERRUPTED.value
        return self.manifest.status.value


def open_run(name: str | Path, root: Path = RUNS, baselines: Path = BASELINES) -> StoredRun:
    """The run that a person named: a folder, a name under `root` such as `0007-ledger`, its number `7`, or a baseline.

    Raises:
        InputError: there is no such run, or more than one.
    """
    path = Path(name)
    if os.path.lexists(path / MANIFEST):
        return StoredRun(path, read_manifest(path))
    number = int(str(name)) if str(name).isdecimal() and len(str(name)) <= _MOST_DIGITS else None
    hits = [run for run in _folders(root) if run.name == str(name) or _number(run) == number]
    if len(hits) > 1:
        raise InputError(
            f"{name} names {plural(len(hits), 'run')}: {', '.join(run.name for run in hits)}; give the whole name"
        )
    folder = hits[0] if hits else baseline_folder(str(name), baselines)
    if folder is None and path.is_dir():
        folder = path  # to be told what it lacks
    if folder is None:
        raise InputError(
            f"no run {name}: it is no folder, and not under {root}; `perstep list` shows the runs, and"
            f" {baselines_in_words(baselines)}"
        )
    return StoredRun(folder, read_manifest(folder))


def _folders(root: Path) -> list[Path]:
    """The runs under `root` by number; those without one last, by name."""
    runs = [path for path in children(root) if os.path.lexists(path / MANIFEST)]
    return sorted(runs, key=lambda path: (_number(path), path.name))


def _number(run: Path) -> float:
    digits = run.name.split("-")[0]
    return int(digits) if digits.isdecimal() else inf


def list_runs(root: Path = RUNS) -> list[StoredRun]:
    """The runs under `root`, oldest first; folders that are no runs, or cannot be read, are passed over."""
    return read_runs(root)[0]


def read_runs(root: Path = RUNS) -> tuple[list[StoredRun], list[str]]:
    """The runs under `root`, oldest first, and why others cannot be read; other folders are passed over."""
    runs, wrong = [], []
    for path in _folders(root):
        try:
            runs.append(StoredRun(path, read_manifest(path)))
        except InputError as error:
            wrong.append(str(error))
    return runs, wrong
