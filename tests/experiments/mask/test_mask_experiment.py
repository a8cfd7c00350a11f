"""`mask` from a plan to a report: the arms do the same work, and the findings are those that are known."""

import json
import re
from collections.abc import Callable
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from perstep.automata import Engine, Grammar, Vocabulary, prepare
from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments import pipeline
from perstep.experiments.mask import Plan, analyse, session
from perstep.experiments.mask.arms import NO_MASK, BitsMasker, MaskedLoop, ReferenceDecoder, TableMasker, masker_of
from perstep.experiments.mask.building import BuildTime, EngineBuilder, parse_engines
from perstep.experiments.mask.findings import changes_of, resolved_by
from perstep.experiments.mask.samples import ArmRound, Sample
from perstep.experiments.mask.vocabularies import Named
from perstep.machine import NoiseProbe
from perstep.measure import FakeClock, no_mark
from perstep.runs import Manifest, read_manifest
from perstep.targets import open_model

from ...conftest import facts

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "yy"]}},
    "required": ["a"],
    "additionalProperties": False,
}
ENGINES = ["naive", "naive-memo", "table", "table-lazy", "llguidance", "outlines"]
ROUND = {
    "read.262144@1 np.matmul": 60.0,
    "call.0@1 four small calls": 500.0,
    "gemm@1 np.matmul n=512": 100.0,
    "vector@1 np.multiply": 5.0,
    "special@1 np.exp": 2.0,
}


@pytest.fixture
def _ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ceilings of this machine have a real clock, and no two rounds alike."""
    sweep = SimpleNamespace(measure=lambda: ROUND)
    monkeypatch.setattr(session, "open_sweep", lambda _cells, **_options: sweep)


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
    model = open_model(str(tiny_llama), backend="numpy").model
    vocabulary = Vocabulary([*(bytes([b]) for b in range(256)), None, None, None, None], [256, 257, 258], [259])
    engine = prepare("table", vocabulary).build(Grammar({"const": 7}))
    loop = MaskedLoop(ReferenceDecoder(model, model.new_cache(1, 20), (259,)), masker_of([engine], (259,)))
    loop.prefill(np.array([[1, 2]]), no_mark)
    for token in (ord("7"), 259, ord("7")):
        chosen = loop.decode(np.array([token]), no_mark)
        assert chosen.tolist() == [259 if token == ord("7") else ord("7")]  # the only one that may come
    with pytest.raises(InvalidMeasurement, match="table does not accept token 55"):
        loop.decode(np.array([ord("7")]), no_mark)


def test_engines_are_those_installed_or_those_named() -> None:
    """Without a list all that are installed; a name that is none, or not installed, is refused with what to do."""
    assert parse_engines(None)[:3] == ("naive", "table", "table-lazy")
    assert parse_engines("table, naive") == ("naive", "table")
    with pytest.raises(InputError, match="there is no engine 'foo'"):
        parse_engines("foo")


def test_an_engine_that_is_not_installed_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.setattr("perstep.experiments.mask.building.available", lambda: ["naive"])
    assert parse_engines(None) == ("naive",)
    said = "llguidance: it is not installed: pip install llguidance"
    with pytest.raises(InputError, match=re.escape(said)):
        parse_engines("llguidance")


def test_a_build_is_timed_apart_from_the_first_mask_and_from_disk() -> None:
    """Every engine has its build, its first mask is no sooner than that, and the table has a disk cache."""
    workshop = _workshop(FakeClock(tick_ns=10))
    vocab = Named("own", _bytes_vocabulary(), own=True)
    made = workshop.engines(ENGINES, vocab, Grammar(SCHEMA), 1)
    assert list(made) == ENGINES
    assert [build.engine for build in workshop.builds] == ENGINES
    assert all(build.first_mask_ns > build.build_ns > 0 for build in workshop.builds)
    assert [build.engine for build in workshop.builds if build.from_disk_ns is not None] == ["table"]


def _large_vocabulary() -> Vocabulary:
    """8,192 tokens: every byte, and pairs of printable ones."""
    pairs = [bytes([a, b]) for a in range(32, 127) for b in range(32, 127)]
    return Vocabulary([*(bytes([byte]) for byte in range(256)), *pairs[: 8192 - 257], None], eos_ids=[8191])


def _workshop(clock: FakeClock, budget_s: float = inf) -> EngineBuilder:
    return EngineBuilder(clock, BuildTime(budget_s, clock))


def test_an_engine_that_refuses_is_left_out_with_its_reason() -> None:
    """A whitespace policy that llguidance does not know costs the run only that arm, whoever asked for it."""
    vocab = Named("own", _bytes_vocabulary(), own=True)
    workshop = _workshop(FakeClock(tick_ns=10))
    assert list(workshop.engines(["table", "llguidance"], vocab, Grammar(SCHEMA, whitespace="[ ]?"), 1)) == ["table"]
    assert workshop.refusals[0][:3] == ("llguidance", "own", 1)
    assert "llguidance supports whitespace" in workshop.refusals[0][3]


def test_a_whole_table_stops_building_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that passes 1 s at each state: the table is left out and says what serves, the lazy one is built."""
    monkeypatch.setattr("perstep.automata.walk.DENSE_FROM", 0)  # so that states are walked one by one
    clock = FakeClock(tick_ns=1_000_000_000)
    workshop = _workshop(clock, budget_s=60.0)
    vocab = Named("own", _bytes_vocabulary(), own=True)
    counted = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 200}}}
    assert list(workshop.engines(["table", "table-lazy"], vocab, Grammar(counted), 1)) == ["table-lazy"]
    name, _, _, why = workshop.refusals[0]
    assert name == "table"
    assert why.startswith("not built after 31 s, half of what was left of the 60.0 s of --budget that it may take")
    assert why.endswith("table-lazy makes each row when a text first needs it")


