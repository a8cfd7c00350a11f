"""The commands that measure and those that read: results on stdout, remarks on stderr, exit codes."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.cli import output as cli_output
from perstep.measure import FakeClock
from perstep.runs import MANIFEST, SAMPLES, Status, read_manifest, write_manifest

Cli = Callable[..., Any]


@pytest.fixture
def measure(cli: Cli, tiny_llama: Path, fake_time: FakeClock) -> Cli:
    """`measure(*options)`: a ledger of three rounds of four tokens."""
    return lambda *options: cli(
        "ledger", "--backend", "numpy", "-m", tiny_llama, "-p", "8", "-n", "4", "--rounds", "3", *options
    )


def test_a_ledger_is_a_table_on_stdout_and_remarks_on_stderr(measure: Cli) -> None:
    """The table has every part, residual and both steps; stderr says where the run lies."""
    said = measure()
    assert said.code == 0
    assert said.out.startswith("decode: tiny, batch 1, prompt 8, 4 new tokens\n")
    first = [line.split("  ")[0] for line in said.out.split("\n\nprefill: ")[0].splitlines()]
    for row in ("embed", "norm", "attn.qkv", "kv.append", "mlp", "lm_head", "sample", "stop", "residual"):
        assert row in first
    assert "attn.mask.build" not in first
    assert "attn.mask.build" in said.out
    assert "tokens/s" in said.out
    assert "run: .perstep/runs/0001-ledger\n" in said.err
    assert "warning" not in said.out


def test_quiet_says_nothing_but_the_result(measure: Cli) -> None:
    """Not even where the run lies."""
    said = measure("-q")
    assert said.code == 0
    assert said.err == ""
    assert said.out.startswith("decode: ")


def test_json_is_the_results_file(measure: Cli) -> None:
    """Byte for byte, and nothing else on stdout."""
    said = measure("-o", "json", "--out", "run")
    assert said.out == Path("run/results.json").read_text()
    assert json.loads(said.out)["decode"]["plain_step_ns"] == 5_001


def test_markdown_is_a_table_to_paste(measure: Cli) -> None:
    """The one that stands in the run's README."""
    said = measure("-o", "md", "--out", "run")
    assert said.out.startswith("**decode: tiny, batch 1, prompt 8, 4 new tokens**\n\n| part | µs/step | share |")
    first, second = said.out.split("\n**prefill: ")
    assert first in Path("run/README.md").read_text()
    assert "| attn.mask.apply |" in second


