"""`perstep sweep` and `perstep worker`: a grid measured whole, and everything that may be wrong with one."""

import csv
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.sweeps.folder import Sweep

ROOT = Path(__file__).parents[2]
GRID = """
experiment = "compare"
reference_every = 0
figures = ["noise.rounds", "estimates.0.label"]

[options]
rounds = 1

[grid]
arms = [["true", "true"], ["true", "false"]]
"""


SEEDS = GRID.replace('arms = [["true", "true"], ["true", "false"]]', 'seed = "1-2"').replace(
    "rounds = 1", 'rounds = 1\narms = ["true", "true"]'
)
"""Two cells of a command that succeeds."""


def write_grid(folder: Path, text: str = GRID) -> Path:
    """A grid of a command that succeeds and one that does not."""
    path = folder / "grid.toml"
    path.write_text(text)
    return path


@pytest.mark.real_clock
def test_a_grid_is_measured_and_its_failed_cell_is_listed(process: Callable[..., Any], tmp_path: Path) -> None:
    """Each cell in a process of its own; the table has both; going on measures nothing again, and says the same."""
    grid = write_grid(tmp_path)
    said = process("sweep", grid, "--out", "out", "-o", "csv", "-q", cwd=tmp_path)
    assert said.code == 4
    assert said.err.startswith("perstep: failed three times")
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").read_text().splitlines()))
    assert sorted(csv.DictReader(said.out.splitlines()), key=str) == sorted(rows, key=str)
    assert next(iter(rows[0])) == "key"
    by_arms = {row["option.arms"]: row for row in rows}
    assert {arms: (row["outcome"], row["attempts"]) for arms, row in by_arms.items()} == {
        "true true": ("done", "1"),
        "true false": ("failed", "3"),
    }
    done, failed = by_arms["true true"], by_arms["true false"]
    assert failed["why"].startswith("exit code 2: arm 'false'")
    manifest = json.loads((tmp_path / "out" / done["run"] / "manifest.json").read_text())
    assert manifest["config"]["sweep"]["attempt"] == 1
    assert manifest["config"]["sweep"]["cell"] == done["key"]
    assert manifest["argv"] == ["perstep", "compare", "--rounds=1", "--arms=true", "--arms=true"]
    assert "Failed: " in (tmp_path / "out" / "README.md").read_text()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("*")}
    again = process("sweep", grid, "--out", "out", "-o", "csv", "-q", "--resume", cwd=tmp_path)
    assert (again.code, again.out) == (said.code, said.out)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").rglob("*")} == before


BAD: dict[str, tuple[list[str], str]] = {
    "no file": (["nowhere.toml"], "cannot read nowhere.toml"),
    "no cell": (["empty.toml"], "is empty, so there is no cell"),
    "an unknown option": (["unknown.toml"], "botch"),
    "many cells": (["many.toml"], "has 100,000 cells: that takes long; take fewer values, or say --yes"),
    "ten million cells": (["huge.toml", "--yes"], "has 10,000,000 cells, of at most 100,000; take fewer values"),
    "all filtered out": (["none.toml"], "no cell passes the filters"),
    "a folder in use": (["grid.toml", "--out", "full"], "--out full is not empty"),
    "nothing to go on with": (["grid.toml", "--out", "new", "--resume"], "new is no sweep"),
    "an address without Ray": (["grid.toml", "--address", "here:1"], "--address goes with --executor ray"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(cli: Callable[..., Any], name: str) -> None:
    """Exit code 2; files as before."""
    write_grid(Path())
    start = 'experiment = "ledger"\n'
    Path("empty.toml").write_text(f"{start}[grid]\nbatch = []")
    Path("unknown.toml").write_text(f"{start}[grid]\nbotch = [1]")
    Path("many.toml").write_text(f'{start}[grid]\nseed = "1-10000"\nbatch = "1-10"')
    Path("huge.toml").write_text(f'{start}[grid]\nseed = "1-10000"\nbatch = "1-1000"')
    Path("none.toml").write_text(f'{start}where = ["batch > 8"]\n[grid]\nbatch = [1]')
    Path("full").mkdir()
    Path("full", "something").touch()
    before = sorted(Path().rglob("*"))
    words, wrong = BAD[name]
    said = cli("sweep", *words)
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert wrong in said.err
    assert sorted(Path().rglob("*")) == before


@pytest.fixture
def begun(cli: Callable[..., Any], small_sweep: Callable[..., Sweep]) -> Path:
    """A sweep's folder in the current one."""
    small_sweep(Path("out"), cells=1)
    return Path("out")


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"numpy": "1.0"}, "numpy is "),
        ({"torch": "99", "absent": "1.0"}, "absent 1.0 is not installed"),
    ],
)
def test_a_worker_with_other_versions_is_refused(
    cli: Callable[..., Any], begun: Path, change: dict[str, str], wrong: str
) -> None:
    """All of them are named, and nothing is measured."""
    sweep = json.loads((begun / "sweep.json").read_text())
    sweep["versions"] |= change
    (begun / "sweep.json").write_text(json.dumps(sweep))
    said = cli("worker", begun)
    assert said.code == 2
    assert "would measure something else" in said.err
    assert wrong in said.err
    assert list((begun / "cells").iterdir()) == []