def test_short_budgets_build_once_and_long_ones_three_times() -> None:
    """Repeats for a median may take a fiftieth of the time for building; the disk cache needs no build of its own."""
    vocab = Named("own", _bytes_vocabulary(), own=True)
    for budget_s, builds in ((1.0, 1), (inf, 3)):
        workshop = _workshop(FakeClock(tick_ns=10_000_000), budget_s)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("perstep.automata.cache.compile_table", None)
            workshop.engines(["table"], vocab, Grammar(SCHEMA), 1)
        assert workshop.builds[0].builds == builds
        assert workshop.builds[0].from_disk_ns is not None


def test_nothing_is_begun_when_building_has_used_up_its_time() -> None:
    """Two builds may take no more than there is for both, and the third is not begun."""
    clock = FakeClock()
    time = BuildTime(10.0, clock)
    for seconds in (4, 7):  # the second is a library's, which nothing stops
        with time.one_build():
            clock.advance(seconds * 1_000_000_000)
    with pytest.raises(InputError, match=r"not built: building had used up the 10\.0 s"), time.one_build():
        pytest.fail("begun")


def test_a_build_that_nothing_stops_is_tried_over_less_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 s and 10 ms a token: 5.12 s and 10.2 s over 512 and 1,024 of 8,192 tokens, so about 83 s for all."""
    from perstep.automata.engines import llguidance

    clock = FakeClock()
    real = llguidance.build
    sizes = []

    def slow(shared: Any, vocabulary: Vocabulary, grammar: Grammar) -> Any:
        sizes.append(vocabulary.size)
        clock.advance(1_000_000_000 + 10_000_000 * vocabulary.size)
        return real(shared, vocabulary, grammar)

    monkeypatch.setattr(llguidance, "build", slow)
    vocab = Named("own", _large_vocabulary(), own=True)
    short, long = _workshop(clock, 160.0), _workshop(clock, 400.0)
    assert short.engines(["llguidance"], vocab, Grammar(SCHEMA), 1) == {}
    assert "it would take about 83 s, and 80 s is half" in short.refusals[0][3]
    assert list(long.engines(["llguidance"], vocab, Grammar(SCHEMA), 1)) == ["llguidance"]
    assert sizes == [512, 1024, 512, 1024, 8192]


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
    monkeypatch.setattr("perstep.experiments.mask.findings.PREDICTED_AT", 1500)
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
    from perstep.experiments.mask.curves import describe_points, make_points, predict
    from perstep.experiments.mask.findings import find_curves
    from perstep.experiments.mask.vocabularies import Vocabularies

    spoken = language(SCHEMA, 1, Grammar(SCHEMA))
    vocabularies = Vocabularies(open_model("mini").model, "mini")
    points, refused = make_points(("naive", "table"), spoken, 0, vocabularies, clock, BuildTime(inf, clock))
    assert refused == {}
    predictions = predict(points, clock)
    probe = NoiseProbe()
    probe.start()
    noise = probe.stop()
    samples = [Sample(n, {}, {point.key: point.fill_ns(clock) for point in points}, noise) for n in range(3)]
    return find_curves(describe_points(points), predictions, samples)


def _rounds(number: int, ratio: float, jitter: Callable[[], float]) -> list[Sample]:
    """Rounds of one cell whose naive arm takes `ratio` times as long: 1,000 ns without, in four steps."""
    probe = NoiseProbe()
    probe.start()
    noise = msgspec.structs.replace(probe.stop(), waited_ns=0)  # whatever happens on this machine

    def arm(step_ns: float, *, masked: bool) -> ArmRound:
        steps = np.full(4, round(step_ns * 1000), np.int64)
        parts = {"forward": steps // 2, "lm_head": steps // 4}
        if masked:
            parts |= {"mask.fill": steps // 8}
        residual = steps - sum(parts.values())
        marks = dict.fromkeys(parts, 4)
        hot_ns = steps // 16 if masked else steps[:0]
        return ArmRound(steps, parts, residual, marks, plain_ns=steps, differing=0, hot_fill_ns=hot_ns)

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
    changed = {"cells": {"own/b1/x1": about}, "builds": [], "only_own": True, "mark_ns": 1.0, "precision": 0.005}
    conditions = facts("mask", "conditions", **changed)
    return Manifest(experiment="mask", plan={}, workload=facts("mask", "workload"), conditions=conditions)


def test_the_ratio_is_that_of_the_rounds_and_its_interval_holds_it() -> None:
    """1.5 times as long in every round, with 1 % of scatter: a ratio of 1.5, slower, between its ends."""
    rng = np.random.default_rng(0)
    samples = _rounds(24, 1.5, lambda: float(np.exp(rng.normal(0, 0.01))))
    found = analyse(_manifest(), samples)
    naive = found.cells[0].arm("naive")
    assert naive is not None
    assert found.ratio == naive.ratio == pytest.approx(1.5, rel=0.01)
    low, high = naive.ratio_ends
    assert low is not None
    assert high is not None
    assert low < 1.5 < high
    assert naive.verdict == "slower"
    assert found.per_step_ms_no_mask == pytest.approx(1e-3, rel=0.01)
    assert naive.fill is not None
    assert found.engine == "naive"
    assert naive.fill.in_place_over_hot == pytest.approx(2, rel=0.01)
    assert naive.mask_share == pytest.approx(1 / 8, rel=0.01)
    walk = next(spot for spot in found.roofline if spot.part == "mask.fill")
    assert walk.operations == 600
    assert walk.bytes == 1800
    assert found.notes[0].startswith("Only the model's own vocabulary")
    assert resolved_by(samples).half_width < 0.02


def _drifting(number: int) -> list[Sample]:
    """The naive arm takes 1.1 times as long in each round, the table 1.2 times, on a machine that slows down.

    Some positions are disturbed in one arm, some in another, so that medians at single positions are others' rounds.
    """
    rng = np.random.default_rng(4)
    samples = _rounds(number, 1.0, lambda: 1.0)
    for sample in samples:
        arms = sample.cells["own/b1/x1"]
        pace = 1_000_000 * (1 + sample.round / number)
        for name, ratio in ((NO_MASK, 1.0), ("naive", 1.1), ("table", 1.2)):
            weight = rng.dirichlet(np.full(4, 0.6)) * 4
            steps = np.maximum((pace * ratio * weight).astype(np.int64), 1000)
            like = arms["naive" if name != NO_MASK else NO_MASK]
            parts = dict.fromkeys(like.parts, steps // 8)
            arms[name] = msgspec.structs.replace(
                like, plain_ns=steps, step_ns=steps, parts=parts, residual_ns=steps - sum(parts.values())
            )
    return samples


def test_times_and_ratios_are_made_of_the_same_pairs() -> None:
    """Whatever single steps do, an arm's step is the unmasked one times its ratio, and its parts add up to it."""
    cell = analyse(_manifest(), _drifting(24)).cells[0]
    medians = {arm.engine: arm.ledger.step_ns for arm in cell.arms}
    assert medians["naive"] / medians[NO_MASK] != pytest.approx(1.1, rel=0.02)  # the fault that is held off
    for engine, ratio in (("naive", 1.1), ("table", 1.2)):
        arm = cell.arm(engine)
        assert arm is not None
        assert arm.ratio == pytest.approx(ratio, rel=1e-3)
        assert arm.per_step_ms == pytest.approx(cell.free.per_step_ms * arm.ratio)
        assert arm.ledger.plain_step_ns == pytest.approx(1e6 * arm.per_step_ms)
        assert arm.tokens_per_s == pytest.approx(cell.free.tokens_per_s / arm.ratio)
        parts_ns = sum(arm.part_ns(name) for name in (*arm.ledger.parts, "residual"))
        assert parts_ns == pytest.approx(1e6 * arm.per_step_ms)
        assert arm.fill is not None
        assert arm.fill.in_place_us == pytest.approx(arm.part_ns("mask.fill") / 1e3)
        assert arm.fill.in_place_over_hot == pytest.approx(arm.fill.in_place_us / arm.fill.hot_us)
        assert arm.mask_share_low is not None
        assert arm.mask_share_low <= arm.mask_share


