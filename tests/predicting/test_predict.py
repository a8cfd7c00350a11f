"""Predictions on cells whose law is known: coefficients, intervals, what is derived and what is refused."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perstep.errors import InputError
from perstep.experiments.ledger.device.findings import DeviceWork, PartWork
from perstep.measure import Ledger
from perstep.predicting.cells import (
    RESIDUAL,
    Cell,
    Cells,
    DeviceSpeed,
    _parts,
    machine_speed,
    read_cells,
    speed_of,
)
from perstep.predicting.features import COEFFICIENTS, features
from perstep.predicting.fit import LEAST_CELLS, fit_cells, half_widths, left_out, sides_ns
from perstep.predicting.fleet import check_fleet, fleet_of
from perstep.predicting.predict import DERIVED, PREDICTED, beyond, own_speeds, predictor
from perstep.predicting.subject import GREEDY, Subject, Way, choosing, is_mixture, shape_named

Law = Callable[..., list[Cell]]
Step = Callable[..., Subject]
GOLDEN = Path(__file__).parents[1] / "golden"


def cells_of(found: list[Cell]) -> Cells:
    """Nothing was left out."""
    return Cells(found, Counter())


def test_a_known_law_is_predicted_where_nothing_was_measured(law: Law, step: Step, measured: Any) -> None:
    """Another number of layers, batch and context of an architecture between the measured ones; to a hundredth."""
    cells = [*law(), *(measured(step(arch, batch=4)) for arch in range(8))]
    new = step(3, layers=3, batch=2, context=400)
    found = predictor(cells_of(cells), new, None).predict(new)
    truth = measured(new)
    assert found.status == PREDICTED
    assert found.step_ns == pytest.approx(truth.step_ns, rel=0.01)
    for part, ns in truth.parts_ns.items():
        assert found.parts_ns[part] == pytest.approx(ns, abs=0.01 * truth.step_ns), part
    assert sum(found.parts_ns.values()) == pytest.approx(found.step_ns)


def test_coefficients_are_named_and_never_negative(law: Law) -> None:
    """Where noise would make a least-squares fit negative too."""
    cells = law(0.3)
    fit = fit_cells(cells, own_speeds(cells))
    assert all(value > 0 for part in fit.parts.values() for value in part.values())
    assert {name for part in fit.parts.values() for name in part} <= COEFFICIENTS.keys()
    assert fit.parts["lm_head"].keys() <= {"roofline", "calls", "packing", "per_step"}, "the head runs once"
    assert "per_logit" not in fit.parts["mlp"], "a layer does not touch the logits"


def test_an_interval_is_as_wide_as_left_out_architectures_were_off(law: Law, step: Step, measured: Any) -> None:
    """Nearly nothing without noise; with one architecture that is twice as slow, at least that factor."""
    quiet = law()
    assert half_widths(quiet, own_speeds(quiet)).pooled == pytest.approx(0.0, abs=0.01)
    slow = [
        replace(cell, step_ns=2 * cell.step_ns, parts_ns={p: 2 * ns for p, ns in cell.parts_ns.items()})
        if cell.subject.arch == "arch-5"
        else cell
        for cell in quiet
    ]
    wide = half_widths(slow, own_speeds(slow)).pooled
    assert wide is not None
    assert wide > 0.6
    found = predictor(cells_of(slow), step(2), None).predict(step(2))
    assert found.low_ns is not None
    assert found.high_ns is not None
    assert found.low_ns < found.step_ns / 1.8
    assert found.high_ns > found.step_ns * 1.8
    assert measured(step(2)).step_ns > found.low_ns


def test_no_cell_of_a_group_is_seen_by_the_fit_that_predicts_it(law: Law) -> None:
    """Each group has a fit of its own; the cells of one share it."""
    cells = law(0.1)
    fits = left_out(cells, own_speeds(cells), lambda cell: cell.subject.arch)
    assert len({id(fit) for fit in fits.values()}) == 8
    for cell in cells:
        rest = [other for other in cells if other.subject.arch != cell.subject.arch]
        assert fits[cell.name] == fit_cells(rest, own_speeds(rest))


def test_few_architectures_have_no_interval(law: Law, step: Step) -> None:
    """It is derived, and says why."""
    found = predictor(cells_of(law(archs=3)), step(1), None).predict(step(1))
    assert (found.status, found.low_ns, found.high_ns) == (DERIVED, None, None)
    assert "too few architectures" in found.why_derived


def test_outside_of_what_was_measured_it_is_derived_and_far_outside_refused(law: Law, step: Step) -> None:
    """The measure, its range and the nearest cell are named."""
    made = predictor(cells_of(law()), step(), None)
    near = made.predict(step(3, context=3000))
    assert (near.status, near.low_ns) == (DERIVED, None)
    assert "its context (3,001) lies outside 65 to 1,025" in near.why_derived
    assert near.nearest.startswith("arch-3-6-1-1024")
    with pytest.raises(InputError, match=r"its context \(131,073\) lies beyond .* nearest cell is arch-\d-\d-1-1024"):
        made.predict(step(3, context=131_072))
    with pytest.raises(InputError, match="its batch"):
        made.predict(step(3, batch=64))


def test_another_way_of_carrying_out_steps_is_refused(law: Law, step: Step) -> None:
    """Another dtype, device, number of threads or backend: what there is, is named."""
    cells = cells_of(law())
    wrong = r"no cell was measured as .*; there are cells of transformers, float32, cpu"
    for change in (
        {"dtype": "bfloat16"},
        {"device": "cuda"},
        {"threads": 2},
        {"choosing": "sampled"},
        {"processors": ("TokenMask",)},
    ):
        with pytest.raises(InputError, match=wrong):
            predictor(cells, step(way=replace(step().way, **change)), None)


TOP_K = "logits/TopKLogitsWarper"
SAMPLING: dict[str, Any] = {TOP_K: {"per_step": 40.0, "per_logit": 6.0}, "sample": {"per_step": 60.0, "per_logit": 9.0}}
"""What a step takes besides, or instead, where tokens are drawn among the 50 most probable ones."""


def test_sampling_and_its_processors_are_predicted_from_runs_that_sampled(law: Law, step: Step, measured: Any) -> None:
    """A processor is a part that grows with batch times vocabulary; greedy runs in the same folder change nothing."""
    way = replace(step().way, choosing=choosing(1.0, 50, 1.0))
    drawn = [
        measured(step(arch, layers=layers, batch=batch, way=way), more=SAMPLING)
        for arch in range(8)
        for layers in (2, 6)
        for batch in (1, 8)
    ]
    new = step(2, layers=3, batch=4, way=way)
    found = predictor(cells_of([*law(), *drawn]), new, None).predict(new)
    truth = measured(new, more=SAMPLING)
    assert (found.status, found.cells) == (PREDICTED, 32)
    assert found.parts_ns[TOP_K] == pytest.approx(truth.parts_ns[TOP_K], rel=0.01)
    assert found.step_ns == pytest.approx(truth.step_ns, rel=0.01)
    greedy = predictor(cells_of([*law(), *drawn]), step(2), None).predict(step(2))
    assert TOP_K not in greedy.parts_ns
    assert greedy.step_ns == pytest.approx(measured(step(2)).step_ns, rel=0.01)
    for change in (choosing(1.0, 40, 1.0), choosing(0.7, 50, 1.0), choosing(1.0, 50, 0.9)):
        other = step(2, way=replace(way, choosing=change))
        with pytest.raises(InputError, match=r"no cell was measured as .*there are cells of .*sampled top-k 50"):
            predictor(cells_of(drawn), other, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((0.0, 50, 0.9), "greedy"),
        ((1.0, 0, 1.0), "sampled"),
        ((0.7, 0, 1.0), "sampled by a temperature"),
        ((0.7, 50, 0.9), "sampled by a temperature top-k 50 top-p 0.9"),
    ],
)
def test_settings_of_a_sampler_decide_how_tokens_are_chosen(settings: tuple[float, int, float], words: str) -> None:
    """A temperature of 1 divides nothing."""
    assert choosing(*settings) == words


def test_a_run_with_processors_is_a_way_of_its_own(tiny_model: Any, fake_time: Any, tmp_path: Path) -> None:
    """Those that its model brings along are named, those of the sampler's settings are in how tokens are chosen."""
    from perstep.experiments import pipeline
    from perstep.experiments.ledger import Plan
    from perstep.predicting.cells import Bounded, _subject
    from perstep.runs import read_manifest

    model = copy.deepcopy(tiny_model)
    model.generation_config.repetition_penalty = 1.2
    model.save_pretrained(tmp_path / "model")
    plan = Plan(model=str(tmp_path / "model"), prompt_tokens=4, new_tokens=4, rounds=2, temperature=0.7, top_k=5)
    run = pipeline.run("ledger", plan, progress=lambda _share, _what: None, out=tmp_path / "run").folder
    decode = msgspec.convert(json.loads((run / "results.json").read_text())["decode"], Ledger)
    assert {"logits/RepetitionPenaltyLogitsProcessor", TOP_K} <= decode.parts.keys()
    manifest = read_manifest(run)
    bounded = msgspec.convert(manifest.conditions["bounds"], Bounded)
    found = _subject(manifest, bounded, decode)
    assert found.way.words == (
        "transformers, float32, cpu, 1 thread, sampled by a temperature top-k 5, RepetitionPenaltyLogitsProcessor"
    )


