"""Functions of the user's own, as module:name: every command finds them in the current folder."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LONG = [pytest.mark.hf, pytest.mark.nightly]
"""A process that imports transformers; one of them is started every time."""
MINE = """
number = 3
class Steps:
    def old():
        import mine_helper
        return mine_helper.VALUE
    def new():
        return 7
old = Steps.old
def make():
    return 7
"""


@pytest.fixture
def perstep(tmp_path: Path, environment: dict[str, str]) -> Callable[..., Any]:
    """`perstep("compare", ...)`: as the installed command is, whose path begins elsewhere, beside mine.py."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine_helper.py").write_text("VALUE = 7\n")
    (tmp_path / "ends.py").write_text("import sys\nsys.exit('line 1\\nline 2')\n")
    (tmp_path / "broken.py").write_text("def (:\n")

    def call(*tokens: str) -> Any:
        return subprocess.run(
            [sys.executable, "-P", "-m", "perstep", *tokens],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.mark.real_clock
def test_compare_finds_them_and_what_they_import_later(perstep: Callable[..., Any]) -> None:
    """Also a function inside a class; both make their calls."""
    said = perstep("compare", "--live", "mine:old", "mine:Steps.new", "--check", "--rounds", "2", "-q", "-o", "json")
    assert said.returncode == 0, said.stderr
    assert list(json.loads(said.stdout)["arms"]) == ["mine:old", "mine:Steps.new"]


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        ("compare --live mine:old mine:number", "mine:number is a int, not something that can be called"),
        ("compare --live mine:old mine:absent", "cannot import mine:absent: AttributeError: module 'mine' has no"),
        ("compare --live mine:old ends:f", "cannot import ends:f: SystemExit: line 1 line 2"),
        ("compare --live mine:old broken:f", "cannot import broken:f: SyntaxError: invalid syntax (broken.py, line 1)"),
        ("ops --op mine:number@S", "mine:number is a int, not something that can be called"),
        ("ops --op ends:f@S", "cannot import ends:f: SystemExit: line 1 line 2"),
        pytest.param("generate -m mini --processor a=mine:make", "the factory of 'a' returned", marks=pytest.mark.hf),
        pytest.param("generate -m mini --criterion a=mine:make", "the factory of 'a' returned", marks=LONG),
        pytest.param("generate -m mini --processor a=ends:f", "cannot import ends:f: SystemExit", marks=LONG),
    ],
)
def test_what_is_wrong_with_them_is_one_line(tokens: str, why: str, perstep: Callable[..., Any]) -> None:
    """Found, and refused for what they are; a module that ends the program or cannot be read is named too."""
    if tokens.startswith("generate"):
        pytest.importorskip("transformers")
    said = perstep(*tokens.split())
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("perstep: ")
    assert why in said.stderr
    assert said.stderr.count("\n") == 1


@pytest.mark.real_clock
def test_an_interpreter_whose_path_has_blanks_runs_a_script(perstep: Callable[..., Any], tmp_path: Path) -> None:
    """`--python` is a path and no command line."""
    python = tmp_path / "an environment (1)" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    said = perstep(
        "compare", "--live", "--python", str(python), "--python", str(python), "mine.py", "--rounds", "2", "-q"
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