def test_csv_is_read_by_any_reader(measure: Cli) -> None:
    """One table of plain numbers, the same as `ledger.csv`."""
    said = measure("-o", "csv")
    assert said.out == Path(".perstep/runs/0001-ledger/ledger.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert {row["kind"] for row in rows} == {"decode", "prefill"}
    assert all(float(row["ns_per_step"]) >= 0 for row in rows if row["part"] != "residual")


def test_show_says_what_was_found(measure: Cli, cli: Cli) -> None:
    """The same as when it was measured, by number, name and path, and in each form what `report` says."""
    measured = measure("-q")
    for name in ("1", "0001-ledger", ".perstep/runs/0001-ledger"):
        shown = cli("show", name)
        assert (shown.code, shown.out, shown.err) == (0, measured.out, "")
    for form in ("md", "csv", "json"):
        shown = cli("show", "1", "-o", form)
        assert (shown.code, shown.out, shown.err) == (0, cli("report", "1", "-o", form).out, "")


def test_report_makes_the_same_files_again(measure: Cli, cli: Cli) -> None:
    """Byte for byte; stdout has the result, stderr says which."""
    measured = measure("-q")
    folder = Path(".perstep/runs/0001-ledger")
    names = ("ledger.png", "ledger.csv", "README.md", "report.html", "results.json", MANIFEST)
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names[:-1]:
        (folder / name).unlink()
    said = cli("report", "1")
    assert (said.code, said.out) == (0, measured.out)
    assert said.err == f"rebuilt: README.md, ledger.csv, ledger.png, report.html, results.json in {folder}\n"
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_list_names_the_runs(measure: Cli, cli: Cli) -> None:
    """Number, status, model and headline; as JSON with the folder."""
    measure("-q")
    measure("-q")
    said = cli("list")
    assert (said.code, said.err) == (0, "")
    rows = [line.split() for line in said.out.splitlines()[3:]]
    assert [row[0] for row in rows] == ["0001-ledger", "0002-ledger"]
    assert [line.split()[:2] for line in cli("list", "--all").out.splitlines()[3:]] == [
        ["0001-ledger", "complete"], ["0002-ledger", "complete"]
    ]  # fmt: skip
    assert "5.00 µs per decode step, largest part not resolved" in said.out
    listed = json.loads(cli("list", "-o", "json").out)
    assert [run["folder"] for run in listed] == [".perstep/runs/0001-ledger", ".perstep/runs/0002-ledger"]
    assert listed[0]["experiment"] == "ledger"
    assert listed[0]["results_summary"]["plain_step_ns"] == 5_001
    rows = list(csv.DictReader(io.StringIO(cli("list", "-o", "csv").out)))
    assert [row["model"] for row in rows] == ["tiny", "tiny"]
    assert "| 0002-ledger | complete |" in cli("list", "--all", "-o", "md").out


def test_no_runs_are_an_empty_list(cli: Cli) -> None:
    """`[]` as JSON, a header as CSV, a hint on stderr for a person."""
    said = cli("list", "-o", "json")
    assert (said.code, said.out, said.err) == (0, "[]\n", "")
    said = cli("list", "-o", "csv")
    assert (said.code, said.out, said.err) == (0, "run,status,began,model,tag,result\n", "")
    said = cli("list")
    assert (said.code, said.out) == (0, "")
    assert said.err == "no runs under .perstep/runs; `perstep ledger -m mini --fast` makes one\n"
    said = cli("list", "--root", "elsewhere")
    assert "elsewhere" in said.err


def test_a_run_that_was_killed_is_shown_with_a_note(measure: Cli, cli: Cli) -> None:
    """Its figures are those of the rounds that were finished; a cut line is told."""
    measure("-q", "--out", "run")
    lines = Path("run", SAMPLES).read_bytes().splitlines(keepends=True)
    Path("run", SAMPLES).write_bytes(b"".join(lines[:2]) + lines[2][:-10])
    stored = read_manifest(Path("run"))
    stored.status, stored.samples_sha256 = Status.RUNNING, ""
    write_manifest(Path("run"), stored)
    said = cli("show", "run")
    assert said.code == 0
    assert "2 rounds" in said.out
    assert said.err == (
        "note: line 3 of samples.jsonl was cut off while it was written and is left out\n"
        "note: the run is interrupted; the figures are from the rounds that were finished\n"
    )
    resumed = measure("--resume", "--out", "run")
    assert resumed.code == 0
    assert "3 rounds" in resumed.out
    assert "warning: line 3 of samples.jsonl was cut off when the run was killed; that round was measured again" in (
        resumed.err
    )
    assert read_manifest(Path("run")).status.value == "complete"
    assert cli("show", "run").err == ""


def test_an_invalid_run_is_shown_and_exits_with_4(cli: Cli, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When measured, shown and reported; the reason is one line on stderr."""
    monkeypatch.setattr("perstep.experiments.pipeline.HostClock", lambda: FakeClock(tick_ns=1))
    command = [
        "ledger",
        "--backend",
        "numpy",
        "-m",
        tiny_llama,
        "-p",
        "8",
        "-n",
        "2",
        "--rounds",
        "1",
        "-q",
        "--out",
        "run",
    ]
    for said in (cli(*command), cli("show", "run")):
        assert said.code == 4
        assert "INVALID: instrumented steps took more than 1.5 times as long as the others" in said.out
        assert re.fullmatch(r"perstep: decode: instrumented steps took .*; the run is kept in run\n", said.err)
    assert cli("report", "run").code == 4
    assert json.loads(Path("run/results.json").read_text())["invalid"]


def test_strict_exits_with_3_where_the_precision_was_not_reached(measure: Cli, cli: Cli, tiny_llama: Path) -> None:
    """Three rounds have no interval; twenty of rounds that do not vary are as precise as can be."""
    said = measure("-q", "--strict")
    assert said.code == 3
    assert re.fullmatch(r"perstep: not resolved: no interval for embed, .*: 3 rounds are too few, .*\n", said.err)
    assert said.out.startswith("decode: ")
    assert cli("ledger", "--backend", "numpy", "-m", tiny_llama, "-p", "8", "-n", "2", "-q", "--strict").code == 0


def test_options_have_either_spelling_of_dashes_and_long_names(
    cli: Cli, tiny_llama: Path, fake_time: FakeClock
) -> None:
    """As users of other benchmarks know them."""
    said = cli(
        *(
            "ledger",
            "--backend=numpy",
            "--model",
            tiny_llama,
            "--prompt_tokens",
            "8",
            "--new-tokens=2",
            "--batch",
            "2",
            "--threads",
            "1",
        ),
        *("--rounds", "1", "--seed", "3", "--output", "json", "--quiet", "--budget", "5s", "--precision", "1%"),
    )
    assert said.code == 0
    assert said.err == ""
    manifest = read_manifest(Path(".perstep/runs/0001-ledger"))
    assert manifest.plan["prompt_tokens"] == 8
    assert (manifest.plan["budget"], manifest.plan["precision"]) == (5.0, 0.01)
    assert manifest.workload["batch"] == 2


def test_a_text_may_be_the_prompt(cli: Cli, tiny_llama: Path, fake_time: FakeClock) -> None:
    """Its tokens are counted by the model's own tokenizer; every row gets it."""
    said = cli(
        "ledger",
        "--backend",
        "numpy",
        "-m",
        tiny_llama,
        "--prompt",
        "größer",
        "-n",
        "2",
        "-b",
        "2",
        "--rounds",
        "1",
        "-q",
    )
    assert said.out.startswith("decode: tiny, batch 2, prompt 8, 2 new tokens")


def test_force_replaces_a_run(measure: Cli, cli: Cli) -> None:
    """And nothing that is not the run's own."""
    measure("-q", "--out", "run")
    Path("run/notes.txt").write_text("mine")
    samples = Path("run", SAMPLES).read_bytes()
    assert measure("-q", "--out", "run", "--force", "--seed", "5").code == 0
    assert Path("run/notes.txt").read_text() == "mine"
    assert Path("run", SAMPLES).read_bytes() != samples
    assert read_manifest(Path("run")).seed == 5


@pytest.mark.pictures
def test_names_of_any_script_are_shown(
    cli: Cli, make_llama: Callable[..., Path], tmp_path: Path, fake_time: FakeClock
) -> None:
    """In the table, in the list, in the picture."""
    folder = make_llama(tmp_path / "größer|模型 $x$ [red]")
    said = cli("ledger", "--backend", "numpy", "-m", folder, "-p", "8", "-n", "2", "--rounds", "1", "-q")
    assert said.code == 0
    assert said.err == ""
    assert said.out.startswith("decode: größer|模型 $x$ [red], batch 1")
    assert "größer|模型 $x$ [red]" in cli("list").out
    assert r"größer\|模型 $x$ [red]" in cli("list", "-o", "md").out


def test_the_version_and_every_help_go_to_stdout(cli: Cli) -> None:
    """With exit code 0."""
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", cli("--version").out)
    for tokens in ([], ["--help"], ["ledger", "--help"], ["list", "-h"], ["show", "--help"], ["report", "--help"]):
        said = cli(*tokens)
        assert (said.code, said.err) == (0, "")
        assert "Usage: perstep" in said.out


# Progress


class Terminal(io.StringIO):
    """A stderr that is a terminal, or not."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        """Whether it is."""
        return self._is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_tells_the_time_left(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the first two seconds; then a bar on a terminal, a line every ten seconds in a log."""
    now = [100.0]
    stderr = Terminal(is_terminal)
    monkeypatch.setattr(cli_output.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("sys.stderr", stderr)
    with cli_output.progress_shown(quiet=False) as show:
        show(0.0, "load")
        now[0] += 1.9
        show(0.1, "round 1")
        assert "round" not in stderr.getvalue()
        now[0] += 0.2
        show(0.25, "round 2")
        assert "round 2" in stderr.getvalue()
        assert "about 6 s left" in stderr.getvalue()
        now[0] += 9.8
        show(0.5, "round 3")
        assert ("round 3" in stderr.getvalue()) == is_terminal
        now[0] += 600
        show(0.5, "round 4")
        assert "about 10 min left" in stderr.getvalue()
    if not is_terminal:
        assert stderr.getvalue().splitlines()[0] == "perstep: round 2, 25% done, about 6 s left"


def test_a_log_tells_what_loading_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is outside of the budget, so the time left does not count it."""
    now = [0.0]
    stderr = Terminal(False)
    monkeypatch.setattr(cli_output.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("sys.stderr", stderr)
    with cli_output.progress_shown(quiet=False) as show:
        show(0.0, "load")
        now[0] += 35
        show(0.1, "round 1")
        now[0] += 10
        show(0.5, "round 2")
    assert stderr.getvalue().splitlines() == [
        "perstep: load took 35 s",
        "perstep: round 1, 10% done, time left unknown",
        "perstep: round 2, 50% done, about 12 s left",
    ]


def test_progress_is_silent_when_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal too."""
    stderr = Terminal(True)
    monkeypatch.setattr("sys.stderr", stderr)
    with cli_output.progress_shown(quiet=True) as show:
        show(0.5, "round 1")
    assert stderr.getvalue() == ""


def test_time_left_is_unknown_at_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the work predicts nothing."""
    stderr = Terminal(False)
    monkeypatch.setattr("sys.stderr", stderr)
    now = [0.0]
    monkeypatch.setattr(cli_output.time, "monotonic", lambda: now[0])
    with cli_output.progress_shown(quiet=False) as show:
        now[0] = 3.0
        show(0.0, "load")
    assert stderr.getvalue() == "perstep: load, 0% done, time left unknown\n"
