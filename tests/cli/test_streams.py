"""What commands say, and what their exit codes are when something fails that nobody expected."""

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from perstep.cli import run
from perstep.cli.output import progress_shown
from perstep.cli.streams import remark
from perstep.experiments import pipeline

Cli = Callable[..., Any]
GOLDEN = Path(__file__).parents[1] / "golden"


def failing(error: BaseException) -> Callable[..., NoReturn]:
    """A function that fails."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


@contextmanager
def nobody_reads() -> Iterator[None]:
    """Stdout and stderr are pipes whose reader has gone. Used in a test: pytest puts its own back before each."""
    reading, writing = os.pipe()
    os.close(reading)
    out, err = (io.TextIOWrapper(io.FileIO(os.dup(writing), "w"), write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        yield
    out.close()
    err.close()
    os.close(writing)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("nobody knew"),
        BrokenPipeError(32, "a worker died"),
        OSError(5, "nameless"),
        SystemExit(0),
        KeyError(1),
    ],
    ids=repr,
)
def test_an_unexpected_error_has_its_own_code(
    error: BaseException, cli: Cli, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """70, never 0 and never 1; one line that asks for a report."""
    monkeypatch.setattr(pipeline, "run", failing(error))
    said = cli("ledger", "-m", tiny_llama)
    assert (said.code, said.out) == (70, "")
    if not isinstance(error, SystemExit):
        assert said.err.startswith(f"perstep: unexpected {type(error).__name__}: ")
        assert said.err.endswith("please report it, with what the same command says with --traceback\n")
        assert said.err.count("\n") == 1


def test_a_traceback_is_shown_where_it_is_asked_for(
    cli: Cli, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before or behind the other options; behind a script it is the script's."""
    monkeypatch.setattr(pipeline, "run", failing(RuntimeError("nobody knew")))
    for tokens in (["ledger", "--traceback", "-m", tiny_llama], ["ledger", "-m", tiny_llama, "--traceback"]):
        said = cli(*tokens)
        assert said.code == 70
        assert said.err.startswith("Traceback (most recent call last)")
        assert "in fail" in said.err
    Path("script.py").write_text("import sys\nprint(sys.argv[1:])\n")
    assert cli("watch", "--traceback", "script.py", "--traceback").out == "['--traceback']\n"


def test_a_gate_keeps_its_answer_when_nobody_reads_it(
    ledger_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A regression is never turned into a pass by `| head`."""
    monkeypatch.chdir(tmp_path)
    for seed in range(1, 10):
        ledger_run(tmp_path / ".perstep" / "runs" / f"{seed:04d}-ledger", seed=seed)
    ledger_run(tmp_path / "slow", seed=99, level=1.5)
    for tokens, code in ((["gate", "1", "slow"], 1), (["gate", "1", "2"], 0), (["show", "missing"], 2)):
        with nobody_reads():
            assert run(tokens) == code


@pytest.mark.parametrize("terminal", [False, True])
def test_remarks_and_progress_go_on_without_a_reader(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lines, and as a bar on a terminal that has gone."""
    monkeypatch.setattr("perstep.cli.output._QUIET_S", 0.0)
    monkeypatch.setattr("perstep.cli.output._PLAIN_EVERY_S", 0.0)
    with nobody_reads():
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
        remark("said")
        with progress_shown(quiet=False) as progress:
            for share in (0.1, 0.5, 1.0):
                progress(share, "rounds")


# Names from elsewhere

NASTY = "m\x1b]0;owned\x07\x1b[31m\x9b2J\x00\x7f\r<script>x</script>![p](http://e.x/p)[t][1] | n"


@pytest.fixture
def nasty_run(tmp_path: Path) -> Path:
    """A stored ledger whose model has a name that terminals and Markdown obey."""
    import msgspec

    from perstep.runs import MANIFEST, encode_json, read_manifest

    folder = shutil.copytree(GOLDEN / "ledger", tmp_path / "runs" / "0001-ledger")
    manifest = read_manifest(folder)
    manifest.model = {**manifest.model, "name": NASTY}
    manifest.results_summary = {**manifest.results_summary, "headline": NASTY}
    manifest.warnings = [NASTY]
    (folder / MANIFEST).write_bytes(encode_json(msgspec.to_builtins(manifest)))
    return folder


class Terminal(io.StringIO):
    """A text that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def controls(text: str) -> list[str]:
    """Characters that a terminal obeys."""
    return [char for char in text if (ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160]


def test_no_control_character_of_a_run_reaches_a_terminal(nasty_run: Path, cli: Cli) -> None:
    """In tables, in lists, in errors; it is shown by its number."""
    for tokens in (["show", nasty_run], ["list", "--root", nasty_run.parent], ["report", nasty_run], ["show", NASTY]):
        said = cli(*tokens)
        assert controls(said.out + said.err) == [], tokens
        assert r"\x1b]0;owned\x07" in said.out + said.err, tokens
    assert controls((nasty_run / "README.md").read_text()) == []


@pytest.mark.parametrize("form", ["json", "csv", "table", "md"])
def test_a_terminal_gets_no_control_character_in_any_form(
    form: str, nasty_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file gets JSON and CSV as they are."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    assert run(["list", "--root", str(nasty_run.parent), "-o", form]) == 0
    assert shown.getvalue()
    assert controls(shown.getvalue()) == []


def test_markdown_shows_markup_of_a_run_and_does_not_obey_it(nasty_run: Path, cli: Cli) -> None:
    """No HTML, no picture, no link, and a bar does not begin a cell."""
    table = cli("list", "--all", "--root", nasty_run.parent, "-o", "md").out
    cli("report", nasty_run)
    for text in (table, (nasty_run / "README.md").read_text()):
        assert "<script>" not in text
        assert "](http" not in text
        assert "[t][" not in text
        assert "&lt;script>" in text
    rows = [line for line in table.splitlines() if line.startswith("| 0001-ledger")]
    assert [row.replace("\\|", "").count("|") for row in rows] == [6]
