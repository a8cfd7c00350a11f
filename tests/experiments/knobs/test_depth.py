"""The `depth` experiment: known delays become known slopes, and what ran is what the mask says."""

import itertools
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from perstep.data import knob_results_schema_path
from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments import pipeline
from perstep.experiments.knobs import KnobFindings, Sample, depth
from perstep.experiments.knobs.depth.plan import Plan
from perstep.experiments.knobs.findings import results_schema
from perstep.experiments.knobs.latency_model import fit_stage
from perstep.measure import FakeClock
from perstep.targets.reference import model as decoder
from perstep.targets.reference.skipping import _Counted

BLOCK_NS, HEAD_NS, SAMPLE_NS = 3_000, 6_000, 1_000


def no_progress(_share: float, _what: str) -> None:
    """Nobody looks."""


@pytest.fixture(scope="module")
def four(make_llama: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of four layers, the third of which does nothing."""
    from safetensors.numpy import load_file, save_file

    folder = make_llama(tmp_path_factory.mktemp("models") / "four", num_hidden_layers=4)
    tensors = load_file(folder / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"model.layers.2.{name}.weight"] *= 0
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """A clock on which a block takes 3 µs, the head 6 and sampling 1."""
    from perstep.targets.reference import loop

    clock = FakeClock()

    def slow(function: Callable[..., Any], ns: int) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            result = function(*args, **options)
            clock.advance(ns)
            return result

        return call

    monkeypatch.setattr(decoder, "mlp", slow(decoder.mlp, BLOCK_NS))
    monkeypatch.setattr(decoder, "head", slow(decoder.head, HEAD_NS))
    monkeypatch.setattr(loop, "sample", slow(loop.sample, SAMPLE_NS))
    return clock


def session(folder: Path, clock: FakeClock, **options: Any) -> Any:
    """A session with a few tokens unless the options say otherwise."""
    small = {"prompt_tokens": 8, "new_tokens": 5, "rounds": 8, "quality_tokens": 32}
    return depth.prepare(Plan(model=str(folder), backend="numpy", **{**small, **options}), no_progress, clock)


def found(made: Any, rounds: int = 8) -> KnobFindings:
    """What so many rounds of a session say."""
    return depth.analyse(made.manifest, [made.measure_round(number) for number in range(rounds)])


def test_a_known_delay_a_block_is_the_slope(four: Path, clock: FakeClock) -> None:
    """N blocks cost N delays and the head's, exactly; a third of four blocks' forward does not shrink."""
    findings = found(session(four, clock))
    assert [s.decode_ms for s in findings.summary] == pytest.approx([0.009, 0.012, 0.015, 0.018])
    assert [s.prefill_ms for s in findings.summary] == pytest.approx([0.009, 0.012, 0.015, 0.018])
    assert [s.decode_step_ms for s in findings.summary] == pytest.approx([0.010, 0.013, 0.016, 0.019])
    for stage in ("prefill", "decode_per_forward"):
        fit = findings.fits[stage]
        assert (fit.slope_ms, fit.intercept_ms) == pytest.approx((0.003, 0.006))
        assert (fit.r_squared, fit.fixed_share, fit.heldout_error) == pytest.approx((1, 1 / 3, 0))
        assert (fit.fixed_share_ci_low, fit.fixed_share_ci_high) == pytest.approx((1 / 3, 1 / 3))
    assert findings.latency_model.knobs == ["blocks"]
    assert findings.latency_model.stages["prefill"].terms == pytest.approx({"1": 0.006, "blocks": 0.003})
    assert findings.invalid == ""


def test_the_names_are_those_that_were_promised(four: Path, clock: FakeClock, tmp_path: Path) -> None:
    """`results.json` bears them, holds to the published schema, and totals are over N - 1 forwards."""
    plan = Plan(model=str(four), backend="numpy", prompt_tokens=8, new_tokens=5, rounds=2, num_active_blocks=(2, 4))
    report = pipeline.run("depth", plan, progress=no_progress, out=tmp_path / "run", clock=clock)
    stored = json.loads((report.folder / "results.json").read_bytes())
    jsonschema.validate(stored, json.loads(knob_results_schema_path().read_bytes()))
    assert set(stored["summary"][0]) >= {"num_active_blocks", "num_total_blocks", "active_block_indices"}
    for stage in ("prefill", "decode"):
        spread = stored["summary"][0][stage]
        assert set(spread) == {"P50", "P95", "P99", "mean", "std", "min", "max", "unsupported"}
        assert spread["P95"] is None
        assert spread["unsupported"]["P99"] == "P99 needs 1,000 values, this sample has 2"
    sample = stored["all_samples"][0]
    assert sample == {
        "sample_id": 0, "prompt_id": 0, "num_active_blocks": 2, "num_total_blocks": 4, "active_block_indices": [0, 1],
        "T_LLM_prefill": 0.012, "T_LLM_decode": 0.048, "T_LLM_decode_per_forward": 0.012, "T_vision_total": 0.0,
        "T_total": 0.065, "num_input_text_tokens": 8, "num_vision_tokens": 0, "num_output_tokens": 5, "top_k": None,
        "experts_implementation": None, "model": "four",
    }  # fmt: skip
    assert len(stored["all_samples"]) == 4
    made = {"README.md", "depth.csv", "depth.png", "latency_model.json", "quality.csv", "quality.png", "samples.csv"}
    assert made <= {path.name for path in report.folder.iterdir()}
    header = (report.folder / "samples.csv").read_text().splitlines()[0]
    assert header.startswith("sample_id,prompt_id,num_active_blocks,")
    readme = (report.folder / "README.md").read_text()
    assert "| 2 of 4 | 50.0 % | 66.7 % | 66.7 % |" in readme
    assert "33.3% of a decode forward does not shrink with the blocks" in readme


def test_a_change_of_slope_is_named_with_its_place(four: Path, clock: FakeClock) -> None:
    """Table, text and headline say where it is, what a block costs on either side, and the least fixed share."""
    made = session(four, clock)
    findings = found(made)
    knob = [float(n) for n in range(1, 17)]
    cost_ms = [2 + 0.4 * n + 0.2 * max(n - 6, 0) for n in knob]
    findings.fits["decode_per_forward"] = fit_stage(knob, cost_ms, may_bend=True)
    weights = [s.weight_bytes for s in findings.summary]
    assert all(more - less == weights[1] - weights[0] > 0 for less, more in itertools.pairwise(weights))
    words = "beyond 6.0 blocks (95 % interval 6.0 to 6.0) a block adds 0.600 instead of 0.400 ms to a decode forward"
    assert any(words in note for table in depth.tables(made.manifest, findings) for note in table.notes)
    readme = depth.files(made.manifest, findings)["README.md"].decode()
    assert "or 0.600 ms for each of them beyond 6.0" in readme
    assert "at least 19.2 % at the largest depth measured" in readme
    assert "Depths above 9.00, predicted from those up to it, are off by at most 0.0 %" in readme
    summary = depth.summary(findings)
    assert summary["knee"] == 6
    assert summary["headline"].startswith("at least 19.2% of a decode forward does not shrink")


def test_the_published_schema_is_up_to_date() -> None:
    """It is the one that the results are written by."""
    assert knob_results_schema_path().read_bytes() == results_schema()


def test_rounds_are_rows_of_a_balanced_block(four: Path, clock: FakeClock) -> None:
    """Every configuration once a round, and in every place equally often over a block."""
    made = session(four, clock)
    orders = [[p.arm for p in made.measure_round(number).passes] for number in range(4)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert all(len(set(column)) == 4 for column in zip(*orders, strict=True))
    followers = {pair for order in orders for pair in pairwise(order)}
    assert len(followers) == 12


def test_a_skipped_block_that_ran_is_invalid(four: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was timed then is not the configuration that it is filed under."""

    def leaks(self: _Counted) -> Iterator[Any]:
        self._calls[3] += 1
        return iter(list(list.__iter__(self)))

    made = session(four, clock, num_active_blocks=(2,))
    monkeypatch.setattr(_Counted, "__iter__", leaks)
    with pytest.raises(InvalidMeasurement, match="skipped blocks ran: 3"):
        made.measure_round(0)


def test_a_changed_choice_of_the_full_model_is_invalid(four: Path, clock: FakeClock) -> None:
    """The unchanged model must choose the trace again; the others need not."""
    made = session(four, clock, num_active_blocks=(1, 4))
    assert made.manifest.conditions["unchanged"] == [1]
    samples = [made.measure_round(0)]
    assert depth.analyse(made.manifest, samples).invalid == ""
    next(p for p in samples[0].passes if p.arm == 1).differing = 2
    assert "the unchanged model made 2 choices that" in depth.analyse(made.manifest, samples).invalid


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"strategy": "first"}, [[0], [0, 1, 2]]),
        ({"strategy": "last"}, [[3], [1, 2, 3]]),
        ({"strategy": "uniform"}, [[0], [0, 1, 2]]),
        ({"strategy": "importance"}, [None, [0, 1, 3]]),
        ({"active_block_indices": ((3, 1), (2,))}, [[1, 3], [2]]),
    ],
)
def test_strategies_choose_blocks(options: dict[str, Any], expected: list[Any], four: Path, clock: FakeClock) -> None:
    """The block that does nothing is the least important; indices win over numbers."""
    made = session(four, clock, num_active_blocks=(1, 3), **options)
    active = [c["active_block_indices"] for c in made.manifest.conditions["configurations"]]
    assert [a if b is not None else None for a, b in zip(active, expected, strict=True)] == expected
    assert all(len(blocks) == count for blocks, count in zip(active, (1, 3), strict=True) if "strategy" in options)


