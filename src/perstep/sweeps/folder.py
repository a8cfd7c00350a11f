"""A sweep's folder: what is to be measured, with which versions, and where each cell lies.

`sweep.json` is written once, before the first cell. Everything after that is a claim or an end of an attempt
(`queue.py`), or derived.
"""

import hashlib
import platform
import secrets
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from perstep._json import DamagedError, decode, schema_version
from perstep._version import __version__
from perstep.errors import InputError, how_to_install
from perstep.runs import cannot_write, children, encode_json, is_leftover, read_regular, replace_file
from perstep.sweeps.grid import Cell, Grid

SWEEPS = Path(".perstep") / "sweeps"
"""Where sweeps are stored unless a folder is named."""
SWEEP = "sweep.json"
CELLS = "cells"
_SCHEMA_VERSION = 1
_PACKAGES = {"numpy": "", "torch": "hf", "transformers": "hf"}
"""Package -> the extra that brings it: cells of other versions are other measurements."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep is.

    Attributes:
        schema_version: of the folder.
        sweep_id: 16 random hexadecimal digits; the manifest of each cell repeats them.
        grid_sha256: of the grid's file.
        grid: what the file said.
        cells: in the order in which they are measured.
        versions: of Python, perstep and the packages that matter, where the sweep began.
    """

    sweep_id: str
    grid_sha256: str
    grid: Grid
    cells: list[Cell]
    versions: dict[str, str]
    schema_version: int = _SCHEMA_VERSION


def begin(folder: Path, grid: Grid, raw: bytes, cells: list[Cell]) -> Sweep:
    """Write a new sweep.

    Args:
        folder: made if it is not there.
        grid: what its file says.
        raw: the bytes of that file.
        cells: in their order.

    Raises:
        InputError: the folder has something in it, or cannot be written.
    """
    refuse_used(folder)
    sweep = Sweep(
        sweep_id=secrets.token_hex(8),
        grid_sha256=hashlib.sha256(raw).hexdigest(),
        grid=grid,
        cells=cells,
        versions=versions_here(),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / SWEEP, encode_json(sweep))  # first: a folder that is killed before it is free again
        (folder / CELLS).mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return sweep


def refuse_used(folder: Path) -> None:
    """See that nothing lies in the folder of a new sweep, but what a kill left of its first file.

    Raises:
        InputError: something does.
    """
    if not all(is_leftover(path.name) for path in children(folder)):
        raise InputError(f"--out {folder} is not empty; choose another folder, or go on with --resume")


def read_sweep(folder: Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        InputError: there is none, or it is damaged, or a newer perstep wrote it.
    """
    path = folder / SWEEP
    try:
        raw = read_regular(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"{folder} is no sweep: cannot read {SWEEP} ({why}); `perstep sweep GRID.toml` makes one"
        ) from error
    try:
        version = schema_version(raw)
        if version != _SCHEMA_VERSION:
            raise InputError(f"{path} has schema_version {version}, this perstep reads {_SCHEMA_VERSION}")
        sweep = decode(raw, Sweep)
        _check(sweep)
    except DamagedError as error:
        raise InputError(f"{path} is damaged: {error}; restore it, or begin again in another folder") from error
    return sweep


def _check(sweep: Sweep) -> None:
    """See that the cells are those of a grid: the table has a column an axis, and a folder a cell."""
    if not sweep.cells or len({cell.key for cell in sweep.cells}) < len(sweep.cells):
        raise DamagedError("it has no cell, or one of them twice")
    if any(list(cell.values) != list(sweep.grid.grid) for cell in sweep.cells):
        raise DamagedError("a cell has other axes than the grid")


def check_resumed(sweep: Sweep, raw: bytes, folder: Path) -> None:
    """See that a grid is the one that a sweep was begun with.

    Raises:
        InputError: it is not.
    """
    if hashlib.sha256(raw).hexdigest() != sweep.grid_sha256:
        raise InputError(f"{folder} was begun with another grid; resume it with that file, or choose another --out")


def versions_here() -> dict[str, str]:
    """The versions that decide what a cell measures, in this environment; what is not installed is left out."""
    versions = {"python": platform.python_version(), "perstep": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def check_versions(sweep: Sweep, here: dict[str, str], where: str) -> None:
    """See that this environment measures what the sweep's first one did.

    Args:
        sweep: with the versions it was begun with.
        here: versions of an environment.
        where: that is, for the message.

    Raises:
        InputError: a version differs, or a package is missing; all of them are named.
    """
    wrong = []
    for name, then in sweep.versions.items():
        now = here.get(name)
        if now is None:
            extra = _PACKAGES.get(name, "")
            wrong.append(f"{name} {then} is not installed" + (f" ({how_to_install(extra)})" if extra else ""))
        elif now != then:
            wrong.append(f"{name} is {now}, not {then}")
    if wrong:
        raise InputError(f"{where} would measure something else than this sweep: {'; '.join(wrong)}")
