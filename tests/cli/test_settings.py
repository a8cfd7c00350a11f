"""`[tool.perstep]` and the completion of a shell."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_pages import copied

from perstep.cli.app import COMMANDS

Cli = Callable[..., Any]


def settings(text: str) -> None:
    """Write the table into the pyproject.toml of the working folder."""
    Path("pyproject.toml").write_text(f"[tool.perstep]\n{text}\n", encoding="utf-8")


def test_the_display_comes_from_the_file_and_an_option_goes_first(cli: Cli) -> None:
    """`output`, for every command that has it."""
    copied("compare", 1)
    settings('output = "json"')
    assert json.loads(cli("list").out)[0]["status"] == "complete"
    assert cli("list", "-o", "csv").out.startswith("run,status")


@pytest.mark.real_clock
def test_the_effort_stands_in_the_manifest(cli: Cli) -> None:
    """A budget and a precision from the file; `--rounds` takes the place of both."""
    settings('budget = "1s"\nprecision = "40%"\nquiet = true')
    arms = ("--live", "python -c 0", "python -c 1")
    said = cli("compare", *arms, "--out", "a")
    assert said.code == 0
    assert said.err == ""
    plan = json.loads(Path("a/manifest.json").read_text(encoding="utf-8"))["plan"]
    assert (plan["budget"], plan["precision"]) == (1.0, 0.4)
    cli("compare", *arms, "--out", "b", "--rounds", "2")
    plan = json.loads(Path("b/manifest.json").read_text(encoding="utf-8"))["plan"]
    assert (plan["budget"], plan["precision"], plan["rounds"]) == (None, None, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('model = "org/name"', "has 'model', but it is for the display, the budget and the precision alone"),
        ('out = "/tmp/x"', "has 'out'"),
        ('processor = "mine=evil:make"', "has 'processor'"),
        ("quiet = 1", "write true or false"),
        ("budget = [1]", "write it as on the command line"),
        ('budget = "soon"', "budget"),
    ],
)
def test_nothing_else_comes_from_a_file(text: str, said: str, cli: Cli) -> None:
    """One line, exit code 2, nothing measured."""
    settings(text)
    found = cli("ledger", "-m", "mini")
    assert found.code == 2
    assert said in found.err
    assert found.err.count("\n") == 1
    assert not Path(".perstep").exists()


def test_another_projects_file_is_left_alone(cli: Cli) -> None:
    """One without the table, or that is no TOML."""
    for text in ("[project]\nname = 'x'\n", "this is no TOML ="):
        Path("pyproject.toml").write_text(text, encoding="utf-8")
        assert cli("list").code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_every_command(shell: str, cli: Cli) -> None:
    """The script names them and the options of one."""
    said = cli("completion", shell)
    assert said.code == 0
    assert [name for name in COMMANDS if name not in said.out] == []
    assert "new-tokens" in said.out
