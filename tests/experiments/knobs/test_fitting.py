"""What the budget of a knob holds: shorter calls, then fewer configurations, and what is said otherwise."""

from pathlib import Path
from typing import Any

import pytest

from perstep.experiments import pipeline
from perstep.experiments.knobs.depth.plan import Plan as Depth
from perstep.experiments.knobs.experts.plan import Plan as Experts
from perstep.experiments.knobs.fitting import Tried, fit
from perstep.experiments.planning import between_first
from perstep.measure import Effort, FakeClock
from perstep.targets.reference import model

MS = 1_000_000


def tried(*, steps_ms: list[float], prefill_ms: float = 30, tokens: int = 32) -> list[Tried]:
    """Configurations of such steps."""
    return [Tried(prefill_ms * MS, step * MS, tokens) for step in steps_ms]


def test_what_fits_stays_as_it_is() -> None:
    """Two configurations of 1 ms in half a minute."""
    found = fit(tried(steps_ms=[1, 1]), Effort(budget_s=30), may_shorten=True, droppable=[1])
    assert (found.arms, found.most_tokens, found.too_short) == ([0, 1], None, "")


def test_calls_become_shorter_before_configurations_are_left_out() -> None:
    """Four of 30 ms: 20 rounds of 32 tokens take 85 s, of 8 tokens 26 s."""
    found = fit(tried(steps_ms=[30] * 4), Effort(budget_s=30), may_shorten=True, droppable=[1, 2])
    assert (found.arms, found.most_tokens) == ([0, 1, 2, 3], 8)
    fixed = fit(tried(steps_ms=[30] * 4), Effort(budget_s=60), may_shorten=False, droppable=[1, 2])
    assert (fixed.arms, fixed.most_tokens, fixed.too_short) == ([0, 3], None, "")


def test_what_was_asked_for_stays_and_what_it_needs_is_said() -> None:
    """Nothing may give way: two options that would fit are named."""
    found = fit(tried(steps_ms=[100] * 4), Effort(budget_s=30), may_shorten=False, droppable=[])
    assert found.arms == [0, 1, 2, 3]
    assert found.too_short == (
        "the budget of 30 s holds 2 rounds, and intervals need 9; 20 rounds need 5 min; -n 8 needs 79 s"
    )


def test_what_is_between_others_is_left_out_first() -> None:
    """The two ends stay, and what stays is spread evenly."""
    order = between_first(9)
    assert order[:4] == [1, 3, 5, 7]
    assert not {0, 8} & set(order)
    assert between_first(2) == between_first(1) == []


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """A clock by which each of two layers' mlp takes 20 ms."""
    clock, original = FakeClock(tick_ns=100), model.mlp

    def mlp(*args: Any) -> Any:
        clock.advance(20 * MS)
        return original(*args)

    monkeypatch.setattr(model, "mlp", mlp)
    monkeypatch.setattr(pipeline, "HostClock", lambda: clock)
    return clock


def run(name: str, plan: Any, out: Path, said: list[str] | None = None) -> pipeline.Report:
    """A whole run; what is said before it goes into a list."""
    return pipeline.run(
        name, plan, progress=lambda _share, _what: None, out=out, resume=(out / "manifest.json").exists(),
        approve=lambda manifest: None if said is None else said.append(manifest.conditions.get("too_short", "")),
    )  # fmt: skip


@pytest.mark.parametrize("fast", [True, False])
def test_the_default_run_of_a_knob_has_intervals_within_its_budget(
    fast: bool, slow: FakeClock, tiny_llama: Path, tmp_path: Path
) -> None:
    """A step of 40 ms: of every configuration that stays, and nothing is said before."""
    said: list[str] = []
    plan = Depth(model=str(tiny_llama), backend="numpy", prompt_tokens=8, fast=fast, quality_tokens=0)
    begun_ns = slow.now()
    report = run("depth", plan, tmp_path / "run", said)
    assert (slow.now() - begun_ns) / 1e9 <= (15 if fast else 40)
    assert said == [""]
    assert all(one.decode_step_ci_low is not None for one in report.findings.summary)


def test_a_knob_is_resumed_with_the_calls_that_it_began_with(slow: FakeClock, tiny_llama: Path, tmp_path: Path) -> None:
    """What the budget would hold by now does not matter."""
    options = {"model": str(tiny_llama), "backend": "numpy", "prompt_tokens": 8, "quality_tokens": 0}
    first = run("depth", Depth(**options, budget=8.0), tmp_path / "run")
    tokens = {one.num_output_tokens for one in first.findings.summary}
    assert max(tokens) < 32
    again = run("depth", Depth(**options, budget=60.0), tmp_path / "run")
    assert {one.num_output_tokens for one in again.findings.summary} == tokens


def test_experts_takes_a_mixture_of_experts_where_no_model_is_named() -> None:
    """One layer of a real one; what is named stays."""
    assert (Experts().with_model().arch, Experts().with_model().layers) == ("olmoe-1b-7b", 1)
    assert Experts(layers=2).with_model().layers == 2
    assert Experts(model="mini").with_model() == Experts(model="mini")
