"""Stored runs, one of each experiment: what is derived from manifest and samples stays what it was, byte for byte.

The runs under `golden/` were measured once (`golden/make.sh`). `perstep report` makes every derived file of them
again; a change of the code that alters one of them on purpose commits the file with it. Pictures are compared by their
pixels: two machines may compress them differently.
"""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest

from perstep.experiments import pipeline, registry

GOLDEN = Path(__file__).parent / "golden"
PIXELS_MAY_DIFFER_BY = 2 / 255


def test_every_experiment_has_a_stored_run() -> None:
    """One folder each."""
    assert {path.name for path in GOLDEN.iterdir() if path.is_dir()} == set(registry.EXPERIMENTS)


@pytest.mark.parametrize("name", registry.EXPERIMENTS)
def test_report_derives_the_same_files(name: str, tmp_path: Path) -> None:
    """All of them, and no others; the manifest too, which holds the headline."""
    stored = {path.name: path.read_bytes() for path in (GOLDEN / name).iterdir()}
    run = tmp_path / name
    shutil.copytree(GOLDEN / name, run)
    for path in run.iterdir():
        if path.name not in ("manifest.json", "samples.jsonl"):
            path.unlink()
    pipeline.rebuild(run)
    made = {path.name: path.read_bytes() for path in run.iterdir() if not path.name.startswith(".")}
    assert made.keys() == stored.keys()
    assert [file for file in stored if not _alike(file, stored[file], made[file])] == []


def _alike(file: str, stored: bytes, made: bytes) -> bool:
    return _same_picture(stored, made) if file.endswith(".png") else stored == made


def _same_picture(stored: bytes, made: bytes) -> bool:
    from matplotlib.image import imread

    one, other = (np.asarray(imread(io.BytesIO(data))) for data in (stored, made))
    return one.shape == other.shape and bool(np.abs(one - other).max() <= PIXELS_MAY_DIFFER_BY)
