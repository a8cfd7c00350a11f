"""The `ledger` of long steps: marked and plain ones take turns inside calls, and the budget holds enough rounds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perstep.experiments import pipeline
from perstep.experiments.ledger import Plan
from perstep.experiments.ledger.calls import PARTS, plan_calls
from perstep.experiments.ledger.session import LedgerSession
from perstep.experiments.planning import least_rounds
from perstep.measure import TURNS, Effort, FakeClock
from perstep.report.export.chrome_trace import to_chrome_trace
from perstep.report.export.tidy_csv import to_tidy_csv
from perstep.stored.export import source_of
from perstep.targets.reference import model

MS, S = 1_000_000, 1_000_000_000


def no_progress(_share: float, _what: str) -> None:
    """Nobody looks."""


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """A clock by which each of two layers' mlp takes about 15 ms."""
    clock, original, rng = FakeClock(tick_ns=100), model.mlp, np.random.default_rng(0)

    def mlp(*args: Any) -> Any:
        result = original(*args)
        clock.advance(int(15 * MS * np.exp(rng.normal(0, 0.01))))
        return result

    monkeypatch.setattr(model, "mlp", mlp)
    monkeypatch.setattr(pipeline, "HostClock", lambda: clock)
    return clock


def run(folder: Path, out: Path, **options: Any) -> pipeline.Report:
    """A whole run of the NumPy decoder."""
    plan = Plan(**{"model": str(folder), "backend": "numpy", "prompt_tokens": 8, "new_tokens": 40, **options})
    return pipeline.run("ledger", plan, progress=no_progress, out=out, resume=(out / "manifest.json").exists())


@pytest.mark.parametrize("fast", [True, False])
def test_a_step_of_30_ms_has_intervals_within_the_budget(
    fast: bool, slow: FakeClock, tiny_llama: Path, tmp_path: Path
) -> None:
    """Of all parts; the marks cost what they cost, the parts add up, and nothing takes longer than was said."""
    begun_ns = slow.now()
    report = run(tiny_llama, tmp_path / "run", fast=fast)
    taken_s = (slow.now() - begun_ns) / S
    found = report.findings.decode
    assert report.findings.invalid == ""
    assert taken_s <= (15 if fast else 40)
    assert found.rounds >= 20
    assert all(part.ci_low is not None for part in found.parts.values())
    assert found.plain_step_ci_low is not None
    assert sum(p.ns_total for p in found.parts.values()) + found.residual_ns_total == found.step_ns_total
    assert found.parts["mlp"].share > 0.99
    assert found.overhead == pytest.approx(0, abs=0.01)
    assert report.findings.prefill.plain_step_ci_low is not None or fast
    readme = (report.folder / "README.md").read_text()
    assert "take turns inside calls" in readme
    assert "Marked and plain steps took turns inside calls" in " ".join(report.tables[0].notes)
    before = {name: (report.folder / name).read_bytes() for name in report.manifest.files}
    pipeline.rebuild(report.folder)
    assert {name: (report.folder / name).read_bytes() for name in report.manifest.files} == before


def test_each_position_is_marked_once_and_plain_once_in_a_pair(slow: FakeClock, tiny_llama: Path) -> None:
    """A round of the loop is one call of either turn, and pairs that end with the prefill."""
    made = LedgerSession(
        Plan(model=str(tiny_llama), backend="numpy", prompt_tokens=8, new_tokens=40, budget=6.0), no_progress, slow
    )
    sample = made.measure_round(0)
    first, second = sample.passes[:2]
    assert {first.arm, second.arm} == set(TURNS)
    assert len(sample.passes) % 2 == 0
    assert all({kind.split(".")[0] for kind in p.kinds} == {"prefill"} for p in sample.passes[2:])
    for kind in ("decode", "prefill"):
        counts = [len(p.kinds[name].step_ns) for p in (first, second) for name in p.kinds if name.startswith(kind)]
        assert sum(counts) == 2 * (39 if kind == "decode" else 1)
    assert all(bool(held.parts) != name.endswith(".plain") for p in sample.passes for name, held in p.kinds.items())


