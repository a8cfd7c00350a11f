"""Several models in one run: the same rounds for all, and nothing of one in the figures of another."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from perstep.data import knob_results_schema_path
from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments import pipeline
from perstep.experiments.knobs import (
    Arm,
    Configuration,
    KnobSession,
    Subject,
    analyse_knob,
    context,
    depth,
    latency_model_of_runs,
    output,
    parts,
)
from perstep.experiments.knobs.models import refuse_if_too_large_together
from perstep.experiments.knobs.options import KnobOptions, PromptOptions
from perstep.measure import FakeClock, Trace
from perstep.targets import Work, open_model, weight_bytes
from perstep.targets.reference import model as decoder

from .made_up import MadeUp

BLOCK_NS, HEAD_NS = {48: 3_000, 64: 5_000}, 6_000  # by the width of the model's MLP
SMALL: dict[str, Any] = {"backend": "numpy", "prompt_tokens": 8, "new_tokens": 5, "rounds": 8}
QUICK: dict[str, Any] = {**SMALL, "rounds": 2, "new_tokens": 3}


def no_progress(_share: float, _what: str) -> None:
    """Nobody looks."""


@pytest.fixture(scope="module")
def two(make_llama: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Llamas `four` and `two`, of so many layers, the blocks of the latter slower."""
    folder = tmp_path_factory.mktemp("models")
    four = make_llama(folder / "four", num_hidden_layers=4, intermediate_size=48)
    two = make_llama(folder / "two", num_hidden_layers=2, intermediate_size=64, seed=1)
    return f"{four}, {two}"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """A clock on which a block takes 3 µs in one model and 5 in the other, the head 6."""
    clock, mlp, head = FakeClock(), decoder.mlp, decoder.head

    def slow_mlp(layer: Any, *rest: Any) -> None:
        clock.advance(BLOCK_NS[len(layer.down_ID)])
        mlp(layer, *rest)

    def slow_head(*args: Any, **options: Any) -> Any:
        clock.advance(HEAD_NS)
        return head(*args, **options)

    monkeypatch.setattr(decoder, "mlp", slow_mlp)
    monkeypatch.setattr(decoder, "head", slow_head)
    return clock


def test_each_model_has_the_slope_of_its_own_delay(two: str, clock: FakeClock) -> None:
    """3 and 5 µs a block: no fit, linear model, front or budget mixes the two."""
    plan = depth.Plan(model=two, quality_tokens=32, under=15.5e-6, **SMALL)
    made = depth.prepare(plan, no_progress, clock)
    findings = depth.analyse(made.manifest, [made.measure_round(number) for number in range(12)])
    assert [(s.model, s.label) for s in findings.summary] == [
        *(("four", f"{n} of 4") for n in (1, 2, 3, 4)), ("two", "1 of 2"), ("two", "2 of 2"),
    ]  # fmt: skip
    assert [s.decode_ms for s in findings.summary] == pytest.approx([0.009, 0.012, 0.015, 0.018, 0.011, 0.016])
    for name, slope in (("four", 0.003), ("two", 0.005)):
        own = findings.models[name]
        fit = own.fits["decode_per_forward"]
        assert (fit.slope_ms, fit.intercept_ms, fit.r_squared) == pytest.approx((slope, 0.006, 1))
        assert own.latency_model.stages["prefill"].terms == pytest.approx({"1": 0.006, "blocks": slope})
        assert len(own.positions_ms) == 4
    under = {name: own.under.label for name, own in findings.models.items() if own.under is not None}
    assert under["two"] == "1 of 2"
    assert under["four"] in {"1 of 4", "2 of 4", "3 of 4"}
    for name in findings.models:  # the full model is never beaten in quality, whatever the other one does
        assert next(s for s in findings.summary if s.model == name and s.knob == s.num_total_blocks).pareto
    assert (findings.fits, findings.under, findings.positions_ms, findings.invalid) == ({}, None, [], "")
    assert {s.model for s in findings.all_samples if s.num_total_blocks == 2} == {"two"}


