"""The `cache` experiment: points, what is refused and left out, what the rounds say, and how it is shown."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments import pipeline
from perstep.experiments.cache import Plan, analyse, files, prepare, tables
from perstep.experiments.cache.fits import WITH, WITHOUT
from perstep.experiments.cache.samples import Sample
from perstep.experiments.cache.session import CacheSession
from perstep.experiments.cache.show import changes_of_regime, summary
from perstep.machine import Noise
from perstep.measure import FakeClock
from perstep.runs import Manifest

from ...conftest import facts

CONTEXTS = (2, 4, 6, 8, 12, 16, 24, 32, 48)
DOUBLING = tuple(8 << n for n in range(8))
RATES = {
    "read.262144@1 np.matmul": 50.0,
    "read.1000000@1 np.matmul": 20.0,
    "call.0@1 four small calls": 500.0,
    "call.1000000@1 four small calls": 2000.0,
    "gemm@1 np.matmul n=512": 100.0,
    "vector@1 np.multiply": 5.0,
    "special@1 np.exp": 2.0,
}


def no_progress(_share: float, _what: str) -> None:
    """Nobody looks."""


@pytest.fixture
def session(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CacheSession]:
    """`session(**plan)`: over a tiny folder; resident memory has tests of its own, and a process for each."""
    monkeypatch.setattr("perstep.experiments.cache.session.measure_resident", lambda _request: ([], "not looked at"))

    def made(**plan: Any) -> CacheSession:
        options = {"model": str(tiny_llama), "backend": "numpy", "context": CONTEXTS, "rounds": 2, **plan}
        return prepare(Plan(**options), no_progress, FakeClock(tick_ns=1000))

    return made


# Measuring


def test_every_round_holds_every_point(session: Callable[..., CacheSession]) -> None:
    """Both arms at all contexts, each visited twice, and the ceilings twice."""
    sample = session().measure_round(0)
    assert {arm: list(map(int, sorted(by, key=int))) for arm, by in sample.step_ns.items()} == {
        WITH: list(CONTEXTS),
        WITHOUT: list(CONTEXTS),
    }
    assert {len(ns) for by in sample.step_ns.values() for ns in by.values()} == {6}
    assert len(sample.ceilings) == 2


def test_the_order_is_drawn_and_then_reversed(session: Callable[..., CacheSession]) -> None:
    """So the mean place of every point is the same, and a drift is no slope; another round has another order."""
    made = session()
    visited: list[tuple[str, int]] = []
    visit = made._visit
    made._visit = lambda cell: (visited.append((cell.arm, cell.context)), visit(cell))[1]  # type: ignore[method-assign]
    made.measure_round(0)
    first = visited[:]
    assert first == first[::-1]
    visited.clear()
    made.measure_round(1)
    assert visited == visited[::-1] != first


def test_the_context_does_not_move(session: Callable[..., CacheSession]) -> None:
    """After any number of steps a rewound cache gives the same logits, and holds as many positions."""
    made = session()
    steps = made._steps
    steps.rewind(12)
    before = steps.logits(steps.step_with(12)).copy()
    made.measure_round(0)
    steps.rewind(12)
    assert steps.used_bytes() == 12 * 2 * 2 * 8 * 4
    np.testing.assert_allclose(steps.logits(steps.step_with(12)), before, rtol=1e-5, atol=1e-6)
    made.finish()


def test_a_cache_that_was_not_put_back_is_invalid(session: Callable[..., CacheSession]) -> None:
    """Law "the state is as before": the state after measuring is the one before."""
    made = session()
    made._steps.kv.keys[...] = 7.0  # type: ignore[attr-defined]
    with pytest.raises(InvalidMeasurement, match="the cache was not put back"):
        made.finish()


def test_arms_that_differ_are_invalid(session: Callable[..., CacheSession], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step with a cache that forgets its first position does not do the work of one without."""
    from perstep.targets.reference.target import ReferenceSteps

    rewind = ReferenceSteps.rewind
    monkeypatch.setattr(ReferenceSteps, "rewind", lambda self, context: rewind(self, context - 1))
    with pytest.raises(InvalidMeasurement, match="do not do the same work"):
        session()