def test_a_run_is_resumed_with_calls_of_the_same_length(slow: FakeClock, tiny_llama: Path, tmp_path: Path) -> None:
    """Whatever the steps that were tried say by now."""
    first = run(tiny_llama, tmp_path / "run", budget=2.0)
    assert first.findings.decode.forwards < 39
    again = run(tiny_llama, tmp_path / "run", budget=20.0)
    assert again.findings.decode.forwards == first.findings.decode.forwards
    assert again.findings.decode.steps > first.findings.decode.steps


def test_its_exports_hold_every_step_at_its_position(slow: FakeClock, tiny_llama: Path, tmp_path: Path) -> None:
    """The tidy table and the trace know marked and plain steps apart, in the order in which they ran."""
    report = run(tiny_llama, tmp_path / "run", budget=4.0, new_tokens=9)
    source, _ = source_of(report.folder, rounds=1)
    rows = [line.split(",") for line in b"".join(to_tidy_csv(source)).decode().splitlines()[1:]]
    plain = [(row[2], int(row[3])) for row in rows if row[0] == "decode" and row[4] == "step" and row[2] in "01"]
    marked = {(row[2], int(row[3])) for row in rows if row[0] == "decode" and row[4] == "mlp" and row[2] in "01"}
    assert {row[0] for row in rows} == {"decode", "prefill"}
    assert sorted([*plain, *marked]) == [(call, at) for call in "01" for at in range(8)]
    import json

    events = json.loads(b"".join(to_chrome_trace(source)))["traceEvents"]
    steps = [event for event in events if event.get("name") == "decode step" and event["args"]["pass"] == 0]
    assert [event["args"]["position"] for event in steps] == list(range(8))
    assert len({event["tid"] for event in steps}) == 2


def test_what_the_budget_does_not_hold_is_said_before(slow: FakeClock, tiny_llama: Path, tmp_path: Path) -> None:
    """How many rounds it holds, what 20 take, and which --budget that is."""
    said: list[str] = []
    plan = Plan(model=str(tiny_llama), backend="numpy", prompt_tokens=8, new_tokens=40, budget=0.5)
    pipeline.run(
        "ledger", plan, progress=no_progress, out=tmp_path / "run",
        approve=lambda manifest: said.append(manifest.conditions["too_short"]),
    )  # fmt: skip
    assert said[0].startswith("the budget of 0.50 s holds 2 rounds, and intervals need 11; 20 rounds need")
    assert "give --budget" in said[0]


# The plan


@pytest.mark.parametrize("budget_s", [3.0, 30.0])
@pytest.mark.parametrize("step_ms", [0.3, 3, 30, 100])
@pytest.mark.parametrize("prefill_steps", [1, 5])
def test_a_plan_fits_the_budget_and_has_enough_rounds(step_ms: float, prefill_steps: int, budget_s: float) -> None:
    """Or says so. `--fast` has 8 s where 3 do not hold enough; of what is planned nothing is longer than the budget."""
    step_ns, new_tokens, plans = step_ms * MS, 64, []
    for allowed_s in (budget_s, max(budget_s, 8.0)):
        effort = Effort(budget_s=allowed_s)
        calls = plan_calls(prefill_steps * step_ns, step_ns, new_tokens, effort)
        plans.append(calls)
        if calls is None:
            assert 20 * 4 * (64 + 2 * prefill_steps) * step_ns <= allowed_s * S
            continue
        pair_ns = 2 * (2 * prefill_steps + calls.new_tokens) * step_ns
        rounds = int(allowed_s * S // pair_ns) * ((calls.new_tokens - 1) // 2)
        extra_ns = 4 * calls.prefills * prefill_steps * step_ns
        assert pair_ns + extra_ns <= allowed_s * S
        assert (rounds >= least_rounds(PARTS)) == (calls.too_short == "")
    assert plans[-1] is None or plans[-1].too_short == ""


def test_where_whole_passes_fit_nothing_takes_turns() -> None:
    """A given number of rounds is of whole passes too, whatever they take."""
    few: Callable[..., Any] = plan_calls
    assert few(1 * MS, 0.2 * MS, 64, Effort(budget_s=30.0)) is None
    assert few(500 * MS, 100 * MS, 64, Effort(precision=None, budget_s=float("inf"), max_rounds=3)) is None
    assert few(500 * MS, 100 * MS, 64, Effort(budget_s=30.0)) is not None
