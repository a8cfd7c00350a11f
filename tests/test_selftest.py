"""The self-test: its bookkeeping on known answers, and one short real run through the command line."""

import json
import re
from math import isclose
from pathlib import Path

import numpy as np
import pytest

from perstep import selftest
from perstep.cli import run
from perstep.errors import InputError, InvalidMeasurement
from perstep.machine import BetweenRunNoise, describe, identity
from perstep.measure import FakeClock, Recorder
from perstep.selftest import Attribution, Detection, _Bench, _Delay, _sentence, run_selftest
from perstep.stored import fresh_runs


class SteppedClock(FakeClock):
    """A fake clock on which every reading takes 10 ns."""

    def __init__(self) -> None:
        super().__init__(tick_ns=10)


def test_a_delay_waits_once_a_step_in_its_part():
    """The wait is in the named part, at its first occurrence in each decode step, and not in the prefill."""
    clock = SteppedClock()
    recorder = Recorder(clock)
    delay = _Delay(recorder.mark, "norm", 1000, clock)
    for kind in ("prefill", "decode", "decode"):
        recorder.begin(kind)
        for part in ("embed", "norm", "mlp", "norm", "lm_head"):
            delay(part)
        recorder.end()
    decode = recorder.steps("decode")
    assert (decode.parts["norm"] >= 1000).all()
    assert (decode.parts["norm"] < 1100).all()
    assert (decode.parts["mlp"] < 100).all()
    assert 2000 <= delay.waited_ns < 2100


@pytest.mark.parametrize("part", ["embed", "attn.softmax", "stop"])
def test_known_delays_are_attributed(part: str):
    """A real ledger of `mini` finds a delay of 2 ms within 3 %, on a clock that only the delay moves much."""
    bench = _Bench(0, SteppedClock())
    found = bench.attribute(part, 2_000_000, seconds=0.0)
    assert isclose(found.found_ns, found.true_ns, rel_tol=0.001)
    assert abs(found.largest_elsewhere_ns) <= 20
    assert found.within


@pytest.mark.parametrize(
    ("found_ns", "elsewhere_ns", "within"),
    [(20_900, 0, True), (21_100, 0, False), (19_100, 900, True), (20_000, 1_100, False), (20_000, -1_100, False)],
)
def test_attribution_is_judged_by_its_limits(found_ns: int, elsewhere_ns: int, within: bool):
    """1 µs off is within for a short delay, more is not; other parts may move by 1 µs."""
    assert Attribution("mlp", 20_000, 20_000, found_ns, elsewhere_ns, "norm").within is within


def test_long_delays_are_judged_by_shares():
    """3 % of 2 ms is 60 µs, 2 % elsewhere 40 µs."""
    assert Attribution("mlp", 2_000_000, 2_000_000, 2_059_000, 39_000, "norm").within
    assert not Attribution("mlp", 2_000_000, 2_000_000, 2_061_000, 0, "norm").within
    assert not Attribution("mlp", 2_000_000, 2_000_000, 2_000_000, 41_000, "norm").within


def test_the_sentence_tells_what_is_resolved():
    """A person reads the two changes, the false verdicts and, if there were any, the wrong attributions."""
    identical = Detection(0.0, 20, 0.6, 1, 0, 12, 19, 0.001, 0.01)
    good = Attribution("mlp", 20_000, 20_000, 20_000, 0, "norm")
    bad = Attribution("mlp", 20_000, 20_000, 30_000, 0, "norm")
    text = _sentence(0.006, identical, [good])
    assert "10 s resolves changes of 0.60 % and more" in text
    assert "60 s is expected to resolve 0.24 %" in text
    assert "20 comparisons of identical programs 1 gave a false verdict" in text
    assert "wrongly" not in text
    assert "1 of 2 known delays was attributed wrongly" in _sentence(0.006, identical, [good, bad])
    assert "resolve nothing" in _sentence(None, identical, [])


def test_a_budget_too_short_for_answers_is_refused():
    """Under 20 s nothing is measured."""
    with pytest.raises(InputError, match="at least 20s"):
        run_selftest(5.0, progress=lambda _share, _what: None)


def test_the_command_answers_all_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """JSON has every section, each change was tried, and each part got each delay."""
    clock = FakeClock(tick_ns=1_000)
    noise = BetweenRunNoise(
        identity=identity(describe()), sd_log={"step": 0.01}, df=1, runs=2, workload="mini",
        measured_at="2026-01-01T00:00:00+00:00", perstep_version="0.1.0",
    )  # fmt: skip
    monkeypatch.setattr(selftest, "MIN_BUDGET_S", 1.0)
    monkeypatch.setattr(selftest, "_PROMPT", 4)
    monkeypatch.setattr(selftest, "_STEPS", 2)
    monkeypatch.setattr(selftest, "HostClock", lambda: clock)
    monkeypatch.setattr("perstep.experiments.compare.api.HostClock", lambda: clock)
    monkeypatch.setattr(selftest, "_work", lambda iterations: lambda: clock.advance(60 * iterations))
    monkeypatch.setattr(selftest, "measure_fresh_runs", lambda _seconds, _progress: noise)
    monkeypatch.setenv("PERSTEP_CACHE_DIR", str(tmp_path))
    assert run(["selftest", "--budget", "1s", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [d["true_change"] for d in found["different"]] == [0.01, 0.02, 0.05]
    assert found["identical"]["tries"] == 20
    parts = {a["part"] for a in found["attribution"]}
    assert {"embed", "mlp", "sample", "stop"} <= parts
    assert len(found["attribution"]) == 3 * len(parts)
    assert found["clock_resolution_ns"] >= 1
    assert np.isfinite(found["overhead"])
    assert "overhead_ci_low" in found
    assert found["sentence"]
    assert found["fresh_runs"] == 2
    assert list(tmp_path.iterdir())


@pytest.mark.real_clock
def test_fresh_runs_are_ledgers_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch):
    """As many as are asked for at least; one that is invalid, as on a very busy machine, is said."""
    monkeypatch.setattr(fresh_runs, "MIN_RUNS", 2)
    told, invalid = [], ""
    try:
        noise = fresh_runs.measure_fresh_runs(1e-3, lambda _share, what: told.append(what))
    except InvalidMeasurement as error:
        invalid = str(error)
    if invalid:
        assert re.match("a ledger in a fresh process failed: perstep: .*the instruments made the step", invalid)
    else:
        assert noise is not None
        assert (noise.runs, noise.df) == (2, 1)
        assert noise.sd_log["step"] > 0
        assert told == ["run 1 in a fresh process", "run 2 in a fresh process"]
