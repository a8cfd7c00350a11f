"""Finding runs: under `.perstep/runs`, by number, by name or by path."""

from dataclasses import dataclass
from pathlib import Path

from perstep.errors import InputError
from perstep.runs.manifest import MANIFEST, Manifest, Status, read_manifest
from perstep.runs.writer import RUNS, is_being_written


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


def open_run(name: str | Path, root: Path = RUNS) -> StoredRun:
    """The run that a person named: a folder, a name under `root` such as `0007-ledger`, or its number `7`.

    Raises:
        InputError: there is no such run, or more than one.
    """
    path = Path(name)
    if path.is_dir():
        return StoredRun(path, read_manifest(path))
    found = [run for run in sorted(root.glob("*-*")) if run.name == str(name) or _has_number(run, str(name))]
    if len(found) > 1:
        raise InputError(f"{name} names {len(found)} runs: {', '.join(run.name for run in found)}; give the whole name")
    if not found:
        raise InputError(f"no run {name}: it is no folder, and not under {root}; `perstep list` shows the runs")
    return StoredRun(found[0], read_manifest(found[0]))


def _has_number(run: Path, name: str) -> bool:
    return name.isdigit() and run.name.split("-")[0].isdigit() and int(run.name.split("-")[0]) == int(name)


def list_runs(root: Path = RUNS) -> list[StoredRun]:
    """The runs under `root`, oldest first; folders that are no runs are passed over."""
    runs = []
    for path in sorted(root.glob("*-*")):
        if (path / MANIFEST).is_file():
            try:
                runs.append(StoredRun(path, read_manifest(path)))
            except InputError:
                continue
    return runs
