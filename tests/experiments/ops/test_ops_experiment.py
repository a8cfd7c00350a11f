"""`ops` from a plan to a report, in planted time: every figure has a known answer."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments import pipeline
from perstep.experiments.ops import Plan
from perstep.experiments.ops.findings import LengthFound, OpsFindings
from perstep.experiments.ops.session import prepare
from perstep.experiments.ops.show import _bar_label
from perstep.measure import FakeClock
from perstep.report.format import duration
from perstep.runs import SAMPLES, read_manifest
from perstep.stored.between import compare_runs
from perstep.stored.repeats import load_pair
from perstep.targets.operators.layer import PARTS

from .conftest import COSTS_NS, Planted

TICKS = 60
"""Readings of the fake clock in a step, a nanosecond each, are the only cost that was not planted."""


def length_of(report: pipeline.Report, seq: int) -> LengthFound:
    """What was found at one length."""
    assert isinstance(report.findings, OpsFindings)
    return next(length for length in report.findings.lengths if length.seq == seq)


def test_each_part_costs_what_was_planted_and_they_add_up(planted: Planted) -> None:
    """In its place and alone; parts + residual = step in integers, shares of the step at that very length."""
    report = planted("run", seq=(1, 8, 32), past=3)
    for seq in (1, 8, 32):
        found = length_of(report, seq)
        assert found.keys == seq + 3
        ledger = found.ledger
        assert sum(part.ns_total for part in ledger.parts.values()) + ledger.residual_ns_total == ledger.step_ns_total
        assert found.residual_share_of_layers < 0.01
        for name, operator in found.operators.items():
            calls = 2 if name == "norm" else 1
            assert operator.calls_per_step == calls
            assert operator.in_place.ns == pytest.approx(calls * COSTS_NS[name](seq), abs=TICKS)
            assert operator.share_of_step == pytest.approx(operator.in_place.ns / ledger.step_ns)
            assert operator.alone is not None
    masked = {"attn.mask.build", "attn.mask.apply"}
    assert masked.isdisjoint(length_of(report, 1).operators)
    assert masked < set(length_of(report, 8).operators)


def test_composites_stand_beside_the_parts_and_are_not_summed(planted: Planted) -> None:
    """Layers, full attention, build plus apply: each what its parts cost, and none of them a part of the ledger."""
    found = length_of(planted("run", seq=(16,)), 16)
    attention = ("attn.scores", "attn.mask.build", "attn.mask.apply", "attn.softmax", "attn.pv")
    whole = found.attention["mask=rebuild"]
    assert whole.whole.ns == pytest.approx(sum(COSTS_NS[name](16) for name in attention), abs=TICKS)
    assert whole.mask is not None
    assert whole.mask.ns == pytest.approx(1_200 * 16 * 16, abs=TICKS)
    outside = COSTS_NS["embed"](16) + 5_200
    assert found.layers.ns == pytest.approx((found.ledger.plain_step_ns or 0) - outside, abs=TICKS)
    assert set(found.ledger.parts) <= set(PARTS.values())


def test_a_cached_mask_wins_what_building_cost(planted: Planted) -> None:
    """As an arm of the same rounds: the step, `full_attention`, and building plus applying; with verdicts."""
    report = planted("run", seq=(1, 16), arm=("mask=rebuild", "mask=cached"))
    found = length_of(report, 16)
    build, apply = COSTS_NS["attn.mask.build"](16), COSTS_NS["attn.mask.apply"](16)
    step = found.arms["mask=cached"].against_reference
    assert step.verdict == "faster"
    assert step.change == pytest.approx(-build / found.ledger.step_ns, rel=0.01)
    cached = found.attention["mask=cached"]
    assert cached.mask_against_reference is not None
    assert cached.mask_against_reference.verdict == "faster"
    assert cached.mask_against_reference.change == pytest.approx(-build / (build + apply), rel=0.01)
    assert "mask=cached" not in length_of(report, 1).attention
    words = (report.folder / "README.md").read_text()
    assert "building it is the larger half, which a cache takes away" in words
    assert "there is no mask, and nothing to cache" in words


def test_the_readme_says_when_applying_is_the_cost(planted: Planted) -> None:
    """Not building: then no cache takes it away."""
    report = planted("run", {"attn.mask.build": lambda S: 10 * S * S}, seq=(16,))
    assert "applying it, not building it, is the cost" in (report.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("part", "cost_ns"),
    [("attn.mask.build", 3_000_000), ("mlp", 700_000), ("attn.rope", 90_000)],
)
def test_what_if_agrees_with_the_later_gain(planted: Planted, part: str, cost_ns: int) -> None:
    """Three planted cases: what the counterfactual says, and what a run in which the part is really free gains."""
    before = planted("before", {part: lambda _: cost_ns}, what_if=(f"{part}=0",))
    after = planted("after", {part: lambda _: 0})
    said = length_of(before, 8).what_if[part]
    later = length_of(before, 8).ledger.step_ns - length_of(after, 8).ledger.step_ns
    assert said.in_step.verdict == "faster"
    assert said.in_step.ns == pytest.approx(later, rel=0.1)
    assert said.own.ns == pytest.approx(later, rel=0.1)
    if part.startswith("attn.mask"):
        assert said.in_attention is not None
        assert said.in_attention.ns == pytest.approx(later, rel=0.1)
    else:
        assert said.in_attention is None


def test_a_gain_beyond_the_parts_own_time_is_not_called_bounded_by_it(planted: Planted) -> None:
    """A mask that makes the softmax after it 600 µs dearer: freed, it gives back 3.6 ms of its 3, and that is said."""
    built = [False]

    def build(_: int) -> int:
        built[0] = True
        return 3_000_000

    def softmax(_: int) -> int:
        dearer, built[0] = built[0], False
        return 1_600_000 if dearer else 1_000_000

    report = planted("run", {"attn.mask.build": build, "attn.softmax": softmax}, what_if=("attn.mask.build=0", "mlp=0"))
    said, mlp = length_of(report, 8).what_if["attn.mask.build"], length_of(report, 8).what_if["mlp"]
    assert said.own_in_attention is not None
    assert said.in_attention is not None
    for own, gain in ((said.own, said.in_step), (said.own_in_attention, said.in_attention)):
        assert own.ns == pytest.approx(3e6, rel=0.01)
        assert gain.ns == pytest.approx(3.6e6, rel=0.01)
        assert gain.within_own is False
    assert mlp.in_step.within_own is not False
    table = next(table for table in report.tables if table.title.startswith("what if"))
    assert [row[-1] for row in table.rows[:2]] == ["no", "no"]
    words = (report.folder / "README.md").read_text()
    assert "at most" not in words
    assert "No improvement" not in words


def test_arms_and_ways_to_mask_are_shown_as_the_pairs_have_them(planted: Planted) -> None:
    """Time, change and interval of a line say the same: the reference times the ratio."""
    report = planted("run", seq=(16,), arm=("mask=rebuild", "mask=cached"), what_if=("attn.mask.build=0",))
    found = length_of(report, 16)
    whole = found.attention["mask=rebuild"].whole.ns
    lines = [(found.ledger.step_ns, found.arms["mask=cached"].step, found.arms["mask=cached"].against_reference)]
    lines += [(whole, way.whole, way.against_reference) for way in found.attention.values() if way.against_reference]
    for reference_ns, shown, change in lines:
        assert change.change is not None
        assert change.ci_low is not None
        assert shown.ns == pytest.approx(reference_ns * (1 + change.change))
        assert shown.ci_low_ns == pytest.approx(reference_ns * (1 + change.ci_low))
    gain = found.what_if["attn.mask.build"].in_attention
    freed = found.attention["attn.mask.build=0"].against_reference
    assert gain is not None
    assert freed is not None
    assert (gain.share, gain.verdict) == (-(freed.change or 0), freed.verdict)
    assert gain.ci_low_ns == pytest.approx(-(freed.ci_high or 0) * whole)


def test_a_bar_of_shares_is_labelled_with_the_step_they_are_shares_of(planted: Planted) -> None:
    """Share times label is the table's time of the part."""
    report = planted("run", seq=(16,))
    found = length_of(report, 16)
    found = msgspec.structs.replace(found, ledger=msgspec.structs.replace(found.ledger, plain_step_ns=1.0))
    assert _bar_label(found) == f"S = 16\n{duration(found.ledger.step_ns)}"