def test_mixtures_of_experts_are_never_fitted_with_dense_models(law: Law, step: Step) -> None:
    """Theory does not count their calls; a model of both kinds of layers is refused."""
    name, shape = shape_named("olmoe-1b-7b", 2)
    assert is_mixture(shape)
    assert not is_mixture(step().shape)
    both = replace(shape, layers=(*shape.layers, *step().shape.layers))
    with pytest.raises(InputError, match="dense layers and of mixtures"):
        is_mixture(both)
    mixture = Subject(name, shape, 1, 256, replace(step().way, mixture=True))
    with pytest.raises(InputError, match=r"no cell was measured as .*, greedy, mixture of experts; there are cells of"):
        predictor(cells_of(law()), mixture, None)
    few = replace(mixture, shape=replace(shape, layers=tuple(
        replace(layer, mlp=replace(layer.mlp, experts=8, active=1)) for layer in shape.layers)))  # fmt: skip
    assert beyond(mixture, [replace(law()[0], subject=few)])["experts that a layer runs"] == 8.0


def test_a_machine_is_carried_to_by_its_ceilings_and_a_few_cells(law: Law, step: Step, measured: Any) -> None:
    """Coefficients have no unit: four cells of a machine of half the speed are enough; one is not; none is refused."""
    fast = law()
    slow = [measured(step(arch), speed=0.5) for arch in (0, 3, 6)]
    found = predictor(cells_of([*fast, *slow]), step(4), "machine-0.5").predict(step(4))
    assert found.status == PREDICTED
    assert found.hardware == "machine of speed 0.5"
    assert found.step_ns == pytest.approx(measured(step(4), speed=0.5).step_ns, rel=0.01)
    one = predictor(cells_of([*fast, slow[0]]), step(4), "machine-0.5").predict(step(4))
    assert one.status == DERIVED
    assert "1 architecture measured on this machine, 3 are needed" in one.why_derived
    with pytest.raises(InputError, match="no cell was measured on that machine"):
        predictor(cells_of(fast), step(4), "machine-0.5")
    with pytest.raises(InputError, match="of 2 machines; name one"):
        predictor(cells_of([*fast, *slow]), step(4), None)


