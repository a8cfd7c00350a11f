"""`perstep compare`, `gate`, `export` and baselines, as they are typed: output, exit codes, what is left on disk."""

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perstep.measure import FakeClock

Cli = Callable[..., Any]
LedgerRun = Callable[..., Path]

RUNS = Path(".perstep/runs")


@pytest.fixture
def runs(cli: Cli, ledger_run: LedgerRun) -> Cli:
    """In the current folder: runs 1 to 5 of one code, which differ by 0.2 %, 6 is 20 % slower, 7 did other work."""
    for number, level in enumerate([1.0, 1.002, 0.998, 1.001, 1.0], start=1):
        ledger_run(RUNS / f"000{number}-ledger", level=level, seed=number)
    ledger_run(RUNS / "0006-ledger", level=1.2, seed=6, git={"commit": "b" * 40, "dirty": False})
    ledger_run(RUNS / "0007-ledger", seed=7, threads=2)
    return cli


# compare


def test_compare_shows_the_change_of_every_part(runs: Cli) -> None:
    """With the spread that other runs show, and what differs in the code."""
    said = runs("compare", 1, 6)
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == "decode: 0001-ledger → 0006-ledger"
    assert sum(line.endswith(" slower") for line in lines) == 9
    assert "as 4 other runs of this workload on this machine show (3 degrees of freedom)" in said.out
    assert "Different code: git_commit: aaaaaaaaaaaa → bbbbbbbbbbbb." in said.out


@pytest.mark.parametrize("form", ["md", "json", "csv"])
def test_compare_in_other_forms(runs: Cli, form: str) -> None:
    """Markdown for people, JSON and CSV for machines."""
    said = runs("compare", 1, 6, "-o", form)
    assert said.code == 0
    if form == "json":
        found = json.loads(said.out)
        assert found["ref"]["name"] == "0001-ledger"
        assert found["parts"][0]["change"] == pytest.approx(0.2, abs=0.01)
    elif form == "csv":
        assert said.out.splitlines()[1].startswith("step,decode,")
    else:
        assert said.out.startswith("**decode: 0001-ledger → 0006-ledger**\n\n| part |")


def test_compare_refuses_other_work_by_name(runs: Cli) -> None:
    """Unless it is allowed."""
    said = runs("compare", 1, 7)
    assert (said.code, said.out) == (2, "")
    assert "did not do the same work: threads: 1 → 2;" in said.err
    assert said.err.count("\n") == 1
    allowed = runs("compare", 1, 7, "--allow-different")
    assert allowed.code == 0
    assert "threads: 1 → 2" in allowed.out


def test_compare_needs_two_different_runs(runs: Cli) -> None:
    """One line on what was wrong."""
    for tokens, said in [
        ((), "two runs, REF and NEW; nothing was given"),
        ((1,), "two runs, REF and NEW; 1 was given"),
        ((1, 2, 3), "two runs, REF and NEW; 1, 2, 3 was given"),
        ((1, 1), "are the same run"),
        ((1, 99), "no run 99"),
        ((1, "absent"), "there are no baselines"),
        ((1, 2, "--check"), "need --live"),
        ((1, 2, "--python", "python3"), "need --live"),
        ((1, 2, "--budget", "3s"), "need --live"),
        ((1, 2, "--out", "x"), "need --live"),
    ]:
        answer = runs("compare", *tokens)
        assert (answer.code, answer.out) == (2, "")
        assert said in answer.err


def test_strict_compare_needs_a_verdict(runs: Cli, ledger_run: LedgerRun) -> None:
    """3 rounds have none."""
    ledger_run(RUNS / "0008-ledger", rounds=3, seed=8)
    assert runs("compare", 1, 8).code == 0
    said = runs("compare", 1, 8, "--strict")
    assert said.code == 3
    assert "not resolved: step: 3 rounds; an interval needs" in said.err
    assert runs("compare", 1, 6, "--strict").code == 0


def test_an_invalid_run_is_exit_4(runs: Cli, ledger_run: LedgerRun) -> None:
    """In all three commands, with the reason."""
    ledger_run(RUNS / "0008-ledger", differing=1, seed=8)
    for tokens in (["compare", 1, 8], ["gate", 8, 1], ["export", 8, "--format", "csv"]):
        said = runs(*tokens)
        assert (said.code, said.out) == (4, "")
        assert "differ from the replayed trace" in said.err


def test_a_damaged_run_is_exit_2(runs: Cli) -> None:
    """The line is named."""
    path = RUNS / "0002-ledger" / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "{]\n", *lines[4:]]))
    for tokens in (["compare", 1, 2], ["gate", 1, 2], ["export", 2, "--format", "pyperf"]):
        said = runs(*tokens)
        assert (said.code, said.out) == (2, "")
        assert "samples.jsonl line 4 is damaged" in said.err