def test_a_round_is_a_row_over_the_configurations_of_all_models(two: str, clock: FakeClock) -> None:
    """Six arms of two models: each once a round, and each after each other once over a block."""
    made = depth.prepare(depth.Plan(model=two, quality_tokens=0, **SMALL), no_progress, clock)
    orders = [[p.arm for p in made.measure_round(number).passes] for number in range(6)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({pair for order in orders for pair in pairwise(order)}) == 6 * 5
    assert made.manifest.conditions["unchanged"] == [3, 5]  # of each model, the one with all its blocks
    sample = made.measure_round(6)
    steps = [float(column.mean()) for column in made._columns([sample])]  # each is to be resolved
    assert steps == pytest.approx([9_000, 12_000, 15_000, 18_000, 11_000, 16_000])


def test_a_changed_choice_is_told_of_its_own_model(two: str, clock: FakeClock) -> None:
    """The unchanged arm of the second model is found behind those of the first."""
    made = depth.prepare(depth.Plan(model=two, quality_tokens=0, **SMALL), no_progress, clock)
    samples = [made.measure_round(0)]
    next(p for p in samples[0].passes if p.arm == 5).differing = 2
    found = depth.analyse(made.manifest, samples)
    assert found.invalid == "two: the unchanged model made 2 choices that the replayed trace did not"
    assert (found.models["four"].invalid, found.models["two"].invalid) == ("", found.invalid.removeprefix("two: "))


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("depth", depth.Plan(**{**QUICK, "quality_tokens": 32})),
        ("context", context.Plan(**{**QUICK, "prompt_tokens": (4, 8, 16)})),
        ("output", output.Plan(**{**QUICK, "new_tokens": (1, 2, 8)})),
    ],
)
def test_the_report_has_a_section_for_each_model(
    name: str, plan: Any, two: str, clock: FakeClock, tmp_path: Path
) -> None:
    """A table, a row of the picture and a section each; every entry names its model; `report` gives it all again."""
    report = pipeline.run(name, replace(plan, model=two), progress=no_progress, out=tmp_path / "run", clock=clock)
    stored = json.loads((report.folder / "results.json").read_bytes())
    jsonschema.validate(stored, json.loads(knob_results_schema_path().read_bytes()))
    assert stored["model"] == "four; two"
    assert {s["model"] for s in stored["summary"]} == {s["model"] for s in stored["all_samples"]} == {"four", "two"}
    assert [table.title.split(",")[0] for table in report.tables] == [f"{name}: four", f"{name}: two"]
    headings = [line for line in (report.folder / "README.md").read_text().splitlines() if line.startswith("#")]
    assert headings[0] == f"# {name}: four; two"
    tops = [line for line in headings if line.startswith("## ")]
    assert len(tops) == 2
    assert all(f"of {model} " in line for model, line in zip(("four", "two"), tops, strict=True))
    assert (report.folder / "README.md").read_text().count(f"![{name}]({name}.png)") == 1
    lines = (report.folder / f"{name}.csv").read_text().splitlines()
    assert lines[0].endswith(",model")
    assert {line.rsplit(",", 1)[1] for line in lines[1:]} == {"four", "two"}
    assert set(json.loads((report.folder / "latency_model.json").read_bytes())) == {"four", "two"}
    assert set(report.manifest.results_summary["models"]) == {"four", "two"}
    assert report.manifest.conditions["models"]["two"]["model"]["num_layers"] == 2
    before = {path.name: path.read_bytes() for path in report.folder.iterdir() if path.name != "manifest.json"}
    pipeline.rebuild(report.folder)
    assert {p.name: p.read_bytes() for p in report.folder.iterdir() if p.name != "manifest.json"} == before
    path = report.folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["conditions"]["models"]["two"]["conditions"]["cache"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json, of two, lacks conditions\.cache; restore it"):
        pipeline.look(report.folder)


def test_a_model_of_such_a_run_can_be_fitted_with_other_runs(two: str, clock: FakeClock, tmp_path: Path) -> None:
    """By its name, and with a run in which it was alone."""
    both = depth.Plan(model=two, quality_tokens=0, **QUICK)
    pipeline.run("depth", both, progress=no_progress, out=tmp_path / "both", clock=clock)
    alone = context.Plan(model=two.split(", ")[0], **{**QUICK, "prompt_tokens": (8, 16)})
    pipeline.run("context", alone, progress=no_progress, out=tmp_path / "alone", clock=clock)
    found = latency_model_of_runs([tmp_path / "both", tmp_path / "alone"], model="four")
    assert found.knobs == ["blocks", "input_text_tokens"]
    assert found.stages["decode_per_forward"].terms["blocks"] == pytest.approx(0.003)
    with pytest.raises(InputError, match="is of four; two: name one of them as `model`"):
        latency_model_of_runs([tmp_path / "both"])
    with pytest.raises(InputError, match="is of four: two is none of them"):
        latency_model_of_runs([tmp_path / "alone"], model="two")


CLOCK = FakeClock()


def no_memory(_work: Work) -> None:
    """There is none."""
    raise MemoryError("no")


def subject(name: str, fits: bool) -> Subject:
    """A model in one configuration."""
    made = Configuration(
        label="3", knob=3.0, num_active_blocks=1, num_total_blocks=1, active_block_indices=[0],
        num_input_text_tokens=8, num_vision_tokens=0, num_output_tokens=3,
    )  # fmt: skip
    prompt_BT = np.zeros((1, 8), np.int64)
    work = Work(prompt_BT, Trace(prompt_BT, np.zeros((1, 3), np.int64)))
    target = MadeUp(CLOCK, name) if fits else MadeUp(CLOCK, name, fails=no_memory)
    return Subject(target, [Arm(made, [work], nullcontext)], [0])


def test_a_model_without_memory_leaves_the_others(tmp_path: Path) -> None:
    """What was measured of the other stands; the report says which model has no sample."""
    subjects = [subject("small", True), subject("big", False)]
    made = KnobSession("output", PromptOptions(rounds=2), subjects, no_progress, CLOCK)
    samples = [made.measure_round(0), made.measure_round(1)]
    made.finish()
    findings = analyse_knob(made.manifest, samples)
    assert (findings.invalid, [s.samples for s in findings.summary]) == ("", [2, 0])
    assert made.resolved(samples).merged_rounds == 2  # asked of the one that was measured
    assert findings.unresolved.endswith("big: no configuration could be measured: out of memory: no")
    assert [found.model for _, found in parts(made.manifest, findings)] == ["small"]
    (table,) = output.tables(made.manifest, findings)
    assert table.notes[-1] == "big: no configuration could be measured: out of memory: no"
    assert b"**big: no configuration could be measured" in output.files(made.manifest, findings)["README.md"]
    assert set(output.summary(findings)["models"]) == {"small"}


def test_of_models_without_memory_each_says_so() -> None:
    """The run is invalid, and can be shown: a table and a headline a model, and no picture."""
    neither = [subject("big", False), subject("bigger", False)]
    made = KnobSession("output", PromptOptions(rounds=1), neither, no_progress, CLOCK)
    with pytest.raises(InvalidMeasurement, match="no configuration could be measured"):
        made.finish()
    findings = analyse_knob(made.manifest, [made.measure_round(0)])
    why = "no configuration could be measured: out of memory: no"
    assert findings.invalid == f"big: {why}; bigger: {why}"
    assert len(output.tables(made.manifest, findings)) == 2
    assert output.summary(findings)["headline"].count("no configuration could be measured") == 2
    assert "output.png" not in output.files(made.manifest, findings)


def test_weights_are_added_up_from_shapes_before_loading(two: str) -> None:
    """Each as large as it is once loaded; together they are refused with the bytes of each."""
    plans = KnobOptions(model=two, backend="numpy").each()
    own = [open_model(plan.model, backend="numpy").facts["weight_bytes"] for plan in plans]
    assert [weight_bytes(plan.model, backend="numpy") for plan in plans] == own
    refuse_if_too_large_together(plans, sum(own))
    with pytest.raises(InputError, match=rf"four {own[0]:,}, .*two {own[1]:,}\) and {sum(own) - 1:,} are free"):
        refuse_if_too_large_together(plans, sum(own) - 1)


@pytest.mark.hf
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_of_a_transformers_model_are_known_from_its_shapes(two: str, dtype: str) -> None:
    """Of a stored model and of an architecture with fewer layers, as the loaded model has them."""
    stored = two.split(", ")[0]
    for given in ({"model": stored}, {"model": None, "arch": f"{stored}/config.json", "layers": 2}):
        loaded = open_model(**given, backend="torch", dtype=dtype).model  # type: ignore[arg-type]
        expected = sum(p.numel() * p.element_size() for p in loaded.parameters())
        assert weight_bytes(**given, backend="torch", dtype=dtype) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_active_blocks": (2, 4)}, r"^two: --num-active-blocks 4: the model has 2 blocks"),
        ({"active_block_indices": ((0, 3),)}, r"^two: block 3 is out of range: the model has 2 blocks"),
        ({"prompt_tokens": 62}, r"^four: a prompt of 62 .* at most 3 new tokens fit"),
        ({"dtype": "float16"}, r"--dtype float16: the NumPy decoder runs .*four in float32"),
    ],
)
def test_what_one_model_cannot_take_is_refused_by_its_name(
    options: dict[str, Any], message: str, two: str, clock: FakeClock
) -> None:
    """Before any of them has made a token."""
    with pytest.raises(InputError, match=message):
        depth.prepare(depth.Plan(model=two, **{**SMALL, **options}), no_progress, clock)
    assert clock.now() == 0