def test_too_few_cells_are_refused(law: Law, step: Step) -> None:
    """A fit of seven coefficients a part wants more."""
    with pytest.raises(InputError, match="a fit needs 8 cells"):
        predictor(cells_of(law()[: LEAST_CELLS - 1]), step(), None)


def test_a_fleet_is_derived_and_tensor_parallelism_refused(law: Law, step: Step) -> None:
    """Tokens a second add up where nobody waits; a model that does not fit into one machine is not split."""
    found = predictor(cells_of(law()), step(2), None).predict(step(2))
    check_fleet(step(2), 4, 1e12)
    fleet = fleet_of(found, 4, 1)
    assert fleet.tokens_per_s == pytest.approx(4e9 / found.step_ns)
    assert fleet.bytes_each == found.weight_bytes + found.cache_bytes
    assert fleet.low_tokens_per_s is not None
    assert fleet.high_tokens_per_s is not None
    assert fleet.low_tokens_per_s <= fleet.tokens_per_s <= fleet.high_tokens_per_s
    with pytest.raises(InputError, match=r"tensor parallelism\) is refused: no ceiling of an all-reduce"):
        check_fleet(step(2), 4, 1e6)
    with pytest.raises(InputError, match="--fleet 0"):
        check_fleet(step(2), 0, None)


def test_bytes_are_those_of_the_shape() -> None:
    """Llama-3.1-70B in bfloat16 with 64 sequences of 131,072 positions: 141 GB of weights, 2.7 TB of cache."""
    name, shape = shape_named("llama-3.1-70b", None)
    found = Subject(name, shape, 64, 131_071, Way("transformers", "bfloat16", "cuda", 1, GREEDY))
    assert found.weight_bytes == 2 * 70_553_706_496
    assert found.cache_bytes == 64 * 131_072 * 80 * 2 * 8 * 128 * 2


def test_a_stored_run_becomes_a_cell() -> None:
    """Its parts and what lies between them add up to the unmarked step; its ceilings are those of its rounds."""
    from perstep.predicting import cells

    found = cells._read(GOLDEN / "ledger")
    assert isinstance(found, Cell), found
    assert sum(found.parts_ns.values()) == pytest.approx(found.step_ns)
    assert RESIDUAL in found.parts_ns
    assert found.subject.name == "mini, 4 layers, batch 1, context 10"
    assert found.subject.way.words == "reference, float32, cpu, 1 thread, greedy"
    assert found.speed.host.peak_flops["float32"] == pytest.approx(found.figures.gemm_gflop_s * 1e9)
    assert cells._read(GOLDEN / "mask") == "no complete ledger run"