@pytest.mark.real_clock
def test_compare_live_hands_on_to_the_live_comparison(cli: Cli) -> None:
    """With every option of a measurement; two equal commands have a run of their own."""
    said = cli("compare", "--live", "true", "true", "--rounds", 2, "-q", "--out", "live", "-o", "json")
    assert said.code == 0
    assert list(json.loads(said.out)["arms"]) == ["true", "true#2"]
    assert Path("live/samples.jsonl").is_file()
    assert cli("compare", "--live", "true").code == 2


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", ["command", "callable", "worker", "later"])
def test_an_arm_that_never_returns_is_named(kind: str, cli: Cli) -> None:
    """After twice the budget and a second, in whatever call; the alarm is put back and no worker stays behind."""
    Path("hangs_for_test.py").write_text(
        "import time\nbegan = time.monotonic()\ndef quick(): pass\ndef hang(): time.sleep(600)\n"
        "def later():\n    if time.monotonic() - began > 0.1: hang()\n"
    )
    arms = {
        "command": ["true", "sleep 600"],
        "callable": ["hangs_for_test:quick", "hangs_for_test:hang"],
        "later": ["hangs_for_test:quick", "hangs_for_test:later"],
        "worker": ["--python", sys.executable, "--python", sys.executable, "hangs_for_test.py:hang"],
    }[kind]
    sys.modules.pop("hangs_for_test", None)
    said = cli("compare", "--live", *arms, "--budget", "400ms")
    assert (said.code, said.out) == (2, "")
    assert re.search(r"failed in call \d+: .*it has not returned within 2 s, twice the budget; give a larger", said.err)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


# gate


def test_gate_fails_on_a_confident_regression_alone(runs: Cli) -> None:
    """1 beyond the limit, 0 within it; the default limit is 5 % of the step."""
    failed = runs("gate", 1, 6)
    assert failed.code == 1
    assert "FAILED" in failed.out
    assert failed.err.startswith("perstep: Gate failed: step +20")
    assert runs("gate", 1, 2).code == 0
    assert runs("gate", 6, 1).code == 0
    assert runs("gate", 1, 6, "--fail-on", "step:30%", "--fail-on", "prefill.step:30%").code == 0
    assert runs("gate", 1, 6, "--fail-on", "step:30%", "--fail-on", "mlp:5%").code == 1


def test_gate_not_resolved_is_3_only_under_strict(runs: Cli, ledger_run: LedgerRun) -> None:
    """An interval that holds the limit, or none at all."""
    assert runs("gate", 1, 6, "--fail-on", "step:20%").code == 0
    said = runs("gate", 1, 6, "--fail-on", "step:20%", "--strict")
    assert said.code == 3
    assert "Gate not resolved, so neither passed nor failed: step +" in said.err
    ledger_run(RUNS / "0008-ledger", rounds=3, level=9.0, seed=8)
    assert runs("gate", 1, 8).code == 0
    assert runs("gate", 1, 8, "--strict").code == 3


def test_gate_summary_for_a_job(runs: Cli) -> None:
    """Markdown on stdout, nothing else there; JSON has the outcome."""
    said = runs("gate", 1, 6, "-o", "md")
    assert said.out.startswith("**perstep gate: 0001-ledger → 0006-ledger**\n")
    assert "\nGate failed: step +" in said.out
    found = json.loads(runs("gate", 1, 6, "-o", "json").out)
    assert (found["outcome"], found["parts"][0]["limit"]) == ("FAILED", 0.05)


def test_gate_refuses_bad_limits_and_parts(runs: Cli) -> None:
    """Exit 2, with what would be right."""
    assert "write PART:PERCENT" in runs("gate", 1, 2, "--fail-on", "step").err
    said = runs("gate", 1, 2, "--fail-on", "mask.apply:20%")
    assert said.code == 2
    assert "no part 'mask.apply'; these runs have step, embed, mlp" in said.err
    assert runs("gate", 1, 7).code == 2


# Baselines