def test_the_fields_of_the_seed_are_those_of_the_first_engine_where_naive_is_not_run() -> None:
    """`--engine table,llguidance`: the table's numbers stand there, and are named."""
    samples = _rounds(24, 1.5, lambda: 1.0)
    for sample in samples:
        arms = sample.cells["own/b1/x1"]
        arms["table"] = arms.pop("naive")
    found = analyse(_manifest(own=False), samples)
    table = found.cells[0].arm("table")
    assert table is not None
    assert (found.engine, found.vocab_size) == ("table", 512)
    assert (found.per_step_ms_with_mask, found.ratio) == (table.per_step_ms, table.ratio)
    assert found.per_step_ms_no_mask == found.cells[0].free.per_step_ms


def _drawn(monkeypatch: pytest.MonkeyPatch, draw_picture: Callable[[], bytes]) -> Any:
    """The figure that a picture is saved from."""
    from matplotlib.figure import Figure

    from perstep.experiments.mask import show

    figure = Figure()
    monkeypatch.setattr(show, "draw_png", lambda _width, _height, draw: draw(figure) or b"")
    draw_picture()
    return figure


def test_a_bar_ends_at_the_number_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts stacked, the words at the bar's end and the table's ms/step are one number."""
    from perstep.experiments.mask.show import overhead_png

    cell = analyse(_manifest(), _drifting(24)).cells[0]
    (ax,) = _drawn(monkeypatch, lambda: overhead_png([cell], "mini")).axes
    ends: dict[float, float] = {}
    for bar in ax.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] = max(ends.get(row, 0.0), bar.get_x() + bar.get_width())
    for row, arm in enumerate(cell.arms):
        assert ends[row] == pytest.approx(arm.per_step_ms)
        assert ax.texts[row].get_text().split()[0] == f"{arm.per_step_ms:.2f}"


def test_cells_of_one_vocabulary_are_told_apart_in_the_title(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their batch: without it the first line and the last were the same."""
    from perstep.experiments.mask.show import overhead_png

    (cell,) = analyse(_manifest(batch=2), _rounds(20, 1.25, lambda: 1.0)).cells
    cells = [msgspec.structs.replace(cell, batch=1), cell]
    title = _drawn(monkeypatch, lambda: overhead_png(cells, "mini")).get_suptitle()
    assert [line[-7:] for line in title.splitlines()] == ["batch 1", "batch 2"]