def test_a_worker_without_the_extra_is_told_what_to_install(cli: Callable[..., Any], begun: Path) -> None:
    """The sweep was begun with transformers, which this environment is taken not to have."""
    from importlib import metadata

    def version(name: str) -> str:
        if name == "transformers":
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    sweep = json.loads((begun / "sweep.json").read_text())
    sweep["versions"]["transformers"] = "5.0"
    (begun / "sweep.json").write_text(json.dumps(sweep))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("perstep.sweeps.folder.version", version)
        said = cli("worker", begun)
    assert said.code == 2
    assert "transformers 5.0 is not installed (in perstep's folder run make env" in said.err


@pytest.mark.parametrize(
    ("content", "wrong"),
    [("{", "is damaged"), ('{"schema_version": 9}', "has schema_version 9"), (None, "is no sweep")],
)
def test_a_folder_that_is_no_sweep_is_refused(
    cli: Callable[..., Any], begun: Path, content: str | None, wrong: str
) -> None:
    """Damaged, of a newer perstep, or none."""
    (begun / "sweep.json").unlink()
    if content is not None:
        (begun / "sweep.json").write_text(content)
    said = cli("worker", begun)
    assert said.code == 2
    assert wrong in said.err


def test_a_sweep_goes_on_with_its_own_grid_alone(cli: Callable[..., Any], begun: Path) -> None:
    """Another grid is refused."""
    said = cli("sweep", write_grid(Path()), "--out", begun, "--resume")
    assert said.code == 2
    assert "was begun with another grid" in said.err


def test_without_ray_its_executor_says_what_to_install(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, before a folder is made."""
    monkeypatch.setitem(sys.modules, "ray", None)
    said = cli("sweep", write_grid(Path()), "--out", "out", "--executor", "ray", "-q")
    assert said.code == 2
    assert "--executor ray needs Ray, which is not installed: in perstep's folder run pip install" in said.err
    assert not Path("out").exists()


def test_ray_is_imported_by_its_executor_alone() -> None:
    """Nothing else in the package names it."""
    source = ROOT / "src" / "perstep"
    texts = {path.name: path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    naming = [name for name, text in texts.items() if "import ray\n" in text or "from ray" in text]
    assert naming == ["on_ray.py"]


@pytest.mark.real_clock
@pytest.mark.parametrize("launcher", ["two terminals", "a Slurm array"])
def test_a_second_process_helps(launcher: str, environment: dict[str, str], tmp_path: Path) -> None:
    """Both take cells of one folder, each cell once; the first makes the table, and the second waits for its start."""
    write_grid(tmp_path, SEEDS)
    scripts = tmp_path / "bin"
    scripts.mkdir()
    (scripts / "perstep").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m perstep "$@"\n')
    (scripts / "perstep").chmod(0o755)
    found = {**environment, "PATH": os.pathsep.join([str(scripts), environment["PATH"]])}
    if launcher == "two terminals":
        commands = ["until [ -e out/sweep.json ]; do sleep 0.1; done; perstep worker out",
                    "perstep sweep grid.toml --out out"]  # fmt: skip
    else:
        array = f"{shlex.quote(str(ROOT / 'examples' / 'slurm_sweep.sh'))} grid.toml out"
        commands = [f"SLURM_ARRAY_TASK_ID={task} bash {array}" for task in (1, 0)]
    options: dict[str, Any] = {"env": found, "cwd": tmp_path, "text": True, "stderr": subprocess.PIPE}
    both = [subprocess.Popen(["bash", "-c", one], stdout=subprocess.DEVNULL, **options) for one in commands]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "no cell of out is free" in said[0]
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").read_text().splitlines()))
    assert [(row["outcome"], row["attempts"]) for row in rows] == [("done", "1")] * 2
    again = subprocess.run(["bash", "-c", commands[1]], stdout=subprocess.DEVNULL, check=False, **options)
    if launcher == "two terminals":
        assert (again.returncode, "--out out is not empty" in again.stderr) == (2, True)
    else:
        assert (again.returncode, "going on with 2 cells" in again.stderr) == (0, True)


@pytest.mark.nightly
@pytest.mark.real_clock
def test_the_submitit_example_works_on_its_local_cluster(environment: dict[str, str], tmp_path: Path) -> None:
    """Two jobs share the sweep; the first one makes the table and says that a cell failed."""
    pytest.importorskip("submitit", reason="needs submitit")
    grid = write_grid(tmp_path)
    command = [sys.executable, str(ROOT / "examples" / "submitit_sweep.py"), str(grid), str(tmp_path / "out"), "local"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").read_text().splitlines()))
    assert sorted(row["outcome"] for row in rows) == ["done", "failed"]
