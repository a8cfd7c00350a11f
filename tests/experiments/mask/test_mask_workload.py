"""What is measured: schemas, texts, vocabularies, and which arms a budget pays for."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from perstep.automata import Vocabulary, json_schema
from perstep.errors import InputError, how_to_install
from perstep.experiments.bounds import EXCEEDED
from perstep.experiments.mask.planning import Cost, left_out, needed_s
from perstep.experiments.mask.roofline import (
    AboutCell,
    RooflinePoint,
    count_lookups,
    open_sweep,
    place,
    without_exceeded,
)
from perstep.experiments.mask.schema import Writer, complicate, read_schema
from perstep.experiments.mask.vocabularies import Cutter, Named, parse_vocab, widened
from perstep.machine import SweepCeilings, SweepFigures
from perstep.targets import open_model

from ...conftest import facts

NESTED = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}},
        "score": {"type": "number"},
        "kind": {"enum": ["a", "b", None]},
    },
    "required": ["id", "tags"],
}


@pytest.mark.parametrize("whitespace", ["fixed", "flexible"])
@pytest.mark.parametrize("schema", [read_schema(None), NESTED, {"type": "string", "minLength": 200}])
def test_texts_are_valid_objects_of_the_schema(schema: dict[str, Any], whitespace: str) -> None:
    """Every text parses, validates, and is what the automaton accepts."""
    dfa = json_schema(schema, whitespace=whitespace)
    writer = Writer(dfa, random.Random(1))
    texts = [writer.text() for _ in range(40)]
    for text in texts:
        assert dfa.accepts(text)
        jsonschema.validate(json.loads(text), schema)
    assert len(set(texts)) > 20


def test_texts_do_not_wander_for_ever() -> None:
    """After the bytes it may wander a text goes home, even out of an unbounded string."""
    writer = Writer(json_schema({"type": "array", "items": {"type": "string"}}), random.Random(0))
    assert max(len(writer.text(wander=50)) for _ in range(100)) < 60


def test_complexity_repeats_fields_and_lengthens_enums() -> None:
    """Ten times the fields, ten times the values of an enum of strings; required where the original is."""
    schema = read_schema(None)
    grown = complicate(schema, 10)
    assert len(grown["properties"]) == 10 * len(schema["properties"])
    assert len(grown["properties"]["verb_10"]["enum"]) == 10 * len(schema["properties"]["verb"]["enum"])
    assert grown["required"] == [
        name for name in grown["properties"] if name.split("_")[0] in ("verb", "tense", "person")
    ]
    assert complicate(schema, 1) == schema
    with pytest.raises(InputError, match="no `properties` at its top"):
        complicate({"type": "array"}, 2)


def test_a_value_is_not_repeated_where_it_is_there_already() -> None:
    """An enum that holds `a_2` already does not get it twice."""
    grown = complicate({"properties": {"x": {"enum": ["a", "a_2", 3]}}}, 2)
    assert grown["properties"]["x"]["enum"] == ["a", "a_2", 3, "a_2_2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{bad", "is not JSON"), (b"[1]", "holds a JSON list"), (b"\xff", "is not JSON"), (None, "No such file")],
)
def test_schema_files_that_are_none_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    """One line says what is wrong with the file."""
    path = tmp_path / "schema.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_schema(path)


def test_vocabularies_are_the_models_own_first_then_sizes() -> None:
    """Sizes come in ascending order, ranges are spelled out, the model's own stays first."""
    assert parse_vocab("4096,mini,512-2048*2", "mini") == ("mini", "512", "1024", "2048", "4096")
    assert parse_vocab("own", "own") == ("own",)
    with pytest.raises(InputError, match="write mini, sizes"):
        parse_vocab("large", "mini")