def test_a_run_is_saved_and_compared_by_name(cli: Cli, tiny_llama: Path, fake_time: FakeClock) -> None:
    """`--save-baseline`, `--baseline`, and the name wherever a run is read; in fake time runs differ by rounds."""
    measure = ["ledger", "--backend", "numpy", "-m", tiny_llama, "-p", 8, "-n", 4, "-q", "--rounds"]
    saved = cli(*measure, 20, "--save-baseline", "before")
    assert saved.code == 0
    assert (Path(".perstep/baselines/before") / "samples.jsonl").is_file()
    again = cli(*measure, 21, "--baseline", "before")
    assert again.code == 0
    assert "decode: before → 0002-ledger" in again.out
    assert "decode: tiny, batch 1" in again.out
    both = json.loads(cli(*measure, 22, "--baseline", "before", "-o", "json").out)
    assert both["comparison"]["new"]["name"] == "0003-ledger"
    assert both["results"]["decode"]["rounds"] == 22
    assert cli("show", "before").code == 0
    assert cli("compare", "before", 2).code == 0
    assert cli("gate", "before", 2).code == 0
    assert cli("export", "before", "--format", "pyperf").code == 0


def test_another_workload_than_the_baselines_is_refused_before_measuring(
    cli: Cli, tiny_llama: Path, fake_time: FakeClock
) -> None:
    """No run is made."""
    measure = ["ledger", "--backend", "numpy", "-m", tiny_llama, "-p", 8, "--rounds", 2, "-q"]
    assert cli(*measure, "-n", 4, "--save-baseline", "before").code == 0
    said = cli(*measure, "-n", 5, "--baseline", "before")
    assert (said.code, said.out) == (2, "")
    assert "new_tokens: 4 → 5" in said.err
    assert [path.name for path in RUNS.iterdir()] == ["0001-ledger"]


def test_an_invalid_baseline_is_refused_before_measuring(cli: Cli, tiny_llama: Path, ledger_run: LedgerRun) -> None:
    """Exit 4, and no run is made."""
    ledger_run(Path(".perstep/baselines/before"), differing=1)
    said = cli("ledger", "--backend", "numpy", "-m", tiny_llama, "--baseline", "before")
    assert (said.code, said.out) == (4, "")
    assert not RUNS.exists()


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--baseline", "absent", "no baseline absent; there are no baselines"),
        ("--baseline", "../x", "cannot be the name of a baseline"),
        ("--save-baseline", "../x", "cannot be the name of a baseline"),
        ("--save-baseline", "7", "cannot be the name of a baseline"),
    ],
)
def test_bad_baselines_are_refused_before_measuring(cli: Cli, option: str, name: str, said: str) -> None:
    """Before the model is even looked for."""
    answer = cli("ledger", "-m", "nowhere", option, name)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert not Path(".perstep").exists()


def test_compare_keeps_the_new_run_as_a_baseline(runs: Cli) -> None:
    """An older one of that name is replaced only then."""
    assert runs("compare", 1, 2, "--save-baseline", "main").code == 0
    assert runs("list").err == "baselines: main\n"
    assert runs("compare", 1, "main").out.startswith("decode: 0001-ledger → main")
    assert runs("compare", "main", 3, "--save-baseline", "main").code == 0
    assert "are the same run" in runs("compare", "main", 3).err
    assert runs("compare", 1, 99, "--save-baseline", "main").code == 2
    assert "are the same run" in runs("compare", "main", 3).err


# export


@pytest.mark.parametrize("form", ["pyperf", "chrome-trace", "speedscope", "github-action", "csv"])
def test_export_writes_to_stdout_or_a_file(runs: Cli, form: str) -> None:
    """The same bytes."""
    said = runs("export", 1, "--format", form, "--rounds", 3)
    assert said.code == 0
    assert runs("export", 1, "--format", form, "--rounds", 3, "--to", "out.txt").out == ""
    assert Path("out.txt").read_text() == said.out
    if form != "csv":
        json.loads(said.out)


def test_a_trace_has_five_rounds_unless_more_are_asked_for(runs: Cli) -> None:
    """Which is said."""
    said = runs("export", 1, "--format", "chrome-trace")
    assert json.loads(said.out)["otherData"]["rounds"] == "the first 5 of 24"
    assert said.err == "note: the first 5 of 24 rounds; give --rounds for more\n"
    assert runs("export", 1, "--format", "csv").err == ""


def test_export_refuses_what_it_cannot_do(runs: Cli) -> None:
    """Exit 2; an unknown format with the list of those there are."""
    unknown = runs("export", 1, "--format", "excel")
    assert (unknown.code, unknown.out) == (2, "")
    assert all(form in unknown.err for form in ("pyperf", "chrome-trace", "github-action", "csv"))
    assert runs("export", 1).code == 2
    assert runs("export", 99, "--format", "csv").code == 2
    assert runs("export", 1, "--format", "csv", "--rounds", 0).code == 2
    nowhere = runs("export", 1, "--format", "csv", "--to", "nowhere/out.csv")
    assert nowhere.code == 2
    assert "nowhere/out.csv" in nowhere.err
