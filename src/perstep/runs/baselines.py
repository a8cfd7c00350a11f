"""Named baselines: copies of runs under `.perstep/baselines/<name>/`, to compare later runs with.

A copy appears whole or not at all, and a baseline is replaced only by another of the same name. Names are
checked, so that none leads out of the folder, hides in it, or could be taken for a run's number.
"""

import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from perstep.errors import InputError
from perstep.runs.files import NotRegularError, cannot_write, children, is_regular, open_regular
from perstep.runs.lock import is_being_written
from perstep.runs.manifest import MANIFEST, read_manifest
from perstep.runs.reader import SAMPLES, samples_path

BASELINES = Path(".perstep") / "baselines"
"""Where baselines are kept."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_MOVED = re.compile(r"\.(.+)\.[0-9a-f]{16}\.(?:new|old)")
"""A baseline that is being replaced; a kill between the two renames leaves the old one there, and no other."""


def check_baseline_name(name: str) -> str:
    """The name itself, if it can be a baseline's.

    Raises:
        InputError: it cannot.
    """
    if not _NAME.fullmatch(name) or name.isdigit():
        raise InputError(
            f"{name!r} cannot be the name of a baseline; use letters, digits, '.', '_' and '-' (up to 100, not digits"
            " alone, and no '.' or '-' first)"
        )
    return name


def list_baselines(root: Path = BASELINES) -> list[str]:
    """The names of the baselines there are, sorted."""
    return sorted(_folders(root))


def baseline_folder(name: str, root: Path = BASELINES) -> Path | None:
    """The folder of a baseline, or None if there is no such one."""
    return _folders(root).get(name)


def _folders(root: Path) -> dict[str, Path]:
    """The baselines by name; where a kill left none under its name, the one that was being replaced."""
    runs = [path for path in children(root) if is_regular(path / MANIFEST)]
    moved = {match[1]: path for path in runs if (match := _MOVED.fullmatch(path.name)) and path.suffix == ".old"}
    return {**moved, **{path.name: path for path in runs if _NAME.fullmatch(path.name)}}


def require_baseline(name: str, root: Path = BASELINES) -> Path:
    """The folder of a baseline.

    Raises:
        InputError: there is none of this name; it says which there are.
    """
    folder = baseline_folder(check_baseline_name(name), root)
    if folder is None:
        raise InputError(f"no baseline {name}; {baselines_in_words(root)}")
    return folder


def baselines_in_words(root: Path = BASELINES) -> str:
    """Which baselines there are, as the end of a sentence."""
    names = list_baselines(root)
    return (
        f"the baselines are {', '.join(names)}" if names else "there are no baselines; --save-baseline NAME makes one"
    )


def save_baseline(name: str, run: Path, root: Path = BASELINES) -> Path:
    """Copy a run into the baselines under this name, replacing the one that had it.

    Args:
        name: of the baseline.
        run: a run's folder; its manifest, samples and derived files are copied, nothing else that lies there.
        root: the folder of the baselines.

    Returns:
        The baseline's folder.

    Raises:
        InputError: the name cannot be used, `run` is no run or is being written, or the copy cannot be written; an
            older baseline of this name is then untouched.
    """
    target = root / check_baseline_name(name)
    if is_being_written(run):
        raise InputError(f"{run} is being written; make it a baseline when it has ended")
    manifest = read_manifest(run)
    files = {MANIFEST, *(file for file in manifest.files if Path(file).name == file)} - {SAMPLES}
    tag = secrets.token_hex(8)
    copy, old = (root / f".{name}.{tag}.{what}" for what in ("new", "old"))
    try:
        copy.mkdir(parents=True)
        _copy(samples_path(run, manifest.run_id), copy / SAMPLES)
        for file in sorted(files):
            with suppress(FileNotFoundError, NotRegularError):  # what is no file of the run is not copied
                _copy(run / file, copy / file)
        _exchange(copy, target, old)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        if target.exists():
            _remove_moved(name, root)
    return target


def _copy(source: Path, target: Path) -> None:
    """Copy a regular file to a place where none is."""
    with open_regular(source) as file, open_regular(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as copy:
        shutil.copyfileobj(file, copy)


def _remove_moved(name: str, root: Path) -> None:
    """Remove what this and earlier replacements, which were killed, left of a baseline."""
    for path in children(root):
        if (match := _MOVED.fullmatch(path.name)) and match[1] == name:
            shutil.rmtree(path, ignore_errors=True)


def _exchange(copy: Path, target: Path, old: Path) -> None:
    """Put `copy` where `target` is, and what was there into `old`; back again if that fails."""
    there = os.path.lexists(target)
    if there:
        target.rename(old)
    try:
        copy.rename(target)
    except OSError:
        if there:
            with suppress(OSError):
                old.rename(target)
        raise
