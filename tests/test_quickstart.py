"""The newcomer's pages do what they say: the quickstart's commands run, messages exist, examples run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from perstep.cli.app import run as perstep_command

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^(<!-- nightly -->\n)?```console\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands(*, nightly: bool) -> list[str]:
    """The commands of the quickstart, in order: those for every commit, or the long ones."""
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    return [line for mark, block in BLOCK.findall(text) if bool(mark) == nightly for line in block.splitlines()]


def run(command: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command as it stands on the page; it ends well."""
    words = [sys.executable, "-m", *command.split()]
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("effort", ["--rounds 2", pytest.param("--fast", marks=pytest.mark.nightly)])
@pytest.mark.real_clock
def test_the_quickstart_runs_from_top_to_bottom(effort: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger, the list of runs, its page, and (nightly) the runs of a gate; a busy machine may make one invalid."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROWSER", "true")
    found = commands(nightly=False)
    assert len(found) >= 5
    for command in found if effort == "--fast" else found[:3]:
        assert perstep_command(command.replace("--fast", effort).split()[1:]) in (0, 4), command
    assert (tmp_path / ".perstep" / "runs" / "0001-ledger" / "report.html").exists()


@pytest.mark.nightly
@pytest.mark.hf
@pytest.mark.real_clock
def test_the_long_commands_of_the_quickstart_run(tmp_path: Path, environment: dict[str, str]) -> None:
    """The example is watched and fixed, and the part that the page names is the costliest."""
    watched, fixed = (run(command, tmp_path, environment) for command in commands(nightly=True))
    assert watched.returncode in (0, 4), watched.stderr
    assert "logits/OnlyUtf8" in watched.stdout
    assert fixed.returncode in (0, 4), fixed.stderr


def test_every_message_of_the_troubleshooting_page_is_one_of_perstep() -> None:
    """Its words stand in the source, whatever is filled in."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    texts = [path for path in (ROOT / "src" / "perstep").rglob("*") if path.suffix in (".py", ".md")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in texts)
    source = re.sub(r"\"\s*\n\s*f?\"", "", source)
    patterns = [re.sub(r"\\?\b1\\?\b", r"\\{number\\}", re.escape(message)) for message in messages]
    assert len(messages) > 12
    found = zip(messages, patterns, strict=True)
    assert [m for m, pattern in found if not re.search(f"{pattern}|{re.escape(m)}", source)] == []