def test_the_bytes_are_those_of_the_live_buffers(session: Callable[..., CacheSession]) -> None:
    """2 x layers x kv heads x head_dim x positions x batch x 4, used and allocated, equal to theory."""
    rows = session(batch=3).manifest.conditions["memory"]
    for row in rows:
        assert row["cache_bytes"] == row["theory_bytes"] == 2 * 2 * 1 * 8 * row["S"] * 3 * 4
        assert row["cache_bytes_allocated"] == row["theory_bytes_allocated"] == 2 * 2 * 1 * 8 * 49 * 3 * 4


def test_what_the_budget_does_not_hold_is_left_out_and_listed(session: Callable[..., CacheSession]) -> None:
    """Steps of 1 µs on this clock: 20 rounds of all points without a cache are more than 1.5 ms holds."""
    made = session(rounds=None, budget=0.0015)
    left_out = made.manifest.conditions["left_out"]
    assert left_out
    assert all(text.startswith("without a cache at S = ") for text in left_out)
    sample = made.measure_round(0)
    assert list(sample.step_ns[WITH])
    assert len(sample.step_ns[WITHOUT]) + len(left_out) == len(CONTEXTS)


# Bad input


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"context": (0, 4)}, "--context 0: it must be at least 1"),
        ({"context": (8, 64)}, "--context 64: .* has 64 positions, and the decoded token takes one; give at most 63"),
        ({"context": tuple(range(1, 66))}, "--context has 65 contexts.*; give at most 64, such as 1-65"),
        ({"batch": 0}, "--batch 0"),
        ({"cache": "static"}, "--cache static is of transformers models"),
        ({"context": (8,), "batch": 10**9}, r"a batch of 1,000,000,000 needs 1152\.00 GB of memory"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    session: Callable[..., CacheSession], plan: Mapping[str, Any], says: str
) -> None:
    """In one line, with what would be right."""
    with pytest.raises(InputError, match=says):
        session(**plan)


def test_without_a_list_the_range_ends_where_the_model_does(session: Callable[..., CacheSession]) -> None:
    """8-1024*2 as far as 64 positions reach."""
    assert session(context=None).manifest.workload["contexts"] == [8, 16, 32]


# What the rounds say


