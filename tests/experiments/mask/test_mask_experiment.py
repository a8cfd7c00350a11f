"""`mask` from a plan to a report: the arms do the same work, and the findings are those that are known."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from perstep.automata import Engine, Grammar, Vocabulary, prepare
from perstep.errors import InputError, InvalidMeasurement, how_to_install
from perstep.experiments import pipeline
from perstep.experiments.mask import Plan, analyse, session
from perstep.experiments.mask.arms import NO_MASK, BitsMasker, MaskedLoop, TableMasker
from perstep.experiments.mask.building import Workshop, parse_engines
from perstep.experiments.mask.findings import changes_of, resolved_by
from perstep.experiments.mask.samples import ArmRound, Sample
from perstep.experiments.mask.vocabularies import Named
from perstep.machine import NoiseProbe
from perstep.measure import FakeClock, no_mark
from perstep.runs import Manifest, read_manifest
from perstep.targets import open_target

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "yy"]}},
    "required": ["a"],
    "additionalProperties": False,
}
ENGINES = ["naive", "naive-memo", "table", "table-lazy", "llguidance", "outlines"]
CEILINGS = {
    "measured": "for a test",
    "l2_bytes": 1 << 20,
    "l3_bytes": 1 << 25,
    "figures": {"read.l2": 100.0, "read.l3": 30.0, "gemm.float32": 60.0},
}


@pytest.fixture
def _ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ceilings_for", lambda _machine: CEILINGS)


@pytest.fixture
def schema_file(tmp_path: Path) -> Path:
    """A schema of two fields."""
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    return path


def _run(tmp_path: Path, name: str = "run", **options: Any) -> pipeline.Report:
    plan = Plan(**{"rounds": 3, "new_tokens": 12, **options})
    return pipeline.run("mask", plan, progress=lambda _share, _what: None, out=tmp_path / name)


def _bytes_vocabulary() -> Vocabulary:
    tokens = [*(bytes([byte]) for byte in range(256)), b"true", b'"a": ', b'{"', None]
    return Vocabulary(tokens, eos_ids=[len(tokens) - 1])


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_masks_logits_to_the_tokens_that_may_come(name: str) -> None:
    """Fill and apply leave exactly the allowed logits as they were, for rows in different states."""
    vocabulary = _bytes_vocabulary()
    first = prepare(name, vocabulary).build(Grammar(SCHEMA))
    engines: list[Any] = [first, first.fork(), first.fork()]
    definition = prepare("naive", vocabulary).build(Grammar(SCHEMA))
    texts = [[], list(b'{"a": true'), list(b'{"a": true, "b": "y')]
    masker = TableMasker(engines) if hasattr(first, "table") else BitsMasker(engines)
    for engine, text in zip(engines, texts, strict=True):
        assert all(engine.accept(token) for token in text)
    logits = np.random.default_rng(0).normal(size=(3, vocabulary.size)).astype(np.float32)
    before = logits.copy()
    masker.apply(logits, masker.fill())
    for row, text in enumerate(texts):
        definition.reset()
        assert all(definition.accept(token) for token in text)
        allowed = np.unpackbits(definition.fill().view(np.uint8), bitorder="little", count=vocabulary.size) > 0
        finite = np.isfinite(logits[row])
        if name != "llguidance":  # it allows one way to cut forced text
            np.testing.assert_array_equal(finite, allowed)
        assert not (finite & ~allowed).any()
        np.testing.assert_array_equal(logits[row][finite], before[row][finite])


def test_a_row_begins_its_next_text_after_an_end_token(tiny_llama: Path) -> None:
    """The end token is accepted and the engine begins anew; a token that does not fit is an invalid measurement."""
    model = open_target(str(tiny_llama))
    vocabulary = Vocabulary([*(bytes([b]) for b in range(256)), None, None, None, None], [256, 257, 258], [259])
    engine = prepare("table", vocabulary).build(Grammar({"const": 7}))
    loop = MaskedLoop(model, model.new_cache(1, 20), [engine], (259,))
    loop.prefill(np.array([[1, 2]]), no_mark)
    for token in (ord("7"), 259, ord("7")):
        chosen = loop.decode(np.array([token]), no_mark)
        assert chosen.tolist() == [259 if token == ord("7") else ord("7")]  # the only one that may come
    with pytest.raises(InvalidMeasurement, match="table does not accept token 55"):
        loop.decode(np.array([ord("7")]), no_mark)


def test_engines_are_those_installed_or_those_named() -> None:
    """Without a list all that are installed; a name that is none, or not installed, is refused with what to do."""
    engines, named = parse_engines(None)
    assert engines[:3] == ("naive", "table", "table-lazy")
    assert not named
    assert parse_engines("table, naive") == (("naive", "table"), True)
    with pytest.raises(InputError, match="there is no engine 'foo'"):
        parse_engines("foo")


def test_an_engine_that_is_not_installed_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.setattr("perstep.experiments.mask.building.available", lambda: ["naive"])
    assert parse_engines(None) == (("naive",), False)
    said = f"llguidance: it is not installed: {how_to_install('grammar')}"
    with pytest.raises(InputError, match=re.escape(said)):
        parse_engines("llguidance")


def test_a_build_is_timed_apart_from_the_first_mask_and_from_disk() -> None:
    """Every engine has its build, its first mask is no sooner than that, and the table has a disk cache."""
    workshop = Workshop(FakeClock(tick_ns=10), named=True)
    vocab = Named("own", _bytes_vocabulary(), own=True)
    made = workshop.engines(ENGINES, vocab, Grammar(SCHEMA), 1)
    assert list(made) == ENGINES
    assert [build.engine for build in workshop.builds] == ENGINES
    assert all(build.first_mask_ns > build.build_ns > 0 for build in workshop.builds)
    assert [build.engine for build in workshop.builds if build.from_disk_ns is not None] == ["table"]


def test_a_peer_that_refuses_is_left_out_unless_it_was_named() -> None:
    """A whitespace policy that llguidance does not know costs the run only that arm."""
    grammar = Grammar(SCHEMA, whitespace="[ ]?")
    vocab = Named("own", _bytes_vocabulary(), own=True)
    workshop = Workshop(FakeClock(tick_ns=10), named=False)
    assert list(workshop.engines(["table", "llguidance"], vocab, grammar, 1)) == ["table"]
    assert workshop.refusals[0][:3] == ("llguidance", "own", 1)
    with pytest.raises(InputError, match="llguidance knows whitespace"):
        Workshop(FakeClock(tick_ns=10), named=True).engines(["llguidance"], vocab, grammar, 1)


@pytest.mark.usefixtures("_ceilings")
def test_a_run_has_the_files_and_fields_that_are_promised(
    tmp_path: Path, tiny_llama: Path, schema_file: Path, fake_time: FakeClock
) -> None:
    """Flat fields of the naive arm first, a ledger an arm; parts of a fake clock are known; `report` makes it again."""
    report = _run(tmp_path, model=str(tiny_llama), vocab="own", schema=schema_file, batch=(1, 2))
    found, folder = report.findings, report.folder
    assert {path.name for path in folder.iterdir()} >= {
        "manifest.json", "samples.jsonl", "results.json", "overhead.png", "overhead.csv", "README.md"
    }  # fmt: skip
    stored = json.loads((folder / "results.json").read_text())
    assert list(stored)[:4] == ["vocab_size", "per_step_ms_no_mask", "per_step_ms_with_mask", "ratio"]
    assert stored["vocab_size"] == 260
    assert stored["per_step_ms_with_mask"] == found.cells[0].arm("naive").per_step_ms
    assert [cell.batch for cell in found.cells] == [1, 2]
    for cell in found.cells:
        for arm in cell.arms:
            assert arm.ledger.forwards == 11
            assert arm.per_step_ms == pytest.approx(5e-3, rel=0.02)  # five norms of 1,000 ns
            assert set(arm.ledger.parts) >= {"forward", "lm_head", "sample", "stop"}
            assert ("mask.fill" in arm.ledger.parts) == (arm.engine != NO_MASK)
            assert arm.differing_choices == 0 or arm.engine == "llguidance"
            assert arm.tokens_per_s == pytest.approx(cell.batch * 1e3 / arm.per_step_ms)
    assert found.invalid == ""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".md", ".csv")}
    pipeline.rebuild(folder)
    for name, content in before.items():
        assert (folder / name).read_bytes() == content, name


@pytest.mark.usefixtures("_ceilings")
def test_arms_replay_the_same_valid_texts(
    tmp_path: Path, tiny_llama: Path, schema_file: Path, fake_time: FakeClock
) -> None:
    """The manifest names the tokens by a hash, the same for the same seed and another for another."""
    options = {
        "model": str(tiny_llama),
        "vocab": "own",
        "schema": schema_file,
        "engine": "table",
        "rounds": 1,
        "new_tokens": 40,
    }
    runs = [
        _run(tmp_path, "a", **options),
        _run(tmp_path, "b", **options),
        _run(tmp_path, "c", **{**options, "seed": 1}),
    ]
    hashes = [read_manifest(run.folder).workload["token_ids_sha256"] for run in runs]
    assert hashes[0] == hashes[1] != hashes[2]
    cell = read_manifest(runs[0].folder).conditions["cells"]["own/b1/x1"]
    assert cell["texts_end"] >= 1  # texts are of eleven bytes and more
    assert cell["states"] > 0


@pytest.mark.usefixtures("_ceilings")
def test_the_curve_predicts_50000_before_measuring_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that counts the naive walk's look-ups gives the slope that was counted; the table's line is flat."""
    from perstep.automata.engines.naive import NaiveEngine
    from perstep.experiments.mask import curves

    clock = FakeClock(tick_ns=1)
    monkeypatch.setattr(pipeline, "HostClock", lambda: clock)
    monkeypatch.setattr(NaiveEngine, "fill", lambda self: clock.advance(20 * self._vocabulary.size))
    monkeypatch.setattr(curves, "SIZES", (258, 270, 300, 340, 380, 420, 460, 500, 1100, 1500, 2000, 4100))
    monkeypatch.setattr(curves, "PREDICTED_AT", 1500)
    monkeypatch.setattr("perstep.experiments.mask.curve_findings.PREDICTED_AT", 1500)
    report = _curve_only(tmp_path, clock)
    naive, table = report
    assert naive.slope_ns_per_token == pytest.approx(20, rel=1e-3)
    assert naive.exponent == pytest.approx(1, abs=0.01)
    assert naive.predicted_us == pytest.approx(30, rel=0.01)
    assert naive.prediction_error == pytest.approx(0, abs=0.01)
    assert naive.lookups[-1] > naive.sizes[-1]
    assert table.exponent == pytest.approx(0, abs=0.01)
    assert [size for size, fitted in zip(naive.sizes, naive.fitted, strict=True) if not fitted][-2:] == [1500, 4100]


