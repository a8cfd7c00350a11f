"""A small experiment's samples, and run folders that hold them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perstep.runs import Manifest, RunWriter


class Round(msgspec.Struct):
    """A sample that is as simple as can be."""

    round: int
    step_ns: list[int]


def manifest(**plan: Any) -> Manifest:
    """A manifest as an experiment would hand it in."""
    return Manifest(experiment="ledger", plan={"new_tokens": 4, **plan}, workload={"batch": 1})


@pytest.fixture
def sample_kind() -> type[Round]:
    """What `samples.jsonl` holds here."""
    return Round


@pytest.fixture
def new_manifest() -> Callable[..., Manifest]:
    """`new_manifest(**plan)`: as an experiment would hand it in."""
    return manifest


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """`write_run(folder, rounds=3)`: a complete run."""

    def write(folder: Path, rounds: int = 3, files: tuple[str, ...] = ()) -> Path:
        with RunWriter(folder, manifest()) as writer:
            for number in range(rounds):
                writer.append(Round(number, [number, 10 * number]))
            for name in files:
                (folder / name).write_text("derived")
            writer.manifest.files = list(files)
        return folder

    return write
