"""`perstep cache` on the command line: what is refused, what is printed, and the report made again."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-c", "8-"], "'8-' is not a list of counts; write 64, a list 1,2,4 or a range 8-1024*2 or 8-64+8"),
        (["-c", "64-8"], "the range '64-8' ends before it begins; write 8-64"),
        (["-c", "8-64*1"], "does not advance"),
        (["-c", "0,8"], "--context 0: it must be at least 1"),
        (["-c", "64"], "--context 64: tiny has 64 positions, and the decoded token takes one; give at most 63"),
        (["-c", "8", "-b", "1000000000"], "needs 1152.00 GB of memory"),
        (["-c", "8", "--cache", "static"], "the NumPy decoder has a cache of its own"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, tiny_llama: Path, options: list[str], why: str) -> None:
    """Exit code 2; nothing on stdout, nothing written."""
    said = cli("cache", "-m", tiny_llama, "--backend", "numpy", *options)
    assert (said.code, said.out) == (2, "")
    assert re.fullmatch(r"perstep: [^\n]+\n", said.err.splitlines(keepends=True)[-1])
    assert why in said.err
    assert not list(Path.cwd().iterdir())


@pytest.mark.real_clock
def test_a_run_is_shown_and_reported_again(cli: Cli, tiny_llama: Path) -> None:
    """Three tables; too few points for a fit say so; the same from the samples alone."""
    said = cli("cache", "-m", tiny_llama, "--backend", "numpy", "-c", "2-16*2", "--rounds", "2", "-q", "--out", "run")
    assert said.code == 0
    assert said.out.count("\n    S") + said.out.count("\n S") == 2
    assert "4 are needed, so measure more sizes" in said.out
    for name in ("README.md", "memory.png", "latency.png", "memory.json", "latency.json"):
        Path("run", name).unlink()
    again = cli("report", "run")
    assert again.code == 0
    assert {p["S"] for p in json.loads(Path("run/latency.json").read_text())["points"]} == {2, 4, 8, 16}
    assert cli("show", "run").out == said.out
