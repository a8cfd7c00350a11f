"""Reading runs: their manifests and their samples, streamed a round at a time.

A last line that was cut off by a kill is left out and said; a broken line in the middle, one of another run, or one
out of its place is damage, named and refused. Nothing is ever unpickled.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from perstep.errors import InputError
from perstep.runs.columns import sample_decoder
from perstep.runs.files import MAX_BYTES, is_regular, open_regular
from perstep.runs.manifest import read_manifest

SAMPLES = "samples.jsonl"
"""The file of samples in a run's folder."""
_REMEDY = "restore the file, or measure again"

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Cut:
    """What `iter_samples` yields last when the file's last line is unfinished."""

    line: int


@dataclass(frozen=True)
class Changed:
    """What `iter_samples` yields last when the lines can be read and are not those that the run wrote."""


class _Place(msgspec.Struct):
    """What every line says beside its sample."""

    run_id: str
    line_number: int


_PLACE = msgspec.json.Decoder(_Place)


def samples_beside(folder: Path, run_id: str) -> Path:
    """Where a new run's samples lie until its manifest stands."""
    return folder / f".{SAMPLES}.{run_id}"


def samples_path(folder: Path, run_id: str) -> Path:
    """Where the samples of the run of this id lie: where a --force was killed, not yet under their name."""
    beside = samples_beside(folder, run_id)
    return beside if run_id and is_regular(beside) else folder / SAMPLES


def iter_samples(folder: Path, kind: type[Sample]) -> Iterator[Sample | Cut | Changed]:
    """The rounds of a run, in order, each decoded as `kind`.

    At the end a `Cut` if the last line is unfinished, or else `Changed` if somebody changed the file since.

    Raises:
        InputError: there are no samples; or a line that is not the last cannot be read, is longer than `MAX_BYTES`, is
            of another run or in another's place.
    """
    manifest = read_manifest(folder)
    path = samples_path(folder, manifest.run_id)
    decoder, digest = sample_decoder(kind), hashlib.sha256()
    try:
        with open_regular(path) as file:
            for number, line in enumerate(_lines(file, path), start=1):
                if not line.endswith(b"\n"):
                    yield Cut(number)
                    return
                digest.update(line)
                try:
                    place, sample = _PLACE.decode(line), decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise InputError(f"{path} line {number} is damaged ({error}); {_REMEDY}") from error
                _check_place(place, manifest.run_id, number, path)
                yield sample
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; the run has no samples") from error
    if manifest.samples_sha256 not in ("", digest.hexdigest()):
        yield Changed()


def _lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_BYTES + 1):
        number += 1
        if len(line) > MAX_BYTES:
            raise InputError(f"{path} line {number} has more than {MAX_BYTES:,} bytes; {_REMEDY}")
        yield line


def _check_place(place: _Place, run_id: str, number: int, path: Path) -> None:
    if place.run_id != run_id:
        raise InputError(f"{path} line {number} is of another run than the manifest (its run_id differs); {_REMEDY}")
    if place.line_number != number:
        raise InputError(
            f"{path} line {number} says that it is line {place.line_number}: lines were added, lost or moved; {_REMEDY}"
        )


def read_samples(folder: Path, kind: type[Sample]) -> tuple[list[Sample], list[str]]:
    """All rounds of a run, and sentences about what was repaired or looks wrong.

    Raises:
        InputError: as `iter_samples`.
    """
    samples: list[Sample] = []
    notes: list[str] = []
    for sample in iter_samples(folder, kind):
        if isinstance(sample, Cut):
            notes.append(f"line {sample.line} of {SAMPLES} was cut off while it was written and is left out")
        elif isinstance(sample, Changed):
            notes.append(
                f"{SAMPLES} is not what the run wrote (its SHA-256 differs); the figures are of what it holds now"
            )
        else:
            samples.append(sample)
    return samples, notes


@dataclass(frozen=True)
class WholeLines:
    """The whole lines of a file: how many, their bytes, and the SHA-256 of them so far."""

    count: int
    size: int
    digest: "hashlib._Hash"


def whole_lines(path: Path) -> WholeLines:
    """The whole lines in a file of samples.

    Raises:
        InputError: a line has more than `MAX_BYTES`.
        OSError: it cannot be read.
    """
    count = size = 0
    digest = hashlib.sha256()
    with open_regular(path) as file:
        for line in _lines(file, path):
            if line.endswith(b"\n"):
                count += 1
                size += len(line)
                digest.update(line)
    return WholeLines(count, size, digest)