def test_a_folder_without_ledger_runs_is_refused(tmp_path: Path) -> None:
    """With what to give."""
    with pytest.raises(InputError, match="no ledger run in"):
        read_cells(tmp_path)


def test_ceilings_of_a_machine_are_pooled_over_its_cells(law: Law) -> None:
    """Medians by size; calls after a set that was not timed take what the nearest one has."""
    one, two, three = (replace(cell, figures=replace(cell.figures, gemm_gflop_s=rate)) for cell, rate in
                       zip(law()[:3], (90.0, 100.0, 500.0), strict=True))  # fmt: skip
    two = replace(two, figures=replace(two.figures, call_ns={0: 500.0, 1 << 20: 700.0}))
    pooled = machine_speed([one, two, three]).host
    assert pooled.peak_flops["float32"] == 100e9
    assert pooled.call_overhead_ns == 500.0
    assert machine_speed([two]).host.level_for(1 << 40).call_ns == 700.0


LAUNCH_NS, KERNEL_NS, EXPOSED = 4_000.0, 1_500.0, 0.25


def on_device(what: Subject) -> Cell:
    """What a machine with a device would measure: the host calls, the device reads and multiplies, and they overlap."""
    way = Way("transformers", "bfloat16", "cuda", 1, GREEDY)
    what = replace(what, way=way)
    figures = DeviceSpeed(3e12, 600e12, KERNEL_NS, LAUNCH_NS)
    layers = what.shape.num_layers
    found = features(what, speed_of(figures, "bfloat16"), ["device/mlp", "device/lm_head"])
    parts = {
        "mlp": layers * 12 * LAUNCH_NS,
        "bookkeeping": 30 * LAUNCH_NS,
        "device/mlp": 1.4 * found["device/mlp"]["roofline"] + 3 * layers * KERNEL_NS,
        "device/lm_head": 1.2 * found["device/lm_head"]["roofline"] + KERNEL_NS,
    }
    host, device = sides_ns(parts)
    step_ns = max(host, device) + EXPOSED * min(host, device)
    name = f"{what.name}.1"
    return Cell(name, what, "m", "a processor, a device", figures, step_ns, parts, 0.01, "2026-01-01T00:00:00+00:00")


def test_host_and_device_are_predicted_apart_and_overlap(step: Step) -> None:
    """A host that launches slowly and a device that works long: which of the two bounds a step is found, and both."""
    batches = (1, 4096)
    cells = [on_device(step(arch, layers=n, batch=b)) for arch in range(8) for n in (2, 6) for b in batches]
    assert {sides_ns(cell.parts_ns)[0] > sides_ns(cell.parts_ns)[1] for cell in cells} == {True, False}
    fit = fit_cells(cells, own_speeds(cells))
    assert fit.exposed == pytest.approx(EXPOSED, rel=0.01)
    assert fit.parts["bookkeeping"] == pytest.approx({"per_step": 30.0}, rel=0.01)
    for batch in batches:
        truth = on_device(step(4, layers=3, batch=batch))
        found = predictor(cells_of(cells), truth.subject, None).predict(truth.subject)
        assert found.status == PREDICTED
        assert (found.host_ns, found.device_ns) == pytest.approx(sides_ns(truth.parts_ns), rel=0.02)
        assert found.step_ns == pytest.approx(truth.step_ns, rel=0.02)
        assert found.step_ns < found.host_ns + found.device_ns


def test_a_stored_run_on_a_device_has_both_sides() -> None:
    """The host does not wait in its parts, and the device's are those of its kernels."""
    findings = json.loads((GOLDEN / "ledger" / "results.json").read_text())
    decode = msgspec.convert(findings["decode"], Ledger)
    part = PartWork(busy_ns=7.0, share=1.0, ci_low=None, ci_high=None, sum_ns=7.0, launches=2.0)
    work = DeviceWork(
        kind="decode", rounds=3, steps=9, positions=3, parts={"mlp": part}, busy_ns=7.0, step_ns=9.0, idle_ns=2.0,
        idle_ci_low=None, idle_ci_high=None, busy_share=0.8, share_ci_low=None, share_ci_high=None, launches=2.0,
        bound="", total_ns=9,
    )  # fmt: skip
    waiting = replace_part(decode, "stop", "sync")
    parts = _parts(waiting, decode.step_ns, work)
    assert parts["device/mlp"] == 7.0
    assert "sync" not in parts
    assert parts["mlp"] == pytest.approx(decode.parts["mlp"].ns)


def replace_part(ledger: Ledger, old: str, new: str) -> Ledger:
    """The ledger with a part called otherwise."""
    return msgspec.structs.replace(ledger, parts={new if n == old else n: part for n, part in ledger.parts.items()})