def test_a_part_that_does_not_occur_at_a_length_has_no_what_if_there(planted: Planted) -> None:
    """One new token has no mask: that cell stays empty."""
    report = planted("run", seq=(1, 8), what_if=("attn.mask.apply=0",))
    assert length_of(report, 1).what_if == {}
    assert set(length_of(report, 8).what_if) == {"attn.mask.apply"}


def test_exponents_are_those_that_were_planted(planted: Planted) -> None:
    """Linear, quadratic and constant parts, over three lengths."""
    report = planted("run", seq=(8, 16, 32))
    assert isinstance(report.findings, OpsFindings)
    scaled = report.findings.scaling
    for part, exponent in (("mlp", 1), ("attn.scores", 2), ("attn.mask.build", 2), ("lm_head", 0)):
        assert scaled[part].changes == []
        assert scaled[part].fitted[0].exponent == pytest.approx(exponent, abs=0.01)


def test_an_operator_of_your_own_is_timed_alone(planted: Planted) -> None:
    """By module:function with a shape; it is no part of the step."""
    report = planted("run", op=("numpy:dot@S,hidden@hidden,4",))
    found = length_of(report, 8)
    assert set(found.own) == {"numpy:dot"}
    assert "numpy:dot" not in found.operators
    assert "numpy:dot (alone)" in "".join(row[0] for row in report.tables[0].rows)


