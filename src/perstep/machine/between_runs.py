"""How much whole runs of the same code differ on this machine, kept between runs.

What `perstep selftest` learns from A/A runs of the built-in model, for comparisons of stored runs of
which there are too few identical ones (docs/compare.md). A cache like the ceilings: one JSON
file a machine; a file that is damaged, newer than this program or about another machine does
not count, and the next self-test replaces it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import msgspec

from perstep._json import DamagedError, decode
from perstep.machine.store import cache_folder

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = 1


class BetweenRunNoise(msgspec.Struct, frozen=True, kw_only=True):
    """The spread of runs of the same code.

    Attributes:
        identity: of the machine (`perstep.machine.identity`).
        sd_log: part (`step`, `mlp`, `prefill.step`, ...) -> standard deviation of the logarithm of a run's
            estimate; 0.01 is about 1 %.
        df: degrees of freedom behind each of them.
        runs: A/A runs that it was learned from.
        workload: what they measured, in words.
        measured_at: UTC, ISO 8601.
        perstep_version: what measured them.
        schema_version: of this record.
    """

    identity: str
    sd_log: dict[str, float]
    df: int
    runs: int
    workload: str
    measured_at: str
    perstep_version: str
    schema_version: int = SCHEMA_VERSION


def save_between_run_noise(noise: BetweenRunNoise, folder: Path | None = None) -> Path | None:
    """Store the record for its machine, replacing an older one.

    Args:
        noise: what was learned.
        folder: where; by default `cache_folder()`.

    Returns:
        The file, or None if there is no folder that can be written to. Never raises for that.
    """
    folder = folder or cache_folder()
    if folder is None:
        return None
    path = _path(noise.identity, folder)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(noise), indent=2) + b"\n")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        return None
    return path


def load_between_run_noise(machine_identity: str, folder: Path | None = None) -> BetweenRunNoise | None:
    """The stored record of a machine, or None if there is none that can be used.

    Args:
        machine_identity: from `perstep.machine.identity`.
        folder: where; by default `cache_folder()`.
    """
    folder = folder or cache_folder()
    if folder is None:
        return None
    try:
        noise = decode(_path(machine_identity, folder).read_bytes(), BetweenRunNoise)
    except (OSError, DamagedError):
        return None
    usable = noise.schema_version <= SCHEMA_VERSION and noise.identity == machine_identity and noise.df > 0
    sane = all(0 <= sd < float("inf") for sd in noise.sd_log.values())
    return noise if usable and sane and noise.sd_log else None


def _path(machine_identity: str, folder: Path) -> Path:
    return folder / f"between-runs-{machine_identity}.json"
