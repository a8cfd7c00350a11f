"""Rounds that can be read one by one and do not belong together: a stored run says so in one line, nothing is shown."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from perstep.experiments import pipeline, registry
from perstep.runs import MANIFEST, SAMPLES, read_manifest, write_manifest

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
    """An arm that no round has: in one line, which says that the manifest is not as it was written."""
    run = shutil.copytree(GOLDEN / "compare", tmp_path / "compare")
    manifest = json.loads((run / MANIFEST).read_text())
    manifest["conditions"]["arms"][0] += "x"
    (run / MANIFEST).write_text(json.dumps(manifest))
    said = cli("show", run)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "cannot be analysed (KeyError: " in said.err
    assert "): manifest.json is not what the run wrote (its SHA-256 differs); restore the file, or measure" in said.err


def test_samples_that_were_changed_are_named(cli: Cli, tmp_path: Path) -> None:
    """A cell that one round lost: in one line, which says that the samples differ from those that were measured."""
    run = shutil.copytree(GOLDEN / "depth", tmp_path / "depth")
    lines = [json.loads(line) for line in (run / SAMPLES).read_text().splitlines()]
    first_column(lines[2]).pop()
    (run / SAMPLES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = cli("show", run)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "): samples.jsonl is not what the run wrote (its SHA-256 differs); restore the file" in said.err


def broken(*_: object) -> NoReturn:
    """A fault of ours."""
    raise KeyError("mlp")


@pytest.mark.parametrize("what", ["tables", "analyse"])
@pytest.mark.parametrize("name", registry.EXPERIMENTS)
def test_a_fault_of_ours_is_not_blamed_on_the_files(
    name: str, what: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is as it was written is not at fault: the error is unexpected, and --traceback shows where."""
    monkeypatch.setattr(registry.find(name), what, broken)
    said = cli("show", GOLDEN / name)
    assert (said.code, said.out, said.err.count("\n")) == (70, "", 1)
    assert said.err.startswith("perstep: unexpected KeyError: 'mlp'; this is a fault of perstep: please report it")
    assert "in broken" in cli("show", GOLDEN / name, "--traceback").err


def test_of_a_killed_run_nobody_can_tell(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no SHA-256 of its samples, so both are said: restore the file, or report it."""
    run = shutil.copytree(GOLDEN / "compare", tmp_path / "compare")
    manifest = read_manifest(run)
    manifest.samples_sha256 = ""
    write_manifest(run, manifest)
    monkeypatch.setattr(registry.find("compare"), "tables", broken)
    said = cli("show", run)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "because the run was killed; if nobody did, please report it; restore the file, or measure again" in said.err


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