def test_random_blocks_are_drawn_by_the_seed(four: Path, clock: FakeClock) -> None:
    """The same seed, the same blocks; smaller sets lie in larger ones."""

    def drawn(seed: int) -> list[list[int]]:
        made = session(four, clock, strategy="random", seed=seed, num_active_blocks=(1, 2, 3), quality_tokens=0)
        return [c["active_block_indices"] for c in made.manifest.conditions["configurations"]]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)[0]) for seed in range(8)}) > 1
    assert set(drawn(2)[0]) < set(drawn(2)[1]) < set(drawn(2)[2])


def test_the_best_within_a_budget_is_named(four: Path, clock: FakeClock) -> None:
    """Decode steps take 10, 13, 16 and 19 µs; among those within it the least damage wins."""
    best = found(session(four, clock, under=17e-6)).under
    assert best is not None
    assert best.label == "2 of 4"  # the third block does nothing: without it the step is shorter, and as good
    none = found(session(four, clock, under=9e-6)).under
    assert none is not None
    assert none.label is None
    assert none.reason == "no configuration has decode steps within 0.009 ms; the fastest, 1 of 4, takes 0.01 ms"


def test_who_is_beaten_in_both_is_not_on_the_front(four: Path, clock: FakeClock) -> None:
    """Leaving out the block that does nothing costs no quality, so that the full model is beaten."""
    findings = found(session(four, clock, active_block_indices=((0, 1, 2, 3), (0, 1, 3), (0,))))
    by_label = {s.label: s for s in findings.summary}
    full, spared = by_label["blocks 0,1,2,3"], by_label["blocks 0,1,3"]
    assert full.quality is not None
    assert spared.quality is not None
    assert (spared.quality.kl, spared.quality.top1_agreement) == (0, 1)
    assert (full.pareto, spared.pareto) == (False, True)


