"""A run's manifest: who measured what, where, how and under which conditions.

It is written before the first sample and finalised after the last, so that a run
that died still says what it was. Readers ignore fields they do not know and refuse
another `schema_version` by name.
"""

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from perstep._json import DamagedError, Json, decode, schema_version
from perstep.errors import InputError
from perstep.runs.files import encode_json, read_regular, replace_file

SCHEMA_VERSION = 2
"""Of manifest, samples and results; another one is refused by name."""
READ_BY = {1: "0.1.0"}
"""The last perstep that reads an older version of the run folder."""
MANIFEST = "manifest.json"
"""The file of the manifest in a run's folder."""


class Status(StrEnum):
    """How far a run got."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Manifest(msgspec.Struct, kw_only=True):
    """Everything about a run but its numbers.

    Attributes:
        schema_version: of the whole run folder; raised when a reader of the old one would be misled.
        run_id: 16 random hexadecimal digits; each line of the samples repeats them, so that lines of two runs are
            never mixed.
        status: how far the run got.
        experiment: the name under which it is registered (`ledger`, `mask`, ...).
        plan: the experiment's options, by field name.
        seed: of prompts, sampling and arm order.
        started_at: UTC, ISO 8601; `finished_at` is empty while it runs.
        argv: the command line, or an empty list from Python.
        perstep_version: what measured it.
        workload: what makes two runs comparable: hashes of token ids and model config, shapes, dtype, threads.
        model: what was measured, in words and shapes.
        machine: `perstep.machine.describe()`.
        date: of the beginning, UTC, ISO 8601.
        versions: of Python and the libraries that matter.
        hardware: the machine in four facts: processor, cores and threads, memory, governor.
        config: the sizes and repetitions of an experiment that sweeps.
        conditions: how it was measured: GC, warm-up, order, clock.
        boundaries: part -> what lies inside it (law "boundaries are declared").
        noise: what disturbed it, summed over rounds.
        warnings: sentences for a person.
        results_summary: the main figures, also in `results.json`.
        files: the derived files, which `report` makes again from the samples.
        samples_sha256: of `samples.jsonl` when the run ended; empty while it runs, and after a kill.
        manifest_sha256: of this file with this field empty, which tells a damaged file from a fault of perstep.
        error: what ended a failed run.
        tag: what `--tag` called it; UNSET, and not stored, without one.
    """

    experiment: str
    plan: dict[str, Json]
    schema_version: int = SCHEMA_VERSION
    run_id: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{16})?$")] = ""
    status: Status = Status.RUNNING
    seed: int = 0
    started_at: str = ""
    finished_at: str = ""
    argv: list[str] = []
    perstep_version: str = ""
    workload: dict[str, Json] = {}
    model: dict[str, Json] = {}
    machine: dict[str, Json] = {}
    date: str = ""
    versions: dict[str, str] = {}
    hardware: dict[str, Json] = {}
    config: dict[str, Json] = {}
    conditions: dict[str, Json] = {}
    boundaries: dict[str, str] = {}
    noise: dict[str, Json] = {}
    warnings: list[str] = []
    results_summary: dict[str, Json] = {}
    files: list[str] = []
    samples_sha256: str = ""
    manifest_sha256: str = ""
    error: str = ""
    tag: str | msgspec.UnsetType = msgspec.UNSET


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the run in `folder`.

    Raises:
        InputError: there is none, it is no manifest, or it is of another `schema_version`.
    """
    path = folder / MANIFEST
    try:
        raw = read_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"{folder} is not a run: cannot read {MANIFEST} ({why}); `perstep list` shows the runs"
        ) from error
    try:
        _check_version(path, schema_version(raw))
        return decode(raw, Manifest)
    except DamagedError as error:
        raise InputError(f"{path} is not a manifest: {error}") from error


def write_manifest(folder: Path, manifest: Manifest, *, sign: bool = True) -> None:
    """Write the manifest of the run in `folder`.

    Args:
        folder: of the run.
        manifest: what is written.
        sign: write its SHA-256 with it; else the one that it holds, which tells that somebody changed it before.

    Raises:
        InputError: as `replace_file`.
    """
    if sign:
        manifest.manifest_sha256 = ""
        manifest.manifest_sha256 = hashlib.sha256(encode_json(manifest)).hexdigest()
    replace_file(folder / MANIFEST, encode_json(manifest))


def changed_manifest(folder: Path) -> str:
    """What tells that somebody changed a manifest that can be read, as a clause; empty if nobody did.

    Args:
        folder: of the run.
    """
    raw = read_regular(folder / MANIFEST)
    stored = decode(raw, dict[str, Json])
    sha256: str = stored.get("manifest_sha256", "")
    if hashlib.sha256(raw.replace(sha256.encode(), b"", 1)).hexdigest() == sha256:
        return ""
    always = [field.name for field in msgspec.structs.fields(Manifest) if field.default is not msgspec.UNSET]
    if lacking := [name for name in always if name not in stored]:
        return f"{MANIFEST} lacks {', '.join(lacking)}"
    return f"{MANIFEST} is not what the run wrote (its SHA-256 differs)"


def _check_version(path: Path, version: int) -> None:
    sentence = f"{path} has schema_version {version}, this perstep reads"
    if version > SCHEMA_VERSION:
        raise InputError(f"{sentence} up to {SCHEMA_VERSION}; install a newer one")
    if version in READ_BY:
        raise InputError(f"{sentence} {SCHEMA_VERSION}; perstep {READ_BY[version]} reads it, or measure again")
    if version != SCHEMA_VERSION:
        raise InputError(f"{sentence} {SCHEMA_VERSION}, and no perstep wrote that; restore the file, or measure again")