def test_fills_hot_and_in_place_have_an_axis_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """The left panel holds the curves alone, the right one every engine with the table's fill of each cell."""
    from perstep.experiments.mask.findings import Curve
    from perstep.experiments.mask.show import scaling_png

    cell = analyse(_manifest(), _drifting(24)).cells[0]
    curve = Curve(
        engine="table", complexity=1, sizes=[512, 1024], fill_us=[0.2, 0.2], fitted=[True, False], lookups=[],
        terms=[200.0, 0.0], slope_ns_per_token=0.0, interleaved_error=0.0, beyond_error=0.0, exponent=0.0,
        predicted_us=None, measured_us=None, prediction_error=None,
    )  # fmt: skip
    hot, in_place = _drawn(monkeypatch, lambda: scaling_png([curve], [cell])).axes
    assert [text.get_text() for text in hot.get_legend().get_texts()] == ["table, fitted", "table, held out"]
    assert hot.get_title(loc="left").startswith("repeated with nothing between, ")
    assert in_place.get_title(loc="left").startswith("in place, ")
    shown = {line.get_label(): line.get_ydata()[0] for line in in_place.lines}
    assert shown == {arm.engine: arm.part_ns("mask.fill") / 1e3 for arm in cell.arms[1:]}


def test_too_few_rounds_give_no_interval_and_no_verdict() -> None:
    """Three rounds: no ratio is shown anywhere, `not resolved` stands in its place, and a sentence says what to do."""
    from perstep.experiments.mask.show import (
        _cell_table,
        _finding,
        in_place_words,
        ratio_words,
        share_words,
        speed_words,
        summary,
    )

    found = analyse(_manifest(), _rounds(3, 1.5, lambda: 1.0))
    assert found.ratio == pytest.approx(1.5, rel=1e-3)
    assert (found.ratio_low, found.ratio_high) == (None, None)
    assert "no interval for naive at own/b1/x1: 3 rounds" in found.unresolved
    assert found.invalid == ""
    naive = found.cells[0].arms[1]
    assert naive.fill is not None
    words = [ratio_words(naive), speed_words(naive), share_words(naive), in_place_words(naive.fill)]
    assert words == ["not resolved"] * 4
    assert summary(found)["headline"] == "naive mask on 512 tokens: not resolved"
    assert "naive not resolved at 512 tokens" in _finding(found.cells, "mini")
    manifest = _manifest()
    manifest.model = {"name": "mini"}
    table = _cell_table(found.cells[0], manifest)
    assert table.rows[1][:4] == ["naive", "0.00150", "–", "not resolved"]
    assert "overhead" not in table.notes[0]


