"""Every file under examples/ runs, and README names those that it shows."""

import contextlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import perstep

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
RUN_HERE = {
    "slow_generate.py", "own_loop.py", "schema.py", "gate_in_ci.sh", "compare_callables.py", "notebook.ipynb",
    "knobs.sh", "own_engine.py",
}  # fmt: skip
RUN_ELSEWHERE = {"grid.toml", "llama_cpp_loop.py", "slurm_sweep.sh", "submitit_sweep.py"}
"""With other tests, or with what is not installed here."""


def text_of(name: str) -> str:
    """What a Python example prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return out.getvalue()


def run_shell(
    name: str, folder: Path, environment: dict[str, str], **variables: str
) -> subprocess.CompletedProcess[str]:
    """A shell example with this Python's perstep, in a folder of its own."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for command, words in (("perstep", "-m perstep"), ("python", "")):
        (bin_folder / command).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n', encoding="utf-8")
        (bin_folder / command).chmod(0o755)
    path = f"{bin_folder}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return subprocess.run(
        ["sh", str(EXAMPLES / name)], cwd=folder, env=environment | {"PATH": path} | variables, capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip


def test_every_example_has_a_test() -> None:
    """Here, or elsewhere."""
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == RUN_HERE | RUN_ELSEWHERE


def test_readme_shows_examples_that_exist() -> None:
    """Each of those that run here is named in README or in the quickstart."""
    pages = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/quickstart.md"))
    assert [name for name in RUN_HERE if f"examples/{name}" not in pages] == []


def test_a_schema_allows_only_what_it_says() -> None:
    """Three texts, each a value of the schema."""
    values = [eval(line) for line in text_of("schema.py").splitlines()]  # noqa: S307 - dictionaries that it printed
    assert len(values) == 3
    assert all(value["city"] in ("Oslo", "Lima") and -50 <= value["degrees"] <= 50 for value in values)


@pytest.mark.real_clock
def test_parts_of_an_engine_add_up() -> None:
    """The example asserts it; each part has a line."""
    assert [line.split()[0] for line in text_of("own_engine.py").splitlines()] == [
        "forward",
        "lm_head",
        "sample",
        "residual",
    ]


@pytest.mark.real_clock
def test_two_callables_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """They give the same token; in two rounds there is an answer, if not a verdict."""
    compare = perstep.compare

    def briefly(arms: Any, **options: Any) -> Any:
        return compare(arms, **options | {"rounds": 2})

    monkeypatch.setattr(perstep, "compare", briefly)
    assert "whole" in text_of("compare_callables.py")


@pytest.mark.hf
@pytest.mark.real_clock
def test_a_loop_of_ones_own_is_watched() -> None:
    """Its lines are parts beside the forward."""
    shown = text_of("own_loop.py")
    assert "scores.argmax" in shown
    assert "residual" in shown


@pytest.mark.real_clock
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, in order; what stands last in a cell shows itself."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        assert cell.get("outputs", []) == []
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace("rounds=20", "rounds=2"), names)  # noqa: S102 - our own example
    assert "mlp" in names["run"].findings.decode._repr_html_()
    assert "loop" in names["comparison"]._repr_html_()


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
@pytest.mark.real_clock
def test_a_gate_passes_equal_commands(tmp_path: Path, environment: dict[str, str]) -> None:
    """Two rounds give no verdict, and without one nothing fails."""
    done = run_shell("gate_in_ci.sh", tmp_path, environment, ROUNDS="2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not resolved")


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
@pytest.mark.real_clock
def test_the_knobs_run(tmp_path: Path, environment: dict[str, str]) -> None:
    """Three runs, which `list` names."""
    done = run_shell("knobs.sh", tmp_path, environment, ROUNDS="2")
    assert done.returncode == 0, done.stderr
    assert all(f"000{number}-" in done.stdout for number in (1, 2, 3))