def test_names_are_taken_apart_at_commas(tmp_path: Path) -> None:
    """Unless the whole is a path; empty names and repeated ones are refused."""
    assert [plan.model for plan in KnobOptions(model="mini, org/name").each()] == ["mini", "org/name"]
    assert [plan.arch for plan in KnobOptions(arch="gpt2,smollm2-135m").each()] == ["gpt2", "smollm2-135m"]
    odd = tmp_path / "a,b"
    odd.mkdir()
    for text in (str(odd), "mini", None):
        plan = KnobOptions(model=text)
        assert plan.each() == [plan]
    assert len(KnobOptions(arch=",".join(f"arch-{n}" for n in range(100))).each()) == 100  # too long for a path
    with pytest.raises(InputError, match="a name is empty"):
        KnobOptions(model="mini,").each()
    with pytest.raises(InputError, match="mini is given twice"):
        KnobOptions(model="mini,mini").each()


def test_models_of_one_name_go_by_their_paths(
    make_llama: Callable[..., Path], clock: FakeClock, tmp_path: Path
) -> None:
    """Two folders that are called alike stay apart in every entry."""
    folders = [make_llama(tmp_path / place / "same", intermediate_size=48) for place in ("a", "b")]
    plan = output.Plan(model=",".join(map(str, folders)), **{**QUICK, "new_tokens": (2,)})
    made = output.prepare(plan, no_progress, clock)
    findings = output.analyse(made.manifest, [made.measure_round(0)])
    assert [s.model for s in findings.summary] == [str(folder) for folder in folders]