def test_words_stand_with_their_interval_and_half_is_said_only_where_it_is_certain() -> None:
    """2.1 times as long in every round is less than half of the tokens; an interval that holds 1 resolves nothing."""
    from perstep.experiments.mask.show import ratio_words, speed_words

    rng = np.random.default_rng(2)
    twice = analyse(_manifest(), _rounds(24, 2.1, lambda: float(np.exp(rng.normal(0, 0.001))))).cells[0].arms[1]
    assert ratio_words(twice) == f"2.10 times as long [{twice.ratio_ends[0]:.2f}, {twice.ratio_ends[1]:.2f}]"
    assert speed_words(twice).endswith(", **less than half**")
    near = msgspec.structs.replace(twice, change=1.1, ci_low=0.9, ci_high=1.3)
    assert speed_words(near) == "47.6 % of that [43.5 %, 52.6 %]"
    alike = msgspec.structs.replace(twice, change=0.02, ci_low=-0.02, ci_high=0.1)
    assert ratio_words(alike) == "1.02 times as long [0.980, 1.10], not resolved"


def test_other_choices_than_the_definition_make_a_run_invalid() -> None:
    """The naive arm chose otherwise once in the run: it did other work."""
    samples = _rounds(2, 1.5, lambda: 1.0)
    samples[1].cells["own/b1/x1"]["naive"].differing = 1
    assert "naive chose tokens that the definition does not (0.25 a pass)" in analyse(_manifest(), samples).invalid


