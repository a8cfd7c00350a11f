"""What the knob experiments share: rounds that run out of memory, linear models, lengths of output and input."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments import pipeline, registry
from perstep.experiments.knobs import (
    Arm,
    Configuration,
    KnobSession,
    Subject,
    analyse_knob,
    context,
    depth,
    fit_latency_model,
    latency_model_of_runs,
    output,
)
from perstep.experiments.knobs.latency_model import fit_stage
from perstep.experiments.knobs.options import PromptOptions
from perstep.experiments.knobs.output.show import per_token_ms
from perstep.experiments.memory import is_out_of_memory
from perstep.machine import Noise
from perstep.measure import FakeClock, Trace
from perstep.runs import read_manifest
from perstep.targets import Work

from .made_up import MadeUp

GOLDEN = Path(__file__).parents[2] / "golden"


def no_progress(_share: float, _what: str) -> None:
    """Nobody looks."""


def configuration(label: str = "a", knob: float = 1.0, **options: Any) -> Configuration:
    """A configuration of a model of four blocks."""
    made = {
        "num_active_blocks": 4, "num_total_blocks": 4, "active_block_indices": [0, 1, 2, 3],
        "num_input_text_tokens": 8, "num_vision_tokens": 0, "num_output_tokens": 3,
    }  # fmt: skip
    return Configuration(label=label, knob=knob, **{**made, **options})


# Out of memory


class Memory:
    """Is enough for a number of calls; those of two tokens always fit."""

    def __init__(self, enough_for: int, error: Exception) -> None:
        self.left, self._error = enough_for, error

    def __call__(self, work: Work) -> None:
        """Raise the error once there were as many."""
        if work.new_tokens > 2:
            self.left -= 1
            if self.left < 0:
                raise self._error


def work(new_tokens: int) -> Work:
    """So many tokens after a prompt of eight."""
    prompt_BT = np.zeros((1, 8), np.int64)
    return Work(prompt_BT, Trace(prompt_BT, np.zeros((1, new_tokens), np.int64)))


def greedy_session(memory: Memory, *sizes: int, experiment: str = "output") -> KnobSession:
    """A session of configurations of so many tokens."""
    arms = [Arm(configuration(str(size), size, num_output_tokens=size), [work(size)], nullcontext) for size in sizes]
    clock = FakeClock()
    subject = Subject(MadeUp(clock, fails=memory), arms, unchanged=[])
    return KnobSession(experiment, PromptOptions(rounds=3), [subject], no_progress, clock)


def test_what_was_measured_before_memory_ran_out_is_kept() -> None:
    """The configuration is not tried again, the others go on, and the reason is told."""
    torch_error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 TB\nmore")
    memory = Memory(101, torch_error)  # one hundred warm-up rounds at most
    made = greedy_session(memory, 2, 5)
    memory.left = 1
    samples = [made.measure_round(number) for number in range(3)]
    findings = analyse_knob(made.manifest, samples)
    assert [s.samples for s in findings.summary] == [3, 1]
    assert findings.summary[1].failed.startswith("out of memory: [enforce fail]")
    assert "\n" not in findings.summary[1].failed
    assert findings.invalid == ""
    made.finish()
    (table,) = output.tables(made.manifest, findings)
    assert any(note.startswith("5: out of memory") and "1 sample kept" in note for note in table.notes)


def test_nothing_measured_is_invalid() -> None:
    """All configurations failed in the warm-up already: the first round says so."""
    made = greedy_session(Memory(0, MemoryError("no")), 3, 4)
    sample = made.measure_round(0)
    assert [p.failed for p in sample.passes] == ["out of memory: no"] * 2
    assert "no configuration could be measured" in analyse_knob(made.manifest, [sample]).invalid
    with pytest.raises(InvalidMeasurement, match="no configuration could be measured"):
        made.finish()


@pytest.mark.parametrize("name", ["output", "context", "depth", "experts"])
def test_a_run_of_which_every_configuration_ran_out_of_memory_ends_and_is_shown(name: str) -> None:
    """The rounds end at once, the run is invalid, and its tables, page and README say why; there is no picture."""
    made = greedy_session(Memory(0, MemoryError("no")), 3, 4, experiment=name)
    stored = read_manifest(GOLDEN / name)  # for the facts of each experiment
    made.manifest.conditions, made.manifest.plan = stored.conditions | made.manifest.conditions, stored.plan
    samples = [made.measure_round(0)]
    assert made.resolved(samples).half_width == 0
    knob = registry.find(name)
    findings = knob.analyse(made.manifest, samples)
    (table,) = knob.tables(made.manifest, findings)
    assert "3: out of memory: no" in " ".join(table.notes)
    assert "artefact" not in " ".join(table.notes)
    if name == "output":
        assert [row[table.header.index("artefact")] for row in table.rows] == ["–", "–"]
    assert knob.summary(findings)["headline"] == "no configuration could be measured"
    files = knob.files(made.manifest, findings)
    assert b"no configuration could be measured" in files["README.md"]
    assert b"out of memory: no" in files["README.md"]
    assert b".png" not in files["README.md"]
    assert not any(file.endswith(".png") for file in files)
    assert knob.content(made.manifest, findings, samples).finding.endswith("no configuration could be measured")


def test_measuring_stops_by_the_intervals_that_are_shown(calm: Noise) -> None:
    """One that ends with "precision reached" is not called unresolved, nor the other way round."""
    made = greedy_session(Memory(10_000, MemoryError("no")), 3, 4)
    draws = np.random.default_rng(0)
    samples = [msgspec.structs.replace(made.measure_round(number), noise=calm) for number in range(24)]
    for sample in samples:
        for p in sample.passes:
            p.step_ns = np.round(p.step_ns * draws.uniform(1.0, 1.2)).astype(np.int64)
    rows = analyse_knob(made.manifest, samples).summary
    shown = [(s.decode_step_ci_high - s.decode_step_ci_low) / 2 / s.decode_step_ms for s in rows]
    assert made.resolved(samples).half_width == pytest.approx(max(shown))
    assert max(shown) > 0.005


def test_another_error_is_not_taken_for_memory() -> None:
    """It passes on."""
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        greedy_session(Memory(0, RuntimeError("shapes differ")), 3)


# Linear models


def row(**knobs: Any) -> Any:
    """A configuration with exactly linear stages: what `Summary` has and the model reads."""
    from types import SimpleNamespace

    made = {
        "num_active_blocks": 4, "num_input_text_tokens": 8, "num_vision_tokens": 0, "num_output_tokens": 4,
        "top_k": None, "experts_implementation": None, "vision_ms": 0.0,
    }  # fmt: skip
    found = SimpleNamespace(**{**made, **knobs})
    tokens = found.num_input_text_tokens + found.num_vision_tokens
    found.prefill_ms = 1 + 2 * found.num_active_blocks + 0.5 * found.num_active_blocks * tokens
    found.decode_ms = 1 + 2 * found.num_active_blocks
    found.vision_ms = 3 + 0.25 * found.num_vision_tokens if found.num_vision_tokens else 0.0
    return found


def test_a_linear_model_over_several_knobs_is_found_again() -> None:
    """Blocks and lengths vary: the terms are those of the data, the held-out error is nothing."""
    rows = [row(num_active_blocks=b, num_input_text_tokens=t) for b in (1, 2, 4) for t in (8, 16, 64)]
    model = fit_latency_model(rows)
    assert model.knobs == ["blocks", "input_text_tokens"]
    terms = model.stages["prefill"].terms
    assert terms == pytest.approx({"1": 1, "blocks": 2, "tokens": 0, "blocks x tokens": 0.5}, abs=1e-9)
    assert model.stages["prefill"].heldout_error == pytest.approx(0, abs=1e-9)
    assert model.predict("prefill", row(num_active_blocks=3, num_input_text_tokens=32)) == pytest.approx(55)
    with pytest.raises(InputError, match="no model of 'vision'"):
        model.predict("vision", rows[0])


def test_terms_that_were_not_varied_are_left_out() -> None:
    """With depth alone nothing is claimed of lengths; vision has a line of its own."""
    model = fit_latency_model([row(num_active_blocks=b, num_vision_tokens=4 * b) for b in (1, 2, 3, 4)])
    assert set(model.stages["vision"].terms) == {"1", "vision_tokens"}
    assert model.stages["vision"].terms["vision_tokens"] == pytest.approx(0.25)
    blind = row()
    blind.vision_ms = 0.05  # what it takes a vision-language model to see that there is no image
    assert "vision" not in fit_latency_model([blind, row(num_active_blocks=2)]).stages
    assert set(fit_latency_model([row(num_input_text_tokens=0)]).stages["prefill"].terms) == {"1"}
    depth_only = fit_latency_model([row(num_active_blocks=b) for b in (1, 2, 3, 4)])
    assert set(depth_only.stages["prefill"].terms) == {"1", "blocks"}
    assert "vision" not in depth_only.stages


def test_a_point_off_the_line_shows_in_the_held_out_error() -> None:
    """Ten per cent off at one end; two points are too few to hold one out, one is no line."""
    fit = fit_stage([1, 2, 3, 4, 5], [1, 2, 3, 4, 5.5])
    assert fit.heldout_error is not None
    assert fit.heldout_error > 0.5 / 5.5 > fit.max_deviation
    assert fit_stage([1, 2], [1, 2]).heldout_error is None
    assert fit_stage([1, 2], [1, 2]).reason == "2 points are too few to hold one out"
    assert fit_stage([3, 3], [1, 2]).reason == "a line needs two values of the knob"


def test_a_bend_is_seen_beyond_the_range() -> None:
    """A cost that grows with the square is called curved, a line is not."""
    x = [float(n) for n in range(1, 17)]
    assert fit_stage(x, [1 + v * v for v in x]).curved
    straight = fit_stage(x, [1 + v for v in x])
    assert not straight.curved
    assert straight.curve is None
    assert straight.beyond_error == pytest.approx(0, abs=1e-9)


def test_five_doublings_are_enough_to_see_a_curve() -> None:
    """Leaving out point after point, where no octave can be spared; the curve stands beside the line."""
    x = [64.0, 128.0, 256.0, 512.0, 1024.0]
    fit = fit_stage(x, [2 + 0.02 * n + 6e-5 * n * n for n in x])
    assert fit.curve is not None
    assert fit.curve.coefficients_ms == pytest.approx([2, 0.02, 6e-5])
    assert fit.curve.heldout_error == pytest.approx(0, abs=1e-9)
    assert fit.heldout_error is not None
    assert fit.heldout_error > 0.5
    assert fit_stage(x, [2 + 0.02 * n for n in x]).curved is False
    assert fit_stage(x, [1.0, 1.01, 0.99, 1.01, 1.0]).curved is False
    assert fit_stage(x[:4], [2 + 6e-5 * n * n for n in x[:4]]).curved is None


def test_one_change_of_slope_is_told_where_it_is_sought() -> None:
    """Its fit, its least fixed share with an interval from rounds, and its error beyond; a curve is not looked at."""
    x = [float(n) for n in range(1, 17)]
    cost = [2 + 0.4 * n + 0.2 * max(n - 6, 0) for n in x]
    fit = fit_stage(x, cost, np.outer(np.ones(40), cost), may_bend=True)
    assert fit.knee is not None
    assert (fit.knee.at, fit.knee.slope_beyond_ms, fit.slope_ms, fit.intercept_ms) == pytest.approx((6, 0.6, 0.4, 2))
    assert fit.knee.line_heldout_error > 0.03 > 0.001 > fit.knee.line_r_squared - 0.999
    assert [fit.at(n) for n in x] == pytest.approx(cost)
    shares = (fit.fixed_share, fit.fixed_share_ci_low, fit.fixed_share_ci_high)
    assert shares == pytest.approx((2 / cost[-1],) * 3)
    assert (fit.r_squared, fit.heldout_error, fit.beyond_error) == pytest.approx((1, 0, 0), abs=1e-9)
    assert (fit.curved, fit.knee.beyond_from) == (None, 9)
    unasked = fit_stage(x, cost)
    assert unasked.knee is None
    assert unasked.heldout_error == pytest.approx(fit.knee.line_heldout_error)


def test_the_model_has_a_term_for_blocks_beyond_a_change_of_slope() -> None:
    """Linear in named terms, among lengths too; below the place the term is nothing."""
    rows = [row(num_active_blocks=b) for b in range(1, 17)] + [
        row(num_active_blocks=b, num_input_text_tokens=64) for b in (4, 16)
    ]
    for one in rows:
        one.decode_ms += 0.5 * max(one.num_active_blocks - 6, 0)
    model = fit_latency_model(rows)
    decode = model.stages["decode_per_forward"]
    assert decode.knee == 6
    assert decode.terms == pytest.approx(
        {"1": 1, "blocks": 2, "blocks beyond 6": 0.5, "tokens": 0, "blocks x tokens": 0}, abs=1e-9
    )
    assert model.predict("decode_per_forward", row(num_active_blocks=12)) == pytest.approx(28)
    assert model.predict("decode_per_forward", row(num_active_blocks=5)) == pytest.approx(11)
    assert model.stages["prefill"].knee is None


# Output and context


def test_output_divides_by_forwards_and_shows_what_tokens_would_give(tiny_llama: Path, ticking: FakeClock) -> None:
    """N tokens are N - 1 forwards; the cost of a forward grows with its position, exactly."""
    plan = output.Plan(model=str(tiny_llama), backend="numpy", prompt_tokens=4, new_tokens=(1, 2, 4, 16), rounds=2)
    made = output.prepare(plan, no_progress, ticking)
    findings = output.analyse(made.manifest, [made.measure_round(0), made.measure_round(1)])
    assert [s.num_output_tokens for s in findings.summary] == [1, 2, 4, 16]
    assert findings.summary[0].decode_ms is None
    assert [s.decode_ms for s in findings.summary[1:]] == pytest.approx([0.005, 0.006, 0.012])
    assert [per_token_ms(s) for s in findings.summary[1:]] == pytest.approx([0.0025, 0.0045, 0.01125])
    assert findings.positions_ms == pytest.approx([0.001 * (5 + i) for i in range(15)])
    assert findings.invalid == ""
    (table,) = output.tables(made.manifest, findings)
    assert [line[5] for line in table.rows] == ["–", "-50.0 %", "-25.0 %", "-6.2 %"]
    assert {"output.png", "output.csv", "README.md"} <= set(output.files(made.manifest, findings))


@pytest.mark.parametrize(("rounds", "said"), [(2, "is not resolved (2 rounds;"), (24, ": +200.0 % [")])
def test_what_a_call_costs_more_at_its_end_has_an_interval(
    rounds: int, said: str, tiny_llama: Path, ticking: FakeClock, calm: Noise
) -> None:
    """Forwards 1 to 3 of 15 against the last 3, paired in each round: 6 and 18 µs; no number without an interval."""
    plan = output.Plan(model=str(tiny_llama), backend="numpy", prompt_tokens=4, new_tokens=(16,), rounds=rounds)
    made = output.prepare(plan, no_progress, ticking)
    samples = [msgspec.structs.replace(made.measure_round(number), noise=calm) for number in range(rounds)]
    findings = output.analyse(made.manifest, samples)
    assert findings.growth.change == pytest.approx(2.0)
    assert (findings.growth.ci_low is None) == (rounds == 2)
    headline = output.summary(findings)["headline"]
    assert said in headline
    assert ("%" in headline) == (rounds == 24)


def test_one_token_has_a_picture_of_its_call(tiny_llama: Path, ticking: FakeClock) -> None:
    """There is no decode forward to divide."""
    plan = output.Plan(model=str(tiny_llama), backend="numpy", prompt_tokens=4, new_tokens=(1,), rounds=1)
    made = output.prepare(plan, no_progress, ticking)
    findings = output.analyse(made.manifest, [made.measure_round(0)])
    assert (findings.summary[0].total_ms, findings.positions_ms) == (pytest.approx(0.004), [])
    assert output.files(made.manifest, findings)["output.png"].startswith(b"\x89PNG")


def test_context_lengths_are_beginnings_of_one_prompt(tiny_llama: Path, ticking: FakeClock) -> None:
    """The default goes as far as the context; lengths are counted, and a text model takes no images."""
    plan = context.Plan(model=str(tiny_llama), backend="numpy", prompt_tokens=(8, 16), new_tokens=2, rounds=2)
    made = context.prepare(plan, no_progress, ticking)
    findings = context.analyse(made.manifest, [made.measure_round(0), made.measure_round(1)])
    assert [s.num_input_text_tokens for s in findings.summary] == [8, 16]
    assert [s.prefill_ms for s in findings.summary] == pytest.approx([0.008, 0.016])
    assert [s.decode_ms for s in findings.summary] == pytest.approx([0.009, 0.017])
    first, second = (arm.works[0].trace.prompt_BT for arm in made._arms)
    assert np.array_equal(first, second[:, :8])
    assert {"context.png", "context.csv", "README.md"} <= set(context.files(made.manifest, findings))
    default = context.prepare(
        context.Plan(model=str(tiny_llama), backend="numpy", new_tokens=1, rounds=1), no_progress, ticking
    )
    assert [c["num_input_text_tokens"] for c in default.manifest.conditions["configurations"]] == [64]
    with pytest.raises(InputError, match="is a text model: --images and --image-size go with"):
        context.prepare(context.Plan(model=str(tiny_llama), backend="numpy", images=(1,)), no_progress, ticking)


def test_runs_of_one_model_are_fitted_together(tiny_llama: Path, tmp_path: Path, ticking: FakeClock) -> None:
    """Depth and input were turned in two runs; the model has terms for both. Other runs are refused by name."""
    model: dict[str, Any] = {"model": str(tiny_llama), "backend": "numpy", "rounds": 2}
    depth_plan = depth.Plan(prompt_tokens=8, new_tokens=2, quality_tokens=0, **model)
    context_plan = context.Plan(prompt_tokens=(8, 16, 32), new_tokens=2, **model)
    for name, plan in (("depth", depth_plan), ("context", context_plan)):
        pipeline.run(name, plan, progress=no_progress, out=tmp_path / name, clock=ticking)
    found = latency_model_of_runs([tmp_path / "depth", tmp_path / "context"])
    assert found.knobs == ["blocks", "input_text_tokens"]
    assert set(found.stages["prefill"].terms) == {"1", "blocks", "tokens"}
    other = context.Plan(prompt_tokens=(8,), new_tokens=2, batch=2, **model)
    pipeline.run("context", other, progress=no_progress, out=tmp_path / "other", clock=ticking)
    with pytest.raises(InputError, match="is not of the same model and workload"):
        latency_model_of_runs([tmp_path / "depth", tmp_path / "other"])
    with pytest.raises(InputError, match="no run is given"):
        latency_model_of_runs([])