def _curve_only(tmp_path: Path, clock: FakeClock) -> Any:
    """The curves alone: points, a prediction, three rounds, the findings."""
    from perstep.experiments.mask.cells import language
    from perstep.experiments.mask.curve_findings import find_curves
    from perstep.experiments.mask.curves import describe_points, make_points, predict
    from perstep.experiments.mask.vocabularies import Vocabularies

    spoken = language(SCHEMA, 1, Grammar(SCHEMA), ("naive", "table"))
    points = make_points(("naive", "table"), spoken, 0, Vocabularies(open_target("mini"), "mini"), clock)
    predictions = predict(points, clock)
    probe = NoiseProbe()
    probe.start()
    noise = probe.stop()
    samples = [Sample(n, {}, {point.key: point.fill_ns(clock) for point in points}, noise) for n in range(3)]
    manifest = Manifest(
        experiment="mask",
        plan={},
        conditions={"curves": describe_points(points), "predictions": msgspec.to_builtins(predictions)},
    )
    return find_curves(manifest, samples)


def _rounds(number: int, ratio: float, jitter: Callable[[], float]) -> list[Sample]:
    """Rounds of one cell whose naive arm takes `ratio` times as long: 1,000 ns without, in four steps."""
    probe = NoiseProbe()
    probe.start()
    noise = probe.stop()

    def arm(step_ns: float, *, masked: bool) -> ArmRound:
        steps = np.full(4, round(step_ns * 1000), np.int64)
        parts = {"forward": steps // 2, "lm_head": steps // 4}
        if masked:
            parts |= {"mask.fill": steps // 8}
        residual = steps - sum(parts.values())
        marks = dict.fromkeys(parts, 4)
        return ArmRound(steps, steps, parts, residual, marks, 0, steps // 16 if masked else steps[:0])

    return [
        Sample(
            n,
            {"own/b1/x1": {NO_MASK: arm(jitter(), masked=False), "naive": arm(ratio * jitter(), masked=True)}},
            {},
            noise,
        )
        for n in range(number)
    ]


def _manifest(**cell: Any) -> Manifest:
    about = {
        "vocab": "own", "own": True, "vocab_size": 512, "batch": 1, "complexity": 1, "states": 5, "hidden": 8,
        "allowed_mean": 3.0, "allowed_median": 2.0, "lookups_per_fill": 600.0, "texts_end": 1, **cell,
    }  # fmt: skip
    conditions = {
        "cells": {"own/b1/x1": about}, "curves": {}, "predictions": [], "builds": [], "left_out": [],
        "only_own": True, "ceilings": CEILINGS, "mark_ns": 1.0, "precision": 0.005,
    }  # fmt: skip
    return Manifest(experiment="mask", plan={}, conditions=conditions)


def test_the_ratio_is_that_of_the_rounds_and_its_interval_holds_it() -> None:
    """1.5 times as long in every round, with 1 % of scatter: a ratio of 1.5, slower, between its ends."""
    rng = np.random.default_rng(0)
    samples = _rounds(24, 1.5, lambda: float(np.exp(rng.normal(0, 0.01))))
    found = analyse(_manifest(), samples)
    naive = found.cells[0].arm("naive")
    assert naive is not None
    assert found.ratio == naive.ratio == pytest.approx(1.5, rel=0.01)
    assert naive.ratio_low is not None
    assert naive.ratio_high is not None
    assert naive.ratio_low < 1.5 < naive.ratio_high
    assert naive.verdict == "slower"
    assert found.per_step_ms_no_mask == pytest.approx(1e-3, rel=0.01)
    assert naive.fill is not None
    assert naive.fill.in_place_over_hot == pytest.approx(2, rel=0.01)
    assert naive.mask_share == pytest.approx(1 / 8, rel=0.01)
    walk = next(spot for spot in found.roofline if spot.part == "mask.fill")
    assert walk.operations == 600
    assert walk.bytes == 1800
    assert found.notes[0].startswith("Only the model's own vocabulary")
    assert resolved_by(samples).half_width < 0.02


def test_too_few_rounds_give_no_interval_and_no_verdict() -> None:
    """Three rounds: a ratio, no ends, and a sentence what to do."""
    found = analyse(_manifest(), _rounds(3, 1.5, lambda: 1.0))
    assert found.ratio == pytest.approx(1.5, rel=1e-3)
    assert (found.ratio_low, found.ratio_high) == (None, None)
    assert "no interval for naive at own/b1/x1: 3 rounds" in found.unresolved
    assert found.invalid == ""


def test_other_choices_than_the_definition_make_a_run_invalid() -> None:
    """The naive arm chose otherwise once in the run: it did other work."""
    samples = _rounds(2, 1.5, lambda: 1.0)
    samples[1].cells["own/b1/x1"]["naive"].differing = 1
    assert "naive chose 0.25 tokens a pass that the definition does not" in analyse(_manifest(), samples).invalid


def test_an_arm_that_is_not_in_every_round_is_left_out_and_listed() -> None:
    """A resumed run that had no time for an arm shows the others."""
    samples = _rounds(2, 1.5, lambda: 1.0)
    samples[0].cells["own/b1/x1"]["table"] = samples[0].cells["own/b1/x1"]["naive"]
    found = analyse(_manifest(), samples)
    assert [arm.engine for arm in found.cells[0].arms] == [NO_MASK, "naive"]
    assert found.left_out[0]["why"] == "not in every round"
    samples[0].cells["2048/b1/x1"] = samples[0].cells["own/b1/x1"]  # a cell for which there was no time any more
    assert [cell.key for cell in analyse(_manifest(), samples).cells] == ["own/b1/x1"]
    assert list(changes_of(_held(samples))) == ["naive"]


def _held(samples: list[Sample]) -> dict[str, list[ArmRound]]:
    return {arm: [sample.cells["own/b1/x1"][arm] for sample in samples] for arm in (NO_MASK, "naive")}


def test_no_rounds_are_no_findings() -> None:
    """An empty run says what to do."""
    with pytest.raises(InputError, match="no finished round"):
        analyse(_manifest(), [])


@pytest.mark.usefixtures("_ceilings")
@pytest.mark.parametrize(
    "schema",
    [
        {
            "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}},
            "$ref": "#/$defs/n",
        },
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 100_000}}, "required": ["a"]},
    ],
)
def test_an_engine_with_a_stack_is_measured_where_no_automaton_is(
    tmp_path: Path, tiny_llama: Path, fake_time: FakeClock, schema: dict[str, Any]
) -> None:
    """Recursion, and a count beyond the limit: llguidance's own masks write the texts, and are the definition."""
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    options = {"model": str(tiny_llama), "vocab": "own", "schema": path, "rounds": 1, "new_tokens": 40}
    report = _run(tmp_path, engine="llguidance", **options)
    assert [arm.engine for arm in report.findings.cells[0].arms] == [NO_MASK, "llguidance"]
    assert report.findings.cells[0].states is None
    assert report.findings.cells[0].arms[1].differing_choices == 0
    with pytest.raises(InputError, match="llguidance"):
        _run(tmp_path, "other", engine="naive,llguidance", **options)
    assert not (tmp_path / "other").exists()


def test_recursion_nests_as_deep_as_is_said() -> None:
    """With a depth there is an automaton."""
    from perstep.experiments.mask.cells import language

    node: dict[str, Any] = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}
    schema: dict[str, Any] = {"$defs": {"n": node}, "$ref": "#/$defs/n"}
    with pytest.raises(InputError, match="--max-depth 3, or --engine llguidance"):
        language(schema, 1, Grammar(schema), ("naive", "llguidance"))
    assert language(schema, 1, Grammar(schema, max_depth=1), ("naive",)).dfa is not None
    assert language(schema, 1, Grammar(schema), ("llguidance",)).dfa is None


def test_engine_is_a_protocol_that_loops_can_share() -> None:
    """Forks of one engine are independent rows."""
    engine: Engine = prepare("naive", _bytes_vocabulary()).build(Grammar({"const": 12}))
    other = engine.fork()
    assert engine.accept(ord("1"))
    assert not other.accept(ord("2"))
