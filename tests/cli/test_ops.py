"""`perstep ops` as people call it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perstep.experiments import pipeline
from perstep.measure import FakeClock
from perstep.targets.operators import numpy_layer as numpy_operators

Cli = Any


@pytest.fixture(autouse=True)
def planted_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the pipeline's clock a reading takes 1 ns, an MLP 100 µs, building a mask 10 µs, all else nothing."""
    clock = FakeClock(tick_ns=1)

    def slowed(function: Any, ns: int) -> Any:
        def call(*arguments: Any) -> Any:
            clock.advance(ns)
            return function(*arguments)

        return call

    usual = numpy_operators.OPERATORS
    slow = replace(usual, mlp=slowed(usual.mlp, 100_000), mask_build=slowed(usual.mask_build, 10_000))
    monkeypatch.setattr(pipeline, "HostClock", lambda: clock)
    monkeypatch.setattr(numpy_operators, "OPERATORS", slow)


def test_before_and_after_are_compared(cli: Cli, tiny_llama: Path) -> None:
    """A named baseline, the change, and a comparison part by part at each length."""
    shape = ("--arch", tiny_llama, "--seq", "1,8", "--rounds", "2", "-q")
    before = cli("ops", *shape, "--save-baseline", "before")
    assert before.code == 0, before.err
    assert "S = 8: 8 new tokens, 8 keys" in before.out
    after = cli("ops", *shape, "--arm", "mask=cached", "--baseline", "before", "-o", "json")
    assert after.code == 0, after.err
    found = json.loads(after.out)
    changes = {row["part"]: row["change"] for row in found["comparison"]["parts"]}
    assert changes["S8.attn.mask.build"] == pytest.approx(-1, abs=0.01)
    assert changes["S8.step"] == pytest.approx(-10 / 110, abs=0.01)
    assert changes["S1.step"] == pytest.approx(0, abs=0.01)
    assert found["results"]["reference"] == "mask=cached"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seq", "1,8,16", "--baseline", "before"), "seq: [1, 8] → [1, 8, 16]"),
        (("--seq", "1,8", "--past", "4", "--baseline", "before"), "past: 0 → 4"),
        (("--seq", "1,8", "--baseline", "other"), "no baseline other; the baselines are before"),
        (("--seq", "0"), "--seq 0: it must be at least 1"),
        (("--seq", "eight"), "is not a list of counts"),
        (("--seq", "8", "--what-if", "nonsense=0"), "write PART=0"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, tiny_llama: Path, options: tuple[str, ...], words: str) -> None:
    """What was wrong and what would be right, exit code 2, and no run is left behind."""
    shape = ("--arch", tiny_llama, "--rounds", "1", "-q")
    assert cli("ops", *shape, "--seq", "1,8", "--save-baseline", "before").code == 0
    said = cli("ops", *shape, *options)
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1
    assert len(list(Path(".perstep/runs").iterdir())) == 1


def test_every_form_of_output(cli: Cli, tiny_llama: Path) -> None:
    """Table, Markdown, CSV and JSON, from a stored run too."""
    shape = ("--arch", tiny_llama, "--seq", "4", "--rounds", "1", "-q")
    assert "seq,part,low_ns,estimate_ns,high_ns" in cli("ops", *shape, "-o", "csv").out
    assert "| part | low (µs) |" in cli("show", "1", "-o", "md").out
    assert json.loads(cli("show", "1", "-o", "json").out)["lengths"][0]["seq"] == 4
    assert cli("report", "1").code == 0
