"""Ceilings kept between runs, in a folder of the user's, one JSON file per machine.

A cache, not a record: a file that is damaged, newer than this program, about
other hardware, versions or limits, or of a busy machine is ignored with a
reason, and a folder that cannot be written to costs a warning. Ceilings of a
busy machine are not stored. Files are replaced atomically.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perstep._json import DamagedError, decode, schema_version
from perstep.machine.ceilings import SCHEMA_VERSION, Ceilings, allowed_cpu_count, ceiling_versions
from perstep.machine.describe import identity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perstep.machine.describe import Machine


@dataclass(frozen=True)
class LoadedCeilings:
    """Stored ceilings that hold for this machine, or None and in `reason` why there are none.

    `warning` is set if a file was there and could not be read.
    """

    ceilings: Ceilings | None
    reason: str = ""
    warning: str = ""


@dataclass(frozen=True)
class SavedCeilings:
    """Where ceilings were stored, or None and in `warning` why they were not."""

    path: Path | None
    warning: str = ""


def cache_folder(environ: Mapping[str, str] | None = None) -> Path | None:
    """`$PERSTEP_CACHE_DIR`, else `perstep` in `$XDG_CACHE_HOME`, else in `~/.cache`.

    None if there is no home folder. A relative `$XDG_CACHE_HOME` does not
    count, as the XDG base directory specification has it.
    """
    environ = os.environ if environ is None else environ
    own, xdg, home = (environ.get(name, "") for name in ("PERSTEP_CACHE_DIR", "XDG_CACHE_HOME", "HOME"))
    if own:
        return Path(own)
    if xdg and Path(xdg).is_absolute():
        return Path(xdg) / "perstep"
    return Path(home) / ".cache" / "perstep" if home else None


def ceilings_path(machine_identity: str, folder: Path) -> Path:
    """The file of one machine's ceilings."""
    return folder / f"ceilings-{machine_identity}.json"


def save_ceilings(ceilings: Ceilings, folder: Path | None = None) -> SavedCeilings:
    """Store ceilings for their machine, replacing older ones, unless they were disturbed.

    Args:
        ceilings: what was measured.
        folder: where; by default `cache_folder()`.

    Returns:
        The file, or a warning if the folder cannot be written to or they were disturbed. Never raises for that.
    """
    import tempfile

    if reason := ceilings.disturbed():
        return SavedCeilings(None, f"ceilings were not stored: {reason}. Measure again when this machine is quiet")
    folder = folder or cache_folder()
    if folder is None:
        return SavedCeilings(None, "ceilings were not stored: no home folder; set PERSTEP_CACHE_DIR")
    path = ceilings_path(ceilings.identity, folder)
    content = msgspec.json.format(msgspec.json.encode(ceilings), indent=1)
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=path.name, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            file.write(content + b"\n")
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        return SavedCeilings(
            None,
            f"ceilings were not stored in {folder}: {error.strerror}. Set PERSTEP_CACHE_DIR to a folder "
            "that can be written to, or they are measured again each time",
        )
    return SavedCeilings(path)


def load_ceilings(machine: Machine, folder: Path | None = None, *, threads: int | None = None) -> LoadedCeilings:
    """The stored ceilings, if they hold for this machine as it is now.

    Args:
        machine: the manifest.
        folder: where; by default `cache_folder()`.
        threads: a thread count that they must have been measured with.

    Returns:
        The ceilings, or None with the reason. Never raises for a bad file.
    """
    folder = folder or cache_folder()
    if folder is None:
        return LoadedCeilings(None, "there is no home folder; set PERSTEP_CACHE_DIR")
    path = ceilings_path(identity(machine), folder)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return LoadedCeilings(None, "none are stored for this machine")
    except OSError as error:
        return LoadedCeilings(None, "the file is unreadable", f"{path} was ignored: {error.strerror}")
    try:
        version = schema_version(content)
        if version > SCHEMA_VERSION:
            reason = f"schema_version {version} is newer than {SCHEMA_VERSION}, which this perstep reads"
            return LoadedCeilings(None, reason, f"{path} was ignored: {reason}")
        ceilings = decode(content, Ceilings)
    except DamagedError as error:
        return LoadedCeilings(None, "the file is damaged", f"{path} was ignored, it is damaged: {error}")
    reason = _why_not(ceilings, machine, threads)
    return LoadedCeilings(None, reason) if reason else LoadedCeilings(ceilings)


def _why_not(ceilings: Ceilings, machine: Machine, threads: int | None) -> str:
    """Why stored ceilings do not hold now; empty if they do."""
    if ceilings.identity != identity(machine):
        return "they are another machine's"
    now, then = ceiling_versions(machine), ceilings.versions
    for name in sorted(now):
        if now[name] != then.get(name):
            return f"they were measured with {name} {then.get(name, 'not imported')}, now it is {now[name]}"
    if ceilings.allowed_cpus != allowed_cpu_count(machine):
        return f"the number of allowed CPUs was {ceilings.allowed_cpus}, now it is {allowed_cpu_count(machine)}"
    if ceilings.cpu_quota_cores != machine.cgroup.cpu_quota_cores:
        return (
            f"they were measured under a CPU quota of {ceilings.cpu_quota_cores}, "
            f"now it is {machine.cgroup.cpu_quota_cores}"
        )
    if reason := ceilings.disturbed():
        return f"they were disturbed: {reason}"
    if threads is not None and threads not in ceilings.threads:
        return f"their numbers of threads are {list(ceilings.threads)}, not {threads}"
    return ""