def test_the_report_is_made_again_from_the_samples(planted: Planted) -> None:
    """Byte for byte, without measuring."""
    report = planted("run", seq=(8, 16), arm=("mask=cached", "mask=rebuild"), what_if=("mlp=0",))
    names = sorted(read_manifest(report.folder).files)
    assert names == ["README.md", "ops.csv", "ops.png", "report.html", "results.json", "scaling.csv", "scaling.png"]
    before = {name: (report.folder / name).read_bytes() for name in names}
    for name in names:
        (report.folder / name).unlink()
    pipeline.rebuild(report.folder)
    assert {name: (report.folder / name).read_bytes() for name in names} == before


def test_parts_beyond_the_step_are_invalid(planted: Planted) -> None:
    """A share over 100 %, or a negative one, is never shown: the samples are damaged."""
    folder = planted("run", rounds=3).folder
    lines = (folder / SAMPLES).read_text().splitlines()
    spoilt = json.loads(lines[0])
    spoilt["lengths"][0]["arms"]["mask=rebuild"]["parts"]["mlp"][0] += 10**9
    (folder / SAMPLES).write_text("\n".join([json.dumps(spoilt), *lines[1:]]) + "\n")
    with pytest.raises(InvalidMeasurement, match="do not add up"):
        pipeline.rebuild(folder)


