"""What follows from busy time: idle, what bounds a step, gaps, bounds; each said only where an interval lets it."""

from typing import Any

import msgspec
import numpy as np
import pytest

from perstep.errors import InputError
from perstep.experiments.ledger.device.bounds import DeviceBounds, DevicePartBound, device_bounds, rates_of, times_of
from perstep.experiments.ledger.device.findings import DeviceWork, device_work, what_bounds
from perstep.experiments.ledger.device.samples import ProfiledRound, WorkColumns, profiled_round
from perstep.experiments.ledger.device.show import bounding_sentence, check_detail, gap_sentences, notes, work_table
from perstep.experiments.ledger.samples import Bounded, Pass, Sample, Workload, ledger_samples
from perstep.machine import Noise
from perstep.machine.device_ceilings import DeviceArm, DeviceCeilings, DeviceFigure
from perstep.measure import Steps, build_ledger
from perstep.measure.device_work import StepWork, TraceCounts, TraceWork
from perstep.report.table import to_text
from perstep.runs.columns import encode_sample, sample_decoder

SMOLLM2 = {
    "model_type": "llama", "vocab_size": 131072, "hidden_size": 576, "intermediate_size": 1536, "hidden_act": "silu",
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
STEPS = 3
"""Profiled decode steps a round; the trace has one more."""


def columns(busy_ns: dict[str, float], scale: float, launches: dict[str, int]) -> WorkColumns:
    """The profiled decode steps of a round."""

    def each(ns: float) -> Any:
        return np.full(STEPS, round(ns * scale), np.int64)

    return WorkColumns(
        busy_ns={name: each(ns) for name, ns in busy_ns.items()},
        sum_ns={name: each(1.1 * ns) for name, ns in busy_ns.items()},
        launches={name: np.full(STEPS, launches.get(name, 10), np.int64) for name in busy_ns},
        kernels={
            name: {f"void at::k<{name}>(int)": (STEPS * launches.get(name, 10), round(STEPS * ns))}
            for name, ns in busy_ns.items()
        },
    )


def samples(
    calm: Noise,
    *,
    busy_ns: dict[str, float],
    step_ns: float,
    rounds: int = 12,
    host_ns: dict[str, float] | None = None,
    spread: float = 0.01,
    launches: dict[str, int] | None = None,
    **more: Any,
) -> list[Sample]:
    """Rounds whose steps and kernels are known, but for a scatter that shifts both of a round, and the step alone."""
    rng, made = np.random.default_rng(7), []
    for number in range(rounds):
        slow, own = np.exp(rng.normal(0, spread, 2))
        step = np.full(STEPS + 1, round(step_ns * slow * own), np.int64)
        parts = {name: np.full(STEPS + 1, round(ns * slow), np.int64) for name, ns in (host_ns or {"mlp": 1.0}).items()}
        rest = np.full(STEPS + 1, round(1.05 * step_ns * slow), np.int64) - sum(parts.values())
        plain = Pass("plain", 0, {"decode": Steps(step), "prefill": Steps(step[:1])})
        whole = rest + sum(parts.values())
        marked = {"decode": Steps(whole, parts, rest, dict.fromkeys(parts, STEPS + 1))}
        marked["prefill"] = Steps(whole[:1], {n: p[:1] for n, p in parts.items()}, rest[:1], dict.fromkeys(parts, 1))
        passes = [plain, Pass("marked", 0, marked), Pass("marked", 0, marked), plain]
        work = columns(busy_ns, float(slow), launches or {})
        total = round(STEPS * sum(busy_ns.values()))
        profiled = ProfiledRound({"decode": work}, total_ns=total, kernels=30 * len(busy_ns), **more)
        made.append(Sample(number, passes, calm, {}, profiled))
    return made


def work_of(calm: Noise, **options: Any) -> DeviceWork:
    """The decode steps of such rounds."""
    return device_work(samples(calm, **options))["decode"]


def test_idle_is_the_step_less_its_kernels_with_an_interval_from_pairs(calm: Noise) -> None:
    """A machine that drifts by 10 % between rounds moves both; the interval of their pairs holds the difference."""
    work = work_of(calm, busy_ns={"mlp": 1.5e6, "norm": 0.5e6, "residual": 0.3e6}, step_ns=24.6e6)
    assert work.busy_ns == pytest.approx(2.3e6, rel=0.02)
    assert work.idle_ns == pytest.approx(work.step_ns - work.busy_ns)
    assert work.idle_ci_low < work.idle_ns < work.idle_ci_high
    assert work.idle_ci_high - work.idle_ci_low < 0.1 * work.idle_ns
    assert list(work.parts) == ["mlp", "norm", "residual"]
    assert sum(part.busy_ns for part in work.parts.values()) == pytest.approx(work.busy_ns)
    assert work.parts["mlp"].ci_low < work.parts["mlp"].busy_ns < work.parts["mlp"].ci_high
    assert work.parts["mlp"].sum_ns == pytest.approx(1.1 * work.parts["mlp"].busy_ns, rel=0.02)
    assert (work.positions, work.steps, work.launches) == (STEPS, 12 * STEPS, 30)
    [kernel] = work.parts["norm"].kernels
    assert (kernel.short, kernel.per_step, kernel.share) == ("k", 10, 1.0)
    assert kernel.mean_ns == pytest.approx(0.05e6)


@pytest.mark.parametrize(
    ("share", "bound"), [(0.09, "host-bound"), (0.75, "balanced"), (0.95, "device-bound"), (0.6, ""), (0.9, "")]
)
def test_what_bounds_a_step_is_said_with_its_numbers(calm: Noise, share: float, bound: str) -> None:
    """By the whole interval of busy / step: where it lies across a border, neither class is named as the answer."""
    work = work_of(calm, busy_ns={"mlp": share * 25e6}, step_ns=25e6, spread=0.02)
    assert work.bound == bound
    said = bounding_sentence(work)
    if bound:
        assert said.startswith(f"{bound}: kernels run ")
        assert f" ms ({100 * work.busy_share:.0f} %); launching them faster can save at most " in said
    else:
        assert said.startswith("What bounds the step is not resolved: kernels run ")
        assert " or " in said
        assert "save" not in said


def test_without_an_interval_nothing_is_said_to_bound_the_step(calm: Noise) -> None:
    """Five rounds give none; the numbers stand, and what would help."""
    work = work_of(calm, busy_ns={"mlp": 2.3e6}, step_ns=24.6e6, rounds=5)
    assert work.bound == ""
    assert work.idle_ci_low is None
    assert "5 rounds give no interval" in bounding_sentence(work)
    assert what_bounds(None, None) == ""


def test_kernels_that_take_longer_than_the_step_are_not_clamped(calm: Noise) -> None:
    """A profiled device may have a lower clock: idle is negative, and said to be so."""
    work = work_of(calm, busy_ns={"mlp": 27e6}, step_ns=25e6)
    assert work.idle_ns < 0
    assert bounding_sentence(work).endswith("no time is left between them.")
    assert any("the device was slower in them" in note for note in notes(work))


def test_gaps_lie_where_the_host_is_slower_than_its_kernels(calm: Noise) -> None:
    """Largest first; not in a part that launches nothing, nor of a step that the device bounds."""
    host_ns = {"norm": 8e6, "mlp": 2e6, "attn": 9e6, "stop/X": 3e6}
    made = samples(calm, busy_ns={"norm": 0.7e6, "mlp": 0.4e6, "attn": 1.0e6}, host_ns=host_ns, step_ns=24.6e6)
    host = build_ledger("decode", ledger_samples(made)["decode"], mark_ns=0.0)
    work = device_work(made)["decode"]
    [said] = gap_sentences(work, host)
    assert said.index("attn:") < said.index("norm:") < said.index("mlp:")
    assert "stop/X" not in said
    assert "8.0" in said or "7.9" in said or "8.1" in said
    assert gap_sentences(work, None) == []
    assert gap_sentences(msgspec.structs.replace(work, bound="device-bound"), host) == []
    assert gap_sentences(msgspec.structs.replace(work, bound=""), host) == []


def test_what_could_not_be_attributed_is_told(calm: Noise) -> None:
    """The share of replays that were left whole, of kernels without a launch, and how far the clocks are apart."""
    made = samples(
        calm, busy_ns={"forward": 2e6, "sample": 0.5e6}, step_ns=10e6, unmatched=4, unmatched_ns=75_000,
        early_ns=40_000, began_early=9, whole_replays=3, split_replays=2,
    )  # fmt: skip
    for sample in made:
        sample.profiled.kinds["decode"].replayed_ns = {"forward": round(STEPS * 1.0e6)}
    work = device_work(made)["decode"]
    said = " ".join(notes(work))
    assert work.parts["forward"].replayed_ns / work.busy_ns == pytest.approx(0.4, rel=0.03)
    assert "% of device time is in graph replays of forward and is not split." in said
    assert "24 graph replays could be split into parts" in said
    assert "1.00 % of device time (48 kernels) has no launch in the trace" in said
    assert "differ by up to 40.0 µs" in said
    quiet = " ".join(notes(work_of(calm, busy_ns={"mlp": 1e6}, step_ns=9e6, early_ns=2_000)))
    assert "replay" not in quiet
    assert "clocks" not in quiet
    assert "no launch" not in quiet


def test_samples_are_the_same_after_they_were_stored(calm: Noise) -> None:
    """Steps are lists in JSON and arrays in memory."""
    [sample] = samples(calm, busy_ns={"mlp": 2e6}, step_ns=10e6, rounds=1)
    again = sample_decoder(Sample).decode(encode_sample(sample))
    assert device_work([again])["decode"] == device_work([sample])["decode"]
    older = sample_decoder(Sample).decode(encode_sample(msgspec.structs.replace(sample, profiled=None)))
    assert device_work([older]) == {}


def test_steps_become_columns_by_kind() -> None:
    """A part that a step lacks is 0 there; kernels are added up over the steps of a kind."""
    steps = [StepWork("prefill"), StepWork("decode"), StepWork("decode")]
    for number, one in enumerate(steps):
        part = one.part("a" if number else "b")
        part.busy_ns, part.launches = 10 * number + 1, number
    steps[2].part("c").busy_ns = 5
    kept = profiled_round(TraceWork(steps, TraceCounts(total_ns=9, kernels=3)))
    assert list(kept.kinds) == ["prefill", "decode"]
    assert {name: list(ns) for name, ns in kept.kinds["decode"].busy_ns.items()} == {"a": [11, 21], "c": [0, 5]}
    assert kept.kinds["decode"].steps == 2


def test_rounds_of_unlike_lengths_are_refused(calm: Noise) -> None:
    """One that lost a step is not averaged with the others."""
    made = samples(calm, busy_ns={"mlp": 2e6}, step_ns=10e6)
    made[3].profiled.kinds["decode"].busy_ns["mlp"] = np.array([1, 2])
    with pytest.raises(InputError, match="measure again"):
        device_work(made)


# Theory beside it


def ceilings(
    *, shortest_ns: float = 840.0, gb_s: float = 4240.0, tflop_s: float = 790.0, repeats: int = 7
) -> DeviceCeilings:
    """Those of the H200 of the facts, and a kernel of each kind."""

    def figure(ns: float, arm: DeviceArm) -> DeviceFigure:
        return DeviceFigure(value=1.2 * ns, best=ns, worst=2 * ns, repeats=repeats, rows=arm.rows,
                            bytes_moved=arm.bytes_moved, flops=arm.flops)  # fmt: skip

    arms = [DeviceArm("product.1.x", 1, 1 << 30, 2 << 30), DeviceArm("product.1.y", 1, 1 << 20, 2 << 20),
            DeviceArm("product.4096.x", 4096, 1 << 25, 2 * 4096**3)]  # fmt: skip
    made = {arm.figure: figure(max(arm.bytes_moved / gb_s, arm.flops / tflop_s / 1e3), arm) for arm in arms}
    kinds = {
        "elementwise": 1.0,
        "cast": 1.3,
        "reduce": 2.2,
        "concatenate": 1.6,
        "gather": 1.8,
        "product": 3.5,
        "attention": 4.0,
    }
    made["launch"] = figure(6000.0, DeviceArm("launch"))
    made |= {f"kernel.{kind}": figure(shortest_ns * times, DeviceArm("k")) for kind, times in kinds.items()}
    return DeviceCeilings(device="H200", dtype="bfloat16", width=576, figures=made)


SMOLLM2_IN_HALF = Bounded(SMOLLM2, "transformers", "bfloat16")
WORKLOAD = Workload(
    token_ids_sha256="", model_config_sha256="", dtype="bfloat16", device="cuda", threads=1, batch=1,
    temperature=0.0, top_k=0, top_p=1.0, prompt_tokens=64, new_tokens=8,
)  # fmt: skip


BUSY = {"norm": 652e3, "attn": 500e3, "mlp": 441e3, "lm_head": 38.2e3, "sample": 20e3}
"""About those of the stored trace."""
LAUNCHES = {"norm": 470, "attn": 110, "mlp": 150, "lm_head": 1, "sample": 4}
"""Those of `mlp` and `lm_head` as they are counted; 18 too few of `norm` are near enough, 10 of `attn` are not."""


def bounds_of(
    calm: Noise, made: DeviceCeilings, busy_ns: dict[str, float] | None = None, launches: int = 150
) -> DeviceBounds:
    """The bounds beside them."""
    work = work_of(calm, busy_ns=busy_ns or BUSY, step_ns=24.6e6, launches=LAUNCHES, spread=1e-6)
    return device_bounds(SMOLLM2_IN_HALF, WORKLOAD, made, {"decode": work})["decode"]


def test_bounds_stand_beside_busy_time(calm: Noise) -> None:
    """The head is bound by its bytes, the rest by launches; MBU and MFU are of the plain step."""
    found = bounds_of(calm, ceilings())
    assert found.parts["lm_head"].bound_ns == pytest.approx(131072 * 576 * 2 / 4240, rel=1e-3)
    assert found.parts["lm_head"].binds == "bandwidth"
    assert found.parts["mlp"] == DevicePartBound(pytest.approx(150 * 840.0), "launches")
    assert found.step_ns == pytest.approx(sum(part.bound_ns for part in found.parts.values()))
    assert found.mbu == pytest.approx(363.4e6 / 4.24e12 / 24.6e-3, rel=0.01)  # 181.7 million weights
    assert any(note.startswith("MBU 0.3 %, MFU 0.0 %") for note in found.notes)
    assert found.notes[-1] == (
        "A bare launch from Python costs the host 7.20 µs here: the 735 launches of a step would take 5.29 ms."
    )
    assert found.expected_ns["mlp"] > found.parts["mlp"].bound_ns
    assert set(found.expected_ns) == {"norm", "mlp", "lm_head"}


def test_a_part_faster_than_its_bytes_withdraws_the_ceilings(calm: Noise) -> None:
    """The head in half the time that its weights take: no bound of any part is right."""
    found = bounds_of(calm, ceilings(), {**BUSY, "lm_head": 17e3})
    assert found.step_ns is None
    assert found.mbu is None
    assert {part.bound_ns for part in found.parts.values()} == {None}
    assert found.notes[0].startswith(
        "Bounds: ceilings exceeded; not judged: lm_head took 17.0 µs, less than the minimum of 35.6 µs"
    )


def test_a_part_faster_than_its_launches_loses_its_bound_alone(calm: Noise) -> None:
    """Kernels may be shorter than the shortest that was timed."""
    found = bounds_of(calm, ceilings(), {**BUSY, "mlp": 120e3})
    assert found.parts["mlp"].bound_ns is None
    assert found.parts["norm"].bound_ns is not None
    assert any("Faster than the bound" in note and "mlp" in note for note in found.notes)


def test_too_few_rounds_of_ceilings_judge_nothing(calm: Noise) -> None:
    """Nor do none."""
    work = {"decode": work_of(calm, busy_ns=BUSY, step_ns=24.6e6)}
    assert device_bounds(SMOLLM2_IN_HALF, WORKLOAD, ceilings(repeats=2), work) == {}
    assert device_bounds(SMOLLM2_IN_HALF, WORKLOAD, None, work) == {}


def test_a_model_without_formulas_is_bound_by_its_launches(calm: Noise) -> None:
    """And has no MBU."""
    work = work_of(calm, busy_ns=BUSY, step_ns=24.6e6, launches=LAUNCHES)
    found = device_bounds(Bounded(), WORKLOAD, ceilings(), {"decode": work})["decode"]
    assert {part.binds for part in found.parts.values()} == {"launches"}
    assert (found.mbu, found.expected_ns) == (None, {})


def test_a_set_is_read_at_the_figure_of_the_nearest_size() -> None:
    """A step that fits into a cache has the cache's bandwidth, if one was seen there; never less than memory's."""
    made = ceilings()
    near = DeviceFigure(value=100.0, best=100.0, worst=100.0, repeats=7, rows=1, bytes_moved=1 << 20)
    figures = {**made.figures, "read.near": near}
    made = msgspec.structs.replace(made, figures=figures)
    assert rates_of(made, 1 << 20).bytes_per_s == pytest.approx((1 << 20) / 100 * 1e9)
    assert rates_of(made, 1 << 29).bytes_per_s == rates_of(made, None).bytes_per_s == pytest.approx(4240e9)
    assert times_of(made).smallest_ns["reduce"] == pytest.approx(1.2 * 2.2 * 840)


def test_a_table_has_the_columns_that_there_are(calm: Noise) -> None:
    """Bounds and expectations where there are any, kernels if asked; every row is as wide as the header."""
    work = work_of(calm, busy_ns=BUSY, step_ns=24.6e6, launches=LAUNCHES)
    bounds = device_bounds(SMOLLM2_IN_HALF, WORKLOAD, ceilings(), {"decode": work})["decode"]
    for judged in (None, bounds):
        for detail in ("parts", "kernels"):
            table = work_table(work, title="t", bounds=judged, detail=detail)
            assert {len(row) for row in table.rows} == {len(table.header)}
            assert ("bound by" in table.header) == (judged is not None)
            assert any(row[0].startswith("  k") for row in table.rows) == (detail == "kernels")
            assert "host-bound: kernels run" in to_text(table)
    expected = next(note for note in work_table(work, title="t", bounds=bounds).notes if note.startswith("Expected"))
    assert "not predicted: attn, sample" in expected


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_device_detail_needs_a_device(device: str) -> None:
    """Nothing is there to look into."""
    with pytest.raises(InputError, match="--device-detail goes with --device cuda"):
        check_detail(device, "kernels")
    check_detail(device, None)
    check_detail("cuda:1", "kernels")