def test_an_arm_that_is_not_in_every_round_is_left_out_and_listed() -> None:
    """A resumed run that had no time for an arm shows the others."""
    samples = _rounds(2, 1.5, lambda: 1.0)
    samples[0].cells["own/b1/x1"]["table"] = samples[0].cells["own/b1/x1"]["naive"]
    found = analyse(_manifest(), samples)
    assert [arm.engine for arm in found.cells[0].arms] == [NO_MASK, "naive"]
    assert found.left_out[0].why == "not in every round"
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
    both = _run(tmp_path, "other", engine="naive,llguidance", **options).findings
    assert [arm.engine for arm in both.cells[0].arms] == [NO_MASK, "llguidance"]
    assert [entry.engine for entry in both.left_out] == ["naive"]
    with pytest.raises(InputError, match=r"no engine can be measured on this schema: .*llguidance"):
        _run(tmp_path, "none", engine="naive,table", **options)
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("_ceilings")
def test_an_engine_that_cannot_replay_the_texts_is_listed_and_the_others_go_on(
    tmp_path: Path, tiny_llama: Path, schema_file: Path, fake_time: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outlines refuses a token of a valid text: its row says which, and the table is measured."""
    from perstep.automata.engines.outlines import OutlinesEngine

    monkeypatch.setattr(OutlinesEngine, "accept", lambda _self, _token: False)
    found = _run(tmp_path, model=str(tiny_llama), vocab="own", schema=schema_file, engine="table,outlines").findings
    assert [arm.engine for arm in found.cells[0].arms] == [NO_MASK, "table"]
    assert found.left_out[0].engine == "outlines"
    assert found.left_out[0].why.startswith("it does not accept '{'")


def test_recursion_nests_as_deep_as_is_said() -> None:
    """With a depth there is an automaton; without one its engines say what helps."""
    from perstep.experiments.mask.cells import language

    node: dict[str, Any] = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}
    schema: dict[str, Any] = {"$defs": {"n": node}, "$ref": "#/$defs/n"}
    assert language(schema, 1, Grammar(schema, max_depth=1)).dfa is not None
    without = language(schema, 1, Grammar(schema))
    assert without.dfa is None
    assert without.no_automaton.endswith("; on the command line --max-depth 3, or --engine llguidance")
    vocab, workshop = Named("own", _bytes_vocabulary(), own=True), _workshop(FakeClock(tick_ns=10))
    made = workshop.engines(["naive", "llguidance"], vocab, without.grammar, 1, without.no_automaton)
    assert list(made) == ["llguidance"]
    assert workshop.refusals == [("naive", "own", 1, without.no_automaton)]


def test_engine_is_a_protocol_that_loops_can_share() -> None:
    """Forks of one engine are independent rows."""
    engine: Engine = prepare("naive", _bytes_vocabulary()).build(Grammar({"const": 12}))
    other = engine.fork()
    assert engine.accept(ord("1"))
    assert not other.accept(ord("2"))