def test_two_runs_are_compared_part_by_part_at_each_length(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arm is the code that is compared, the shapes are the work."""
    before = planted("before", seq=(1, 8)).folder
    after = planted("after", seq=(1, 8), arm=("mask=cached",)).folder
    pair = load_pair(before, after)
    found = compare_runs(pair.ref, pair.new, pair.spread)
    rows = {row.part: row for row in found.parts}
    assert {row.kind for row in found.parts} == {"S1", "S8"}
    assert "arm: mask=rebuild → mask=cached" in found.different_code
    assert rows["S8.mlp"].change == pytest.approx(0, abs=0.01)
    assert rows["S8.attn.mask.build"].change == pytest.approx(-1, abs=0.01)
    assert rows["S8.step"].change == pytest.approx(-64_000 / (rows["S8.step"].ref_ns or 0), rel=0.05)


def test_a_run_of_another_shape_is_not_compared(planted: Planted) -> None:
    """What differs is named."""
    before, after = planted("before", seq=(1, 8)).folder, planted("after", seq=(8,)).folder
    with pytest.raises(InputError, match=r"seq: \[1, 8\] → \[8\]"):
        load_pair(before, after)


def test_an_arm_that_computes_something_else_is_refused(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All arms do the same work (law "arms do the same work"): hidden states are compared before anything is timed."""
    from perstep.experiments.ops import arms

    def no_mask(_backend: str, _device: str) -> Any:
        return lambda q_len, kv_len, dtype: np.zeros((q_len, kv_len), dtype)

    monkeypatch.setattr(arms, "_cached_mask", no_mask)
    plan = Plan(arch=str(tiny_llama), seq=(8,), arm=("mask=rebuild", "mask=cached"), rounds=1)
    with pytest.raises(InvalidMeasurement, match="arm mask=cached does not compute what the reference arm computes"):
        prepare(plan, lambda _share, _what: None, FakeClock())


@pytest.mark.real_clock
def test_a_resumed_run_goes_on_with_the_same_steps(planted: Planted, tiny_llama: Path) -> None:
    """How many steps make a turn follows from the shapes, so rounds of two sessions stack."""
    folder = planted("run", rounds=2, seq=(1, 8)).folder
    plan = Plan(arch=str(tiny_llama), rounds=3, seq=(1, 8))
    report = pipeline.run("ops", plan, progress=lambda _share, _what: None, out=folder, resume=True)
    assert length_of(report, 8).ledger.rounds == 3


def test_samples_without_a_length_are_refused(planted: Planted) -> None:
    """Rounds must hold the same lengths."""
    folder = planted("run", seq=(1, 8), rounds=2).folder
    lines = [json.loads(line) for line in (folder / SAMPLES).read_text().splitlines()]
    del lines[1]["lengths"][0]
    (folder / SAMPLES).write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    with pytest.raises(InputError, match="same lengths"):
        pipeline.rebuild(folder)


@pytest.mark.real_clock
@pytest.mark.hf
def test_the_fused_kernel_has_no_mask(tiny_llama: Path, tmp_path: Path) -> None:
    """On torch it is an arm and a way of doing `full_attention`; the step's parts are then those of the kernel."""
    plan = Plan(arch=str(tiny_llama), seq=(1, 8), backend="torch", rounds=2, arm=("mask=fused", "mask=rebuild"))
    report = pipeline.run("ops", plan, progress=lambda _share, _what: None, out=tmp_path / "run")
    found = length_of(report, 8)
    assert "attn.core" in found.operators
    assert "attn.scores" not in found.operators
    assert found.attention["mask=fused"].mask is None
    assert next(iter(found.attention)) == "mask=fused"
    assert "attn.mask.apply" in found.arms["mask=rebuild"].parts_ns


@pytest.mark.real_clock
@pytest.mark.hf
def test_other_dtypes_run_on_torch(tiny_llama: Path, tmp_path: Path) -> None:
    """bfloat16, a chunk behind a past, all masks that there are."""
    plan = Plan(arch=str(tiny_llama), seq=(8,), past=4, backend="torch", dtype="bfloat16", rounds=1, layers=2)
    report = pipeline.run("ops", plan, progress=lambda _share, _what: None, out=tmp_path / "run")
    assert set(length_of(report, 8).attention) == {"mask=rebuild", "mask=cached"}
