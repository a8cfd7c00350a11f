"""A cut of `benchmarks/torture.py`: no fault costs a round, a wrong figure or a traceback, and the trials can fail."""

import json
import random
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """The script's names."""
    return runpy.run_path(str(BENCHMARKS / "torture.py"), run_name="torture")


@pytest.mark.nightly
@pytest.mark.real_clock
def test_no_fault_costs_anything(environment: dict[str, str], tmp_path: Path) -> None:
    """All kinds, on a machine however busy: instants are random, and what must hold holds at each."""
    result = tmp_path / "torture.json"
    command = [
        sys.executable,
        "-P",
        str(BENCHMARKS / "torture.py"),
        "--fast",
        "--date",
        "2026-01-31",
        "--out",
        str(result),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 11
    assert all(row["tried"] and not row["faults"] for row in rows)


def test_a_judgement_can_fail(script: dict[str, Any]) -> None:
    """A traceback, an unexpected error, a regression, a wrong code and no end are counted."""
    row, said = script["Row"]("a fault"), script["Said"]
    for code, err in ((0, "Traceback (most recent call last):"), (70, ""), (1, ""), (5, ""), (None, "")):
        script["judge"](row, said(code, "", err), "a command")
    assert (row.tracebacks, row.wrong, row.lost) == (3, 2, 0)
    script["judge"](row, said(2, "", "perstep: bad input"), "a command")
    assert len(row.faults) == 5


def test_the_table_has_a_row_a_kind_of_fault(script: dict[str, Any]) -> None:
    """What was tried, and what came of it."""
    row = script["Row"]("links", tried=8)
    row.note("wrong", "a link was followed")
    made = script["table"]([row])
    assert made.header == ["fault", "tried", "lost", "wrong", "tracebacks"]
    assert made.rows == [["links", "8", "0", "1", "0"]]


def test_every_damage_damages(script: dict[str, Any]) -> None:
    """No trial is of a file as it was."""
    content = (Path(__file__).parents[1] / "golden" / "ledger" / "samples.jsonl").read_bytes()
    rng = random.Random(0)
    hows = set()
    for _ in range(200):
        how, changed = script["damaged"](content, rng)
        hows.add(how)
        assert changed != content or how in ("another type", "lines moved"), how
    assert len(hows) == 11


def test_the_stored_result_has_no_fault(script: dict[str, Any]) -> None:
    """The committed file is of a whole run, with every kind."""
    stored = json.loads((BENCHMARKS / "results" / "torture.json").read_text(encoding="utf-8"))
    assert not stored["fast"]
    assert [row["fault"] for row in stored["rows"]] == [
        "kills", "forced kills", "signals", "full disks", "links", "damages", "command lines", "ctrl c", "sweeps",
        "sweep damages", "locks",
    ]  # fmt: skip
    assert all(row["tried"] and not row["faults"] for row in stored["rows"])
