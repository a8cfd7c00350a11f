"""Stored runs, one of each experiment: what is derived from manifest and samples stays what it was, byte for byte.

The runs under `golden/` were measured once (`golden/make.sh`). `perstep report` makes every derived file of them
again; a change of the code that alters one of them on purpose commits the file with it. Pictures are compared by their
pixels: two machines may compress them differently.
"""

import io
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from perstep.experiments import pipeline, registry

GOLDEN = Path(__file__).parent / "golden"
PIXELS_MAY_DIFFER_BY = 2 / 255

pytestmark = pytest.mark.pictures


def test_every_experiment_has_a_stored_run() -> None:
    """One folder each."""
    assert {path.name for path in GOLDEN.iterdir() if path.is_dir()} == set(registry.EXPERIMENTS)


@pytest.mark.parametrize("name", registry.EXPERIMENTS)
def test_the_stored_runs_are_as_they_were_written(name: str) -> None:
    """So nothing of what tests find in them is put down to a damage."""
    assert pipeline.look(GOLDEN / name).notes == []


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


def test_a_difference_that_no_name_explains_is_found() -> None:
    """A renamed value is none; a changed one, a lost one and a new one are."""
    differences = runpy.run_path(str(Path(__file__).parent / "golden_names.py"))["differences"]
    names = {"/arms/*/ns": "/arms/*/wall/ns", "added": ["/arms/*/wall/ties"]}
    old = {"arms": {"a": {"ns": 1.0, "calls": 2}}}
    assert differences(old, {"arms": {"a": {"wall": {"ns": 1.0, "ties": 0}, "calls": 2}}}, names, {}) == []
    found = differences(old, {"arms": {"a": {"wall": {"ns": 1.5}, "more": 2}}}, names, {})
    assert [line.split(":")[0] for line in found] == ["/arms/a/calls", "/arms/a/more", "/arms/a/wall/ns"]
    assert differences({"said": "a riddle"}, {"said": "a word"}, {}, {"riddle": "word"}) == []
    assert differences({"said": "a riddle"}, {"said": "a fact"}, {}, {"riddle": "word"}) != []
