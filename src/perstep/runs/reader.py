"""Reading runs: their manifests and their samples, streamed a round at a time.

A last line that was cut off by a kill is left out and said; a broken line in the middle is
damage, named and refused. Nothing is ever unpickled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from perstep.errors import InputError
from perstep.runs.columns import sample_decoder

SAMPLES = "samples.jsonl"
"""The file of samples in a run's folder."""

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Cut:
    """What `iter_samples` yields last when the file's last line is unfinished."""

    line: int


def iter_samples(folder: Path, kind: type[Sample]) -> Iterator[Sample | Cut]:
    """The rounds of a run, in order, each decoded as `kind`; a `Cut` at the end if the last line is unfinished.

    Raises:
        InputError: there are no samples, or a line that is not the last cannot be read.
    """
    path = folder / SAMPLES
    decoder = sample_decoder(kind)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    yield Cut(number)
                    return
                try:
                    yield decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise InputError(
                        f"{path} line {number} is damaged ({error}); restore the file, or measure again"
                    ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; the run has no samples") from error


def read_samples(folder: Path, kind: type[Sample]) -> tuple[list[Sample], list[str]]:
    """All rounds of a run, and sentences about what was repaired.

    Raises:
        InputError: as `iter_samples`.
    """
    samples: list[Sample] = []
    notes: list[str] = []
    for sample in iter_samples(folder, kind):
        if isinstance(sample, Cut):
            notes.append(f"line {sample.line} of {SAMPLES} was cut off while it was written and is left out")
        else:
            samples.append(sample)
    return samples, notes


def whole_lines(path: Path) -> tuple[int, int]:
    """The number of whole lines in a file and the bytes they take."""
    lines = size = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                lines += 1
                size += len(line)
    return lines, size