def test_one_new_token_has_no_decode_forward(four: Path, clock: FakeClock) -> None:
    """Nothing is divided by zero: decode is null, prefill is there."""
    findings = found(session(four, clock, new_tokens=1), rounds=2)
    assert findings.summary[0].decode is None
    assert findings.all_samples[0].T_LLM_decode_per_forward is None
    assert list(findings.fits) == ["prefill"]
    made = depth.files(session(four, clock, new_tokens=1).manifest, findings)
    assert "quality.png" not in made


def test_a_resumed_run_goes_on(four: Path, tmp_path: Path) -> None:
    """The rounds that were there are kept, the orders go on where they were."""

    def run(rounds: int, out: Path, **options: Any) -> list[Sample]:
        plan = Plan(model=str(four), backend="numpy", prompt_tokens=4, new_tokens=2, rounds=rounds, quality_tokens=0)
        pipeline.run("depth", plan, progress=no_progress, out=out, clock=FakeClock(tick_ns=1), **options)
        return pipeline.load(pipeline.open_run(out)).samples

    run(2, tmp_path / "cut")
    resumed = run(5, tmp_path / "cut", resume=True)
    whole = run(5, tmp_path / "whole")
    assert [[p.arm for p in s.passes] for s in resumed] == [[p.arm for p in s.passes] for s in whole]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_active_blocks": (0, 2)}, "--num-active-blocks 0: it must be at least 1"),
        ({"num_active_blocks": ()}, "--num-active-blocks without a number"),
        ({"num_active_blocks": (2, 5)}, "--num-active-blocks 5: the model has 4 blocks"),
        ({"active_block_indices": ()}, "--active-block-indices without an index"),
        ({"active_block_indices": ((0, 9),)}, "block 9 is out of range: the model has 4 blocks, numbered 0 to 3"),
        ({"active_block_indices": ((1, 2, 1),)}, "block 1 is given more than once"),
        ({"active_block_indices": ((1, 2), (2, 1))}, "blocks 1,2 is given twice"),
        ({"strategy": "importance", "quality_tokens": 0}, "--strategy importance ranks blocks by quality"),
        ({"text": Path("nowhere.txt")}, "--text nowhere.txt: No such file or directory"),
        ({"prompt_tokens": 62, "new_tokens": 5}, "at most 3 new tokens fit"),
        ({"new_tokens": 0}, "--new-tokens 0"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str, four: Path, clock: FakeClock) -> None:
    """Before anything is measured."""
    with pytest.raises(InputError, match=message):
        session(four, clock, **options)


def test_quality_is_that_of_the_text(four: Path, clock: FakeClock, tmp_path: Path) -> None:
    """Perplexity by hand, from the logits of the full model."""
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat", encoding="utf-8")
    made = session(four, clock, text=text, num_active_blocks=(4,))
    quality = made.manifest.conditions["configurations"][0]["quality"]
    opened = Plan(model=str(four), backend="numpy").open()
    ids = np.array(opened.encode("the cat sat on the mat"))
    logits = decoder.forward(opened.model, ids[None])[0, :-1].astype(float)
    chosen = logits[np.arange(len(ids) - 1), ids[1:]] - np.log(np.exp(logits).sum(axis=1))
    assert quality["perplexity"] == pytest.approx(np.exp(-chosen.mean()), rel=1e-6)
    assert (quality["kl"], quality["top1_agreement"], quality["scored_tokens"]) == (0, 1, len(ids) - 1)