def test_sizes_need_the_real_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mistral-common only the model's own vocabulary is there, and the message says what to install."""
    monkeypatch.setattr("perstep.experiments.mask.vocabularies.has_real", lambda: False)
    assert parse_vocab("mini", "mini") == ("mini",)
    with pytest.raises(InputError, match=re.escape(how_to_install("grammar"))):
        parse_vocab("mini,4096", "mini")


def test_a_wider_head_has_a_row_a_token_of_the_same_spread() -> None:
    """Embedding and head share random rows of the model's own spread; layers stay the model's."""
    model = open_model("mini").model
    vocabulary = Vocabulary([bytes([b % 256]) * (1 + b // 256) for b in range(999)] + [None], eos_ids=[999])
    wide = widened(model, Named("1000", vocabulary, own=False), seed=3)
    assert wide.head_DV.shape == (model.config.hidden, 1000)
    assert np.shares_memory(wide.head_DV, wide.embedding_VD)
    assert wide.embedding_VD.std() == pytest.approx(model.embedding_VD.std(), rel=0.02)
    assert wide.layers is model.layers
    assert wide.config.vocab == 1000
    assert wide.config.eos_ids == (999,)
    assert widened(model, Named("mini", vocabulary, own=True), seed=3) is model


def test_text_is_cut_into_the_longest_tokens() -> None:
    """At each place the longest token, of equal ones the first; a byte without a token is named."""
    cutter = Cutter(Vocabulary([b"a", b"ab", b"b", b"abc", b"ab", None], eos_ids=[5]))
    assert cutter.cut(b"ababcb") == [1, 3, 2]
    with pytest.raises(InputError, match="cannot spell the byte 0x7A"):
        cutter.cut(b"abz")


def test_lookups_are_those_of_the_walk_in_python() -> None:
    """Counted for all tokens at once as for each in turn: a byte after another until the state is dead."""
    dfa = json_schema(NESTED)
    rng = random.Random(0)
    tokens = [bytes(rng.choices(b'abc123{}":, -.', k=rng.randint(1, 6))) for _ in range(300)]
    vocabulary = Vocabulary([*tokens, None], eos_ids=[300])
    for state in range(dfa.num_states + 1):
        expected = 0
        for token in tokens if state else []:
            at = state
            for byte in token:
                expected += 1
                at = dfa.rows[at][byte]
                if not at:
                    break
        assert count_lookups(dfa, vocabulary, state) == expected


FIGURES = SweepFigures(
    read_gb_s={1000: 100.0, 9000: 10.0}, call_ns={0: 500.0}, gemm_gflop_s=60.0, vector_g_s=5.0, special_g_s=2.0,
    rounds=5,
)  # fmt: skip
CEILINGS = SweepCeilings(typical=FIGURES, best=FIGURES, rounds=5, quiet_rounds=5)


@pytest.mark.parametrize(
    ("ns", "operations", "moved", "level", "bound_by"),
    [
        (10.0, 10, 900, "0.001 MB", "bandwidth"),  # 90 of 100 GB/s
        (1000.0, 10, 9000, "0.009 MB", "bandwidth"),  # 9 of 10 GB/s
        (10.0, 450, 90, "0.001 MB", "compute"),  # 45 of 60 Gop/s
        (1000.0, 100, 900, "0.001 MB", "the interpreter"),  # 0.9 % and 0.2 %
        (30.0, 10, 900, "0.001 MB", "no single ceiling"),  # 30 %
        (1000.0, 10, 4000, "0.009 MB", "no single ceiling"),  # by ratio nearer to 9,000 bytes
    ],
)
def test_a_part_is_bound_by_the_ceiling_it_comes_near(
    ns: float, operations: int, moved: int, level: str, bound_by: str
) -> None:
    """Half of a ceiling binds; under a tenth of both, it is the interpreter."""
    found = place("c", "e", "p", ns=ns, work=(operations, moved), ceilings=CEILINGS)
    assert (found.level, found.bound_by, found.withdrawn) == (level, bound_by, "")
    assert found.bytes_per_s == pytest.approx(moved / ns * 1e9)
    assert found.intensity == pytest.approx(operations / moved)


def head(gemm: float, *, best_gemm: float | None = None, gb_s: float = 90.0) -> RooflinePoint:
    """A product of a matrix and a vector, half an operation a byte, where products of matrices were timed so."""
    typical, best = (replace(FIGURES, gemm_gflop_s=each) for each in (gemm, best_gemm or gemm))
    ceilings = SweepCeilings(typical=typical, best=best, rounds=5, quiet_rounds=5)
    return place("c", "no mask", "lm_head", ns=900 / gb_s, work=(450.0, 900.0), ceilings=ceilings)


@pytest.mark.parametrize("gemm", [200.0, 60.0, 20.0, 1.0])
def test_no_disturbed_product_makes_a_matrix_vector_product_bound_by_compute(gemm: float) -> None:
    """Reading at 100 GB/s in such products is 50 Gop/s, so that at 90 it is at 90 % of both at most, never at 273 %."""
    found = head(gemm)
    assert found.bound_by == "bandwidth"
    assert found.share_of_bandwidth == pytest.approx(0.9)
    assert found.share_of_compute == pytest.approx(45 / max(gemm, 50))


@pytest.mark.parametrize(
    ("operations", "moved", "gemm"),
    [
        (600.0, 600.0, (60.0, 120.0)),  # at best 60 % of bandwidth and 50 % of compute, which may be 100 %
        (600.0, 550.0, (100.0, 100.0)),  # at best 55 % of bandwidth, which may be 69 %, and 60 % of compute
    ],
)
def test_sides_that_the_intervals_do_not_tell_apart_are_both_named(
    operations: float, moved: float, gemm: tuple[float, float]
) -> None:
    """Bytes at 80 to 100 GB/s: whichever ceiling is the nearer at its best, the other may be at its median."""
    typical, best = (
        replace(FIGURES, read_gb_s={1000: gb_s}, gemm_gflop_s=each)
        for gb_s, each in zip((80.0, 100.0), gemm, strict=True)
    )
    ceilings = SweepCeilings(typical=typical, best=best, rounds=5, quiet_rounds=5)
    found = place("c", "e", "p", ns=10.0, work=(operations, moved), ceilings=ceilings)
    assert found.bound_by == "bandwidth or compute"
    assert (found.share_of_bandwidth, found.share_of_compute) == (
        pytest.approx(moved / 1000), pytest.approx(operations / 10 / gemm[1])
    )  # fmt: skip


def test_what_is_faster_than_a_ceiling_withdraws_it_for_all_that_rest_on_it() -> None:
    """178 GB/s of 100: no share and no side of it, nor of another part by that set; one by another set stays."""
    fast = head(200.0, gb_s=178.0)
    near, far = (place("c", "e", "apply", ns=1000.0, work=(9.0, size), ceilings=CEILINGS) for size in (900.0, 9000.0))
    judged = without_exceeded([fast, near, far])
    assert [one.withdrawn for one in judged] == [EXCEEDED, EXCEEDED, ""]
    assert [(one.share_of_bandwidth, one.bound_by) for one in judged[:2]] == [(None, ""), (None, "")]
    assert judged[2] == far
    assert all((one.share_of_bandwidth or 0) <= 1 and (one.share_of_compute or 0) <= 1 for one in judged)


def test_what_computes_more_than_a_ceiling_withdraws_every_judgement() -> None:
    """Products of matrices judge all parts: 90 of 60 Gop/s at 10 operations a byte."""
    dense = place("c", "e", "p", ns=10.0, work=(900.0, 90.0), ceilings=CEILINGS)
    judged = without_exceeded([dense, head(60.0)])
    assert [(one.share_of_compute, one.withdrawn) for one in judged] == [(None, EXCEEDED)] * 2


@pytest.mark.parametrize(
    ("ceilings", "why"),
    [
        (None, "not judged: the rounds hold no ceilings"),
        (
            replace(CEILINGS, quiet_rounds=2),
            "ceilings disturbed; not judged: the processor was taken away in 3 of 5 rounds",
        ),
    ],
)
def test_without_ceilings_nothing_is_said_to_bind(ceilings: SweepCeilings | None, why: str) -> None:
    """No figure, no share, no side, and the reason."""
    found = place("c", "e", "p", ns=1.0, work=(1.0, 1.0), ceilings=ceilings)
    assert (found.share_of_bandwidth, found.share_of_compute, found.bound_by) == (None, None, "")
    assert found.withdrawn == why


def test_ceilings_are_measured_at_the_bytes_that_parts_move() -> None:
    """Of batches of one: the head, the look-ups and the logits; sets below 256 KiB count as that."""
    cell = facts("mask", "conditions")["cells"]["mini/b1/x1"]
    changed = {"batch": 1, "vocab_size": 32_768, "hidden": 32, "lookups_per_fill": 100_000.0}
    about = AboutCell(**{**cell, **changed})
    eight = msgspec.structs.replace(about, batch=8)
    wide = msgspec.structs.replace(eight, vocab_size=99_999)
    sweep = open_sweep([about, wide], dtype="float32", threads=1)
    assert sweep is not None
    assert sweep.sizes == (262_144, 300_000 // 64 * 64, 4_194_304)
    assert open_sweep([eight], dtype="float32", threads=1) is None


def _cell(cell: str, free: float, **arms: float) -> list[Cost]:
    return [Cost(cell, "no mask", free * 1e9, reference=True), *(Cost(cell, a, ns * 1e9) for a, ns in arms.items())]


def _gone(costs: list[Cost], budget_s: float) -> set[tuple[str, str]]:
    gone = left_out(costs, budget_s, rounds=10)
    return {(cost.cell, cost.arm) for cost in gone}


def test_what_fits_into_the_budget_is_measured() -> None:
    """Ten rounds of 1.4 s and a margin of 15 % fit into 17 s, not into 16 s; without a limit everything does."""
    costs = _cell("a", 0.2, naive=1.0, table=0.2)
    assert _gone(costs, 17.0) == set()
    assert _gone(costs, 16.0) == {("a", "naive")}
    assert _gone(costs, float("inf")) == set()
    assert needed_s(costs, 10) == pytest.approx(16.1)


def test_curves_go_before_cells_and_the_cheap_ones_come_back() -> None:
    """A curve of 1 s a round does not cost a cell of 0.6 s; one of 0.01 s stays beside both cells."""
    curves = [Cost("naive/x1", "naive", 1e9, curve=True), Cost("table/x1", "table", 1e7, curve=True)]
    costs = _cell("a", 0.2, table=0.2) + _cell("b", 0.3, table=0.3) + curves
    assert _gone(costs, 12.0) == {("naive/x1", "naive")}
    assert _gone(costs, 5.0) == {("naive/x1", "naive"), ("b", "no mask"), ("b", "table")}
    assert _gone(costs, 24.0) == set()


def test_slow_arms_go_before_cells_and_come_back_if_there_is_room() -> None:
    """The naive arm of the large cell goes, then that cell; the small cell's naive arm is there in the end."""
    costs = _cell("small", 0.1, naive=0.4, table=0.1) + _cell("large", 1.0, naive=9.0, table=1.0)
    assert _gone(costs, 40.0) == {("large", "naive")}
    assert _gone(costs, 10.0) == {("large", "naive"), ("large", "no mask"), ("large", "table")}


def test_one_cell_with_two_arms_always_stays() -> None:
    """However small the budget, something is measured."""
    costs = _cell("a", 1.0, naive=9.0) + _cell("b", 2.0, naive=9.0, table=2.0)
    gone = _gone(costs, 0.001)
    assert {(cost.cell, cost.arm) for cost in costs} - gone == {("b", "no mask"), ("b", "table")}
