"""perstep as a process: signals, closed streams, what it imports."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.runs import SAMPLES, is_being_written, open_run

Cli = Callable[..., Any]
HEAVY = ("numpy", "scipy", "matplotlib", "torch", "transformers", "jinja2", "perstep.measure")


@pytest.fixture(scope="module")
def run_folder(tiny_llama: Path, process: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run, measured by a process."""
    place = tmp_path_factory.mktemp("place")
    options = ["-p", "8", "-n", "2", "--rounds", "3", "--out", "run", "-q"]
    said = process("ledger", "--backend", "numpy", "-m", tiny_llama, *options, cwd=place)
    assert said.code in (0, 4), said  # 4 where the machine was so busy that marks seem to cost half a step
    assert said.out.startswith("decode: tiny")
    return place / "run"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_imports_nothing_heavy(arguments: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    """So that it answers at once."""
    script = (
        "import json, sys\n"
        "from perstep.cli import run\n"
        f"code = run({arguments!r})\n"
        f"print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stderr) == [0, []]
    assert done.stdout


def test_importing_perstep_imports_nothing_heavy(environment: dict[str, str], tmp_path: Path) -> None:
    """Its names are handed on when they are first used; unknown ones are an AttributeError."""
    script = (
        "import sys, perstep\n"
        "light = [name for name in ('numpy', 'cyclopts', 'msgspec') if name in sys.modules]\n"
        "assert light == [], light\n"
        "assert 'Recorder' in dir(perstep)\n"
        "with perstep.Recorder() as recorder, recorder.step():\n"
        "    recorder.mark('embed')\n"
        "assert not hasattr(perstep, 'nonsense')\n"
        "for name in perstep.__all__: getattr(perstep, name)\n"
    )
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, check=True)


def test_bad_input_is_one_line_from_the_process_too(process: Cli, tmp_path: Path) -> None:
    """And exit code 2."""
    said = process("ledger", "--backend", "numpy", "-m", "missing", cwd=tmp_path)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("perstep: no model 'missing'")
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_clock
def test_ctrl_c_does_not_end_a_command_that_is_done(environment: dict[str, str]) -> None:
    """Python gives the signal back to the system before it takes its modules down, which takes a while."""
    script = """
import os, sys

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, 2)

sys.late, sys.argv = Late(), ["perstep", "--version"]
from perstep.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_can_be_shown(
    sent: signal.Signals, tiny_llama: Path, environment: dict[str, str], process: Cli, tmp_path: Path
) -> None:
    """Ctrl-C exits with 130 and says so; a kill cannot. Either way the run is `interrupted` and `show` reads it."""
    options = [
        "--backend",
        "numpy",
        "-m",
        str(tiny_llama),
        "-p",
        "8",
        "-n",
        "8",
        "--rounds",
        "1000000",
        "--out",
        "run",
        "-q",
    ]
    command = [sys.executable, "-m", "perstep", "ledger", *options]
    folder = tmp_path / "run"
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has Ctrl-C ignored, and processes inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not ((folder / SAMPLES).exists() and (folder / SAMPLES).stat().st_size > 0):
            assert running.poll() is None, running.communicate()
            time.sleep(0.01)
        assert is_being_written(folder)
        assert open_run(folder).status == "running"
        refused = process(
            "ledger",
            "--backend",
            "numpy",
            "-m",
            tiny_llama,
            "-p",
            "8",
            "-n",
            "8",
            "--out",
            "run",
            "--force",
            cwd=tmp_path,
        )
        assert refused.code == 2
        assert "is being written by another perstep" in refused.err
        running.send_signal(sent)
        out, err = running.communicate()
    finally:
        running.kill()
        running.wait()
    assert out == ""
    if sent is signal.SIGINT:
        assert running.returncode == 130
        rounds = len((folder / SAMPLES).read_text().splitlines())
        kept = "1 round" if rounds == 1 else f"{rounds} rounds"
        assert err == f"perstep: interrupted; {kept} kept in run: go on with --out run --resume\n"
    else:
        assert running.returncode == -signal.SIGKILL
    assert open_run(folder).status == "interrupted"
    said = process("show", "run", cwd=tmp_path)
    assert said.code in (0, 4)
    assert said.out.startswith("decode: tiny")
    assert "note: the run is interrupted; the figures are from the rounds that were finished" in said.err


@pytest.mark.real_clock
def test_a_reader_that_goes_away_is_no_error(run_folder: Path, environment: dict[str, str]) -> None:
    """`perstep show run | head -0`: no traceback, no complaint."""
    command = [sys.executable, "-m", "perstep", "list", "--root", str(run_folder.parent)]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    err = running.stderr.read()
    running.stderr.close()
    assert (running.wait(), err) == (0, b"")


@pytest.mark.real_clock
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("> /dev/full", 2, "perstep: stdout: No space left on device\n"),
    ],
)
def test_streams_that_are_closed_or_full(
    redirection: str, code: int, said: str, run_folder: Path, environment: dict[str, str]
) -> None:
    """A closed one swallows what is said; a full one is an error in one line."""
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = f'exec "{sys.executable}" -m perstep list --all --root . {redirection}'
    done = subprocess.run(
        ["sh", "-c", command], env=environment, cwd=run_folder.parent, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, said)
    assert ("complete" in done.stdout) == (redirection == "2>&-")


@pytest.mark.real_clock
def test_an_output_that_knows_no_micro_sign_gets_a_question_mark(run_folder: Path, environment: dict[str, str]) -> None:
    """Never a traceback."""
    command = [sys.executable, "-m", "perstep", "show", str(run_folder)]
    ascii_only = {**environment, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=ascii_only, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 4)
    assert "?s/step" in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_where_nothing_may_be_written(tiny_llama: Path, process: Cli, tmp_path: Path) -> None:
    """One line; nothing is left behind."""
    tmp_path.chmod(0o500)
    try:
        said = process(
            "ledger", "--backend", "numpy", "-m", tiny_llama, "-p", "8", "-n", "2", "--rounds", "1", cwd=tmp_path
        )
    finally:
        tmp_path.chmod(0o700)
    assert said.code == 2
    assert "Permission denied" in said.err
    assert said.err.count("\n") == 1


def test_a_measurement_does_not_end_with_its_reader(
    tiny_llama: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """`perstep ledger 2>&1 | head -0`: all rounds are measured, and the report is made."""
    reading, writing = os.pipe()
    os.close(reading)
    options = ["--backend", "numpy", "-m", str(tiny_llama), "-p", "8", "-n", "2", "--rounds", "3", "--out", "run"]
    command = [sys.executable, "-m", "perstep", "ledger", *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert done.returncode in (0, 4)
    run = open_run(tmp_path / "run")
    assert (run.status, len((run.folder / SAMPLES).read_text().splitlines())) == ("complete", 3)
    assert (run.folder / "README.md").is_file()


@pytest.mark.parametrize("arguments", [["--help"], ["list", "--help"], ["--version"], []])
def test_help_has_readers_that_go_and_disks_that_fill(arguments: list[str], environment: dict[str, str]) -> None:
    """The one is no error, the other is bad input."""
    command = [sys.executable, "-m", "perstep", *arguments]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"perstep: stdout: No space left on device\n")


@pytest.mark.parametrize("raised", ["raise KeyboardInterrupt", "exec('raise KeyboardInterrupt')"])
def test_ctrl_c_while_perstep_is_imported_is_no_traceback(
    raised: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """It ends with 130, not by the signal, and says nothing."""
    (tmp_path / "cyclopts.py").write_text(raised)
    path = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    command = [sys.executable, "-m", "perstep", "list"]
    done = subprocess.run(command, env={**environment, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