def run_of(
    calm: Noise, with_ns: Callable[[int], float], without_ns: Callable[[int], float] | None, rounds: int = 12
) -> tuple[Manifest, list[Sample]]:
    """Rounds whose steps follow these curves, each round at a pace of its own."""
    rng = np.random.default_rng(1)
    samples = []
    for number in range(rounds):
        pace = 1 + 0.2 * rng.random()

        def steps(curve: Callable[[int], float], pace: float = pace) -> dict[str, np.ndarray[Any, Any]]:
            return {str(S): np.round(curve(S) * pace * (1 + 0.001 * rng.random(4))).astype(np.int64) for S in DOUBLING}

        arms = {WITH: steps(with_ns), WITHOUT: {} if without_ns is None else steps(without_ns)}
        samples.append(Sample(number, arms, [RATES], calm))
    config = {
        "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 384,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    size = 2 * 4 * 2 * 32 * 4
    manifest = Manifest(
        experiment="cache",
        plan={},
        workload=facts("cache", "workload", contexts=list(DOUBLING), capacity=1025),
        model={"name": "made up"},
        conditions=facts(
            "cache",
            "conditions",
            config=config,
            precision=0.05,
            prompt="made up",
            memory=[
                {
                    "S": S,
                    "cache_bytes": size * S,
                    "cache_bytes_allocated": size * 1025,
                    "theory_bytes": size * S,
                    "theory_bytes_allocated": size * 1025,
                    "rss_growth_bytes": None,
                    "rss_page_bound_bytes": None,
                }
                for S in DOUBLING
            ],
        ),
    )
    return manifest, samples


def linear(S: int) -> float:
    """0.2 ms and 150 ns a position."""
    return 200_000 + 150 * S


def quadratic(S: int) -> float:
    """0.3 ms, 50 µs a position, 100 ns a pair."""
    return 300_000 + 50_000 * S + 100 * S**2


def test_fits_find_the_curves_and_are_judged_on_what_they_have_not_seen(calm: Noise) -> None:
    """Every second context is held out, and the octave beyond; the pace of a round is taken out."""
    found = analyse(*run_of(calm, linear, quadratic))
    fit, alone = found.with_cache, found.without_cache
    assert fit.coefficients_ms[1] / fit.coefficients_ms[0] == pytest.approx(150 / 200_000, rel=0.02)
    assert alone.coefficients_ms[2] / alone.coefficients_ms[1] == pytest.approx(100 / 50_000, rel=0.05)
    for each in (fit, alone):
        assert each.fitted_S == [8, 32, 128, 512]
        assert list(each.held_out_errors) == ["16", "64", "256", "1024"]
        assert max(map(abs, each.held_out_errors.values())) < 0.01
        assert each.beyond_error is not None
        assert each.beyond_error < 0.01
    assert alone.local_exponents[-1] == pytest.approx(1.58, abs=0.02)
    assert found.crossover_S is None
    assert found.crossover == "none in range: cached is faster from S = 8"


def test_the_claimed_fit_without_a_cache_is_theory_scaled(calm: Noise) -> None:
    """50 µs and 1.3 times theory's own curve: both are found, and predict held-out contexts as no polynomial does."""
    theory_ms = [p.theory_ms_without_cache for p in analyse(*run_of(calm, linear, quadratic)).points]
    curve = dict(zip(DOUBLING, theory_ms, strict=True))
    manifest, samples = run_of(calm, linear, lambda S: 50_000 + 1.3e6 * (curve[S] or 0))
    found = analyse(manifest, samples)
    claimed, beside = found.without_cache_by_theory, found.without_cache
    assert claimed is not None
    assert (claimed.claimed, beside.claimed, found.with_cache.claimed) == (True, False, True)
    assert claimed.coefficients_ms[0] / claimed.coefficients_ms[1] == pytest.approx(0.05 / 1.3, rel=0.05)
    assert claimed.fitted_S == beside.fitted_S == [8, 32, 128, 512]
    headline = summary(found)
    assert headline["latency_without_cache_R2"] == claimed.r_squared != beside.r_squared
    assert headline["latency_without_cache_form"] == claimed.form == "a + κ·T(S)"
    assert max(map(abs, claimed.held_out_errors.values())) < 0.01 < max(map(abs, beside.held_out_errors.values()))
    text = files(manifest, found)["README.md"].decode()
    assert "The claimed fit is a + κ·T(S)" in text
    assert "more than 10 %" not in text


def test_a_claimed_fit_that_does_not_predict_is_named(calm: Noise) -> None:
    """A step without a cache that doubles in the last octave beyond theory's curve is missed by half."""
    manifest, samples = run_of(calm, linear, lambda S: quadratic(S) * (2 if S == 1024 else 1))
    notes = tables(manifest, analyse(manifest, samples))[2].notes
    said = [note for note in notes if note.startswith("a + κ·T(S) (without) misses the held-out S = ")]
    assert len(said) == 1
    assert "1024 by more than 10 %" in said[0]


def test_without_a_formula_the_polynomial_is_claimed_and_says_where_it_bends(calm: Noise) -> None:
    """C S^2 overtakes b S at S = 500."""
    manifest, samples = run_of(calm, linear, quadratic)
    manifest.conditions["config"] = {"model_type": "unheard-of"}
    found = analyse(manifest, samples)
    assert found.without_cache_by_theory is None
    assert found.without_cache.claimed
    assert summary(found)["latency_without_cache_R2"] == found.without_cache.r_squared
    assert summary(found)["latency_without_cache_form"] == "a + b·S + c·S²"
    regimes = changes_of_regime(found)
    assert [round(at / 500, 1) for at, _ in regimes] == [1.0]
    assert "c·S² overtakes" in regimes[0][1]


def test_theory_says_where_a_step_without_a_cache_changes_its_nature(calm: Noise) -> None:
    """First calls and weights, then arithmetic, then attention; each where its share passes one half."""
    found = analyse(*run_of(calm, linear, quadratic))
    assert found.arithmetic_from_S is not None
    assert found.attention_from_S is not None
    assert 8 < found.arithmetic_from_S < found.attention_from_S < 1024
    assert [at for at, _ in changes_of_regime(found)] == [found.arithmetic_from_S, found.attention_from_S]


def test_a_square_alone_is_shown_as_what_it_is(calm: Noise) -> None:
    """Fitted to S up to 64, gamma S^2 over-predicts 1,024 several times: the linear term is no error term."""
    square = analyse(*run_of(calm, linear, quadratic)).square
    assert square is not None
    assert (square.fitted_S, square.largest_S) == ([8, 16, 32, 64], 1024)
    assert square.ratio_at_largest > 4


def test_a_crossover_has_an_interval(calm: Noise) -> None:
    """Without a cache 0.1 ms and 1 µs a position: as long as with one at S = 117.6."""
    found = analyse(*run_of(calm, linear, lambda S: 100_000 + 1000 * S, rounds=24))
    assert found.crossover_S == pytest.approx(117.6, rel=0.03)
    assert found.crossover_low_S is not None
    assert found.crossover_high_S is not None
    assert found.crossover_low_S <= found.crossover_S <= found.crossover_high_S


def test_theory_is_a_curve_of_its_own(calm: Noise) -> None:
    """From shapes and the ceilings of the rounds, whatever was measured; it never enters a fit."""
    one, other = (analyse(*run_of(calm, lambda S, k=k: k * linear(S), quadratic)) for k in (3, 4))
    assert [p.theory_ms_with_cache for p in one.points] == [p.theory_ms_with_cache for p in other.points]
    assert one.points[0].theory_ms_with_cache is not None
    assert one.points[0].theory_ms_with_cache < (one.points[-1].theory_ms_with_cache or 0)


def test_theory_that_was_beaten_is_withdrawn(calm: Noise) -> None:
    """Steps with a cache faster than their weights are read: no theory of that arm, but a reason."""
    manifest, samples = run_of(calm, lambda S: linear(S) / 4, quadratic)
    found = analyse(manifest, samples)
    assert {p.theory_ms_with_cache for p in found.points} == {None}
    assert found.theory_median_error_with_cache is None
    assert found.theory_withdrawn == {
        WITH: "ceilings exceeded; not judged: the step at S = 1,024 is faster than their best rounds allow"
    }
    assert found.points[0].theory_ms_without_cache is not None
    assert found.without_cache_by_theory is not None
    sentence = f"Theory has no curve with a cache: {found.theory_withdrawn[WITH]}."
    assert sentence in tables(manifest, found)[0].notes
    assert sentence in files(manifest, found)["README.md"].decode()


def test_theory_from_disturbed_ceilings_is_withdrawn(calm: Noise, taken: Noise) -> None:
    """The processor was taken away in half of the rounds, so medians predict nothing; the polynomial is claimed."""
    manifest, samples = run_of(calm, linear, quadratic, rounds=12)
    for sample in samples[:6]:
        sample.noise = taken
    found = analyse(manifest, samples)
    why = "ceilings disturbed; not judged: the processor was taken away in 6 of 12 rounds"
    assert found.theory_withdrawn == {WITH: why, WITHOUT: why}
    assert {p.theory_ms_without_cache for p in found.points} == {None}
    assert (found.without_cache_by_theory, found.arithmetic_from_S, found.attention_from_S) == (None, None, None)
    assert found.without_cache.claimed
    assert f"Theory has no curve: {why}." in tables(manifest, found)[0].notes


def test_without_the_second_arm_nothing_is_made_up(calm: Noise) -> None:
    """Its points are null, its fit says why it is none, and there is no crossover."""
    manifest, samples = run_of(calm, linear, None)
    found = analyse(manifest, samples)
    assert {p.per_token_ms_without_cache for p in found.points} == {None}
    assert found.without_cache.reason
    assert found.crossover.startswith("not looked for")
    assert b"| 8 | 0." in files(manifest, found)["README.md"]


def test_memory_that_theory_misses_is_said(calm: Noise) -> None:
    """A formula that forgot grouped heads would be off by a factor, not hidden."""
    manifest, samples = run_of(calm, linear, quadratic)
    for row in manifest.conditions["memory"]:
        row["cache_bytes"] *= 2
    assert analyse(manifest, samples).memory_max_relative_error_to_theory == pytest.approx(1.0)


def test_the_files_hold_what_readers_of_cost_curves_look_for(calm: Noise) -> None:
    """Named points, three paragraphs, two pictures, and the same bytes again."""
    manifest, samples = run_of(calm, linear, quadratic)
    found = analyse(manifest, samples)
    made = files(manifest, found)
    assert set(made) == {
        "memory.json", "latency.json", "memory.csv", "latency.csv", "memory.png", "latency.png", "README.md",
    }  # fmt: skip
    latency, memory = json.loads(made["latency.json"])["points"], json.loads(made["memory.json"])["points"]
    assert [p["S"] for p in latency] == [p["S"] for p in memory] == list(DOUBLING)
    assert {"S", "cache_bytes", "per_token_ms_with_cache", "per_token_ms_without_cache"} <= set(latency[0])
    text = made["README.md"].decode()
    assert [line for line in text.splitlines() if line.startswith("## ")][:3] == [
        "## Memory", "## Latency", "## Crossover",
    ]  # fmt: skip
    assert "agrees to the byte" in text
    assert "none in range: cached is faster from S = 8" in text.replace("None", "none")
    assert files(manifest, found) == made
    assert [table.header[0] for table in tables(manifest, found)] == ["S", "S", "steps"]


def test_a_run_without_rounds_says_so(calm: Noise) -> None:
    """An interrupted run may have none."""
    with pytest.raises(InputError, match="no finished round"):
        analyse(run_of(calm, linear, quadratic)[0], [])


@pytest.mark.real_clock
def test_a_run_can_be_told_again(tiny_llama: Path, tmp_path: Path) -> None:
    """From the folder to the summary, with processes for resident memory, and back from the samples alone."""
    plan = Plan(model=str(tiny_llama), backend="numpy", context=CONTEXTS, rounds=3)
    report = pipeline.run("cache", plan, progress=no_progress, out=tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert {"experiment", "date", "seed", "versions", "hardware", "model", "config", "results_summary"} <= set(manifest)
    assert manifest["config"]["S_points"] == list(CONTEXTS)
    assert manifest["config"]["reps_per_point"] >= 6
    assert manifest["results_summary"]["memory_max_relative_error_to_theory"] == 0
    assert {"L", "H", "d_h", "S_max"} <= set(manifest["model"])
    before = {name: (tmp_path / "run" / name).read_bytes() for name in manifest["files"]}
    (tmp_path / "run" / "latency.json").unlink()
    again = pipeline.rebuild(tmp_path / "run")
    assert {name: (tmp_path / "run" / name).read_bytes() for name in again.manifest.files} == before
    more = Plan(model=str(tiny_llama), backend="numpy", context=CONTEXTS, rounds=4)
    resumed = pipeline.run("cache", more, progress=no_progress, out=tmp_path / "run", resume=True)
    assert resumed.findings.noise.rounds == 4
    assert report.findings.noise.rounds == 3
