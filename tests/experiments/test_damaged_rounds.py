"""Rounds that can be read one by one and do not belong together: a stored run says so in one line, nothing is shown."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep._version import __version__
from perstep.experiments import pipeline
from perstep.runs import SAMPLES

from ..conftest import Cli

GOLDEN = Path(__file__).parents[1] / "golden"


def first_column(sample: Any) -> list[int]:
    """The first list of whole numbers within a round."""
    values = sample.values() if isinstance(sample, dict) else sample
    if isinstance(sample, list) and len(sample) > 1 and all(isinstance(value, int) for value in sample):
        return sample
    nested = (first_column(value) for value in values if isinstance(value, dict | list))
    return next((column for column in nested if column), [])


DAMAGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a part of one round": ("mask", lambda s: s["cells"]["mini/b1/x1"]["naive"]["parts"].pop("lm_head")),
    "a step of one round": ("mask", lambda s: s["cells"]["mini/b1/x1"]["table"]["step_ns"].pop()),
    "a part of an arm": ("ops", lambda s: s["lengths"][0]["arms"]["mask=rebuild"]["parts"].pop("mlp")),
    "an arm": ("ops", lambda s: s["lengths"][1]["arms"].clear()),
    "the layers": ("ops", lambda s: s["lengths"][2]["plain"]["parts"].clear()),
    "a way to mask": ("ops", lambda s: s["lengths"][2]["attention"].clear()),
    "a part in place": ("generate", lambda s: s["in_place"]["all"]["parts"].pop("stop/WordInPython")),
    "a marked cell": ("generate", lambda s: s["in_place"].pop("none")),
    "a cell": ("generate", lambda s: s["ns"].pop("without word")),
    "a number of a column": ("depth", lambda s: first_column(s).pop()),
    "a kind": ("ledger", lambda s: [p["kinds"].pop("prefill") for p in s["passes"]]),
}


@pytest.mark.parametrize("lost", DAMAGES)
def test_a_round_that_lacks_something_is_refused(lost: str, cli: Cli, tmp_path: Path) -> None:
    """By what is lost, with what to do."""
    name, damage = DAMAGES[lost]
    run = shutil.copytree(GOLDEN / name, tmp_path / name)
    lines = [json.loads(line) for line in (run / SAMPLES).read_text().splitlines()]
    damage(lines[2])
    (run / SAMPLES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = cli("show", run)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "restore the file, or measure again" in said.err


def test_a_manifest_that_does_not_fit_its_samples_is_refused(cli: Cli, tmp_path: Path) -> None:
    """An arm that no round has: in one line, which says that the samples are as they were measured."""
    run = shutil.copytree(GOLDEN / "compare", tmp_path / "compare")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["conditions"]["arms"][0] += "x"
    manifest["perstep_version"] = __version__
    (run / "manifest.json").write_text(json.dumps(manifest))
    said = cli("show", run)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "cannot be analysed (KeyError: " in said.err
    assert "samples.jsonl is what the run wrote, so manifest.json was changed" in said.err

    manifest["perstep_version"] = "0.0.9"
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "is what perstep 0.0.9 wrote" in cli("show", run).err


def test_samples_that_were_changed_are_named(cli: Cli, tmp_path: Path) -> None:
    """A cell that one round lost: in one line, which says that the samples differ from those that were measured."""
    run = shutil.copytree(GOLDEN / "depth", tmp_path / "depth")
    lines = [json.loads(line) for line in (run / SAMPLES).read_text().splitlines()]
    first_column(lines[2]).pop()
    (run / SAMPLES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = cli("show", run)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "somebody changed samples.jsonl after the run (its SHA-256 differs); restore the file" in said.err


def test_a_full_disk_is_not_blamed_on_the_files_of_a_run(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system says of a file that could not be read passes as it is."""
    run = shutil.copytree(GOLDEN / "compare", tmp_path / "compare")

    def full(*_: object, **__: object) -> bytes:
        raise OSError(28, "No space left on device", "/somewhere/font.cache")

    monkeypatch.setattr(pipeline, "render_page", full)
    said = cli("report", run)
    assert (said.code, said.out) == (2, "")
    assert said.err == "perstep: /somewhere/font.cache: No space left on device\n"
