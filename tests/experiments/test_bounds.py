"""Bounds from measured ceilings: which level a set takes, and what parts of transformers models hold of theory's."""

import json
import re
from dataclasses import replace
from math import ceil

import msgspec
import numpy as np
import pytest

from perstep.data import mini_path
from perstep.experiments.bounds import (
    BEATEN,
    EXCEEDED,
    backend_for,
    rates_between,
    rates_from,
    sweep_for,
)
from perstep.experiments.ledger.bounds import FUSED, LedgerBounds, bounds_of, columns_of, step_costs
from perstep.experiments.ledger.samples import Bounded, Workload
from perstep.machine import SweepCeilings, SweepFigures
from perstep.measure import Ledger, LedgerSamples, build_ledger
from perstep.targets import open_model
from perstep.theory import PARTS, REFERENCE, decode, prefill, read_config, shape_of, step_bound, step_cost

from ..conftest import facts

FIGURES = SweepFigures(
    read_gb_s={262_144: 60.0, 1_000_000: 40.0, 4_000_000: 20.0},
    call_ns={0: 500.0, 262_144: 600.0, 1_000_000: 1000.0},
    gemm_gflop_s=100.0,
    vector_g_s=5.0,
    special_g_s=2.0,
    rounds=3,
)
CEILINGS = SweepCeilings(typical=FIGURES, best=FIGURES, rounds=3, quiet_rounds=3)


def mini_config() -> dict[str, object]:
    """As the folder has it."""
    return json.loads((mini_path() / "config.json").read_text())


def test_the_built_in_decoder_has_the_shape_of_its_folder() -> None:
    """What the manifest holds describes the same model as config.json."""
    assert shape_of(open_model("mini").config) == read_config(mini_config())


def test_what_theory_cannot_count_has_no_shape() -> None:
    """No bound rather than a wrong one."""
    assert shape_of({"model_type": "mamba"}) is None


def test_a_set_takes_the_figure_of_the_nearest_size() -> None:
    """By ratio: from 262,144 to 1,000,000 half-way is 512,000. A call costs what it does after at least as much."""
    rates = rates_from(FIGURES, "float32")
    assert [rates.level_for(size).bytes_per_s for size in (1, 512_000, 512_001, 1_000_001, 2_000_001, 10**12)] == [
        60e9, 60e9, 40e9, 40e9, 20e9, 20e9,
    ]  # fmt: skip
    assert {level.call_ns for each in rates_between(CEILINGS, "float32") for level in each.levels} == {None}  # hot
    assert [rates.level_for(size).call_ns for size in (262_144, 262_145, 600_000)] == [600.0, 1000.0, 1000.0]
    assert rates.level_for(10**12).call_ns is None
    assert (rates.call_overhead_ns, rates.vector_flops, rates.special_functions) == (500.0, 5e9, 2e9)


def test_however_badly_products_were_timed_a_matrix_vector_product_is_bound_by_bandwidth() -> None:
    """A machine that reads 60 GB/s in such products does 30 GFLOP/s, whatever a disturbed product of matrices says."""
    disturbed = replace(FIGURES, gemm_gflop_s=4.0)
    best, typical = rates_between(replace(CEILINGS, typical=disturbed, best=disturbed), "float32")
    assert best.peak_flops == typical.peak_flops == {"float32": 30e9}
    assert rates_between(CEILINGS, "float32")[0].peak_flops == {"float32": 100e9}
    shape = read_config(mini_config())
    for head in (step_bound(step_cost(shape, decode(64)), each).parts["lm_head"] for each in (best, typical)):
        assert head.binds.startswith("bandwidth@")


def test_bandwidth_is_measured_at_the_footprints_themselves() -> None:
    """Of the shortest and the longest step and of their layers, with every octave between."""
    shape = read_config(mini_config())
    costs = [step_cost(shape, decode(S), backend=REFERENCE) for S in (8, 512)]
    sweep = sweep_for(costs, library="numpy", threads=1)
    sizes = {size // 64 * 64 for cost in costs for size in (cost.resident_bytes, ceil(cost.layer_bytes))}
    assert sizes <= set(sweep.sizes)
    assert {256 << 10, 512 << 10, 1 << 20, 2 << 20} <= set(sweep.sizes)


def test_nobody_has_counted_the_calls_of_a_mixture() -> None:
    """Its bound is of bytes and arithmetic alone."""
    mixture = read_config({**mini_config(), "model_type": "mixtral", "num_local_experts": 4})
    assert backend_for(REFERENCE, mixture).calls == {}
    assert backend_for(REFERENCE, read_config(mini_config())) is REFERENCE


WORK = msgspec.convert(facts("ledger", "workload", prompt_tokens=20, new_tokens=10), Workload)
"""Of a run over mini: a prompt of 20, one prefill and 9 decode steps."""


def over_mini(backend: str = "reference") -> Bounded:
    """What the bounds of that run are made of."""
    return Bounded(mini_config(), backend, "float32")


def ledgers(slowness: float = 10.0, **parts: float) -> dict[str, Ledger]:
    """Decode and prefill of mini, each part so many times as slow as its bound, or as told, in 1,000 ns steps."""
    rates, _ = rates_between(CEILINGS, "float32")
    costs = step_costs(over_mini(), prompt_tokens=20, new_tokens=10, batch=1)
    made = {}
    for kind, steps in costs.items():
        bounds = [step_bound(cost, rates).parts for cost in steps]
        mean = {name: sum(each[name].bound_ns for each in bounds) / len(bounds) for name in bounds[0]}
        ns = {name: np.full((6, 2, 3), round(mean.get(name, 500.0) * parts.get(name.replace(".", "_"), slowness)))
              for name in [*mean, "stop"]}  # fmt: skip
        residual = np.full((6, 2, 3), 100)
        step = sum(ns.values(), start=residual)
        made[kind] = build_ledger(kind, LedgerSamples(step, step, ns, residual, dict.fromkeys(ns, 1.0)), mark_ns=0.0)
    return made


def test_each_part_has_the_bound_of_its_name() -> None:
    """The mean over the contexts of the trace; what has no formula has none, and the step is their sum."""
    found = bounds_of(over_mini(), WORK, CEILINGS, ledgers())
    assert "stop" not in found["decode"].parts
    assert "attn.mask.build" not in found["decode"].parts
    held = [part.bound_ns or 0.0 for part in found["decode"].parts.values()]
    assert sum(held) == pytest.approx(found["decode"].step_ns)
    shape, (rates, _) = read_config(mini_config()), rates_between(CEILINGS, "float32")
    expected = step_bound(step_cost(shape, prefill(20), backend=REFERENCE), rates)
    assert found["prefill"].parts["mlp"].bound_ns == pytest.approx(expected.parts["mlp"].bound_ns)
    assert found["prefill"].parts["mlp"].binds == expected.parts["mlp"].binds
    assert found["decode"].withdrawn == []


def test_a_bound_is_of_the_best_round_and_tells_what_it_is_at_the_median() -> None:
    """Twice as fast in the best round: half the time, and 100 % more at the medians."""
    best = SweepFigures(
        {size: 2 * value for size, value in FIGURES.read_gb_s.items()},
        {size: value / 2 for size, value in FIGURES.call_ns.items()},
        200.0, 10.0, 4.0, 3,
    )  # fmt: skip
    found = bounds_of(over_mini(), WORK, replace(CEILINGS, best=best), ledgers())["decode"]
    assert found.interval == pytest.approx(1.0)
    for part in found.parts.values():
        assert part.bound_ns == pytest.approx((part.typical_ns or 0) / 2)
    assert columns_of({"decode": found})["decode"].notes == [
        "Bounds use the best round of each ceiling. With the median rounds they would be up to 100.0 % higher.",
        "Call overhead is the time that calling the library's functions takes.",
    ]


def withdrawn(found: LedgerBounds, reason: str) -> set[str]:
    """Parts whose bound is gone; nothing of it may be left."""
    gone = {name: part for name, part in found.parts.items() if part.withdrawn}
    assert all((p.bound_ns, p.typical_ns, p.binds, p.withdrawn) == (None, None, "", reason) for p in gone.values())
    return set(gone)


@pytest.mark.parametrize(
    ("part", "binds"), [("attn.rope", "call overhead"), ("kv.append", "call overhead"), ("mlp", "bandwidth@")]
)
def test_a_part_that_is_faster_than_its_bound_has_none(part: str, binds: str) -> None:
    """A call is the mean of four, and data may be nearer than thought: that says nothing of others."""
    every = bounds_of(over_mini(), WORK, CEILINGS, ledgers())["decode"]
    assert every.parts[part].binds.startswith(binds)
    found = bounds_of(over_mini(), WORK, CEILINGS, ledgers(**{part.replace(".", "_"): 0.9}))["decode"]
    assert withdrawn(found, BEATEN) == {part}
    assert found.step_ns == pytest.approx((every.step_ns or 0) - (every.parts[part].bound_ns or 0))
    columns = columns_of({"decode": found})["decode"]
    assert (columns.parts_ns[part], columns.binds[part]) == (None, "faster than its bound; not judged")
    assert (
        columns.notes[-1] == f"Faster than the bound, because data were nearer or calls cheaper than assumed: {part}."
    )


def test_a_part_that_is_faster_than_the_ceilings_withdraws_them() -> None:
    """The head reads its 256 KiB in half of the time that takes at best: no part has a bound, nor has the step."""
    found = bounds_of(over_mini(), WORK, CEILINGS, ledgers(lm_head=0.1))["decode"]
    assert withdrawn(found, EXCEEDED) == set(found.parts) > {"mlp", "norm"}
    assert found.step_ns is None
    [sentence] = found.withdrawn
    assert re.fullmatch(
        r"Bounds: ceilings exceeded; not judged: lm_head took [\d.]+ µs, less than the minimum of 4\.37 µs\.", sentence
    ), sentence  # 512 x 128 numbers of 4 bytes at 60 GB/s
    columns = columns_of({"decode": found})["decode"]
    assert (set(columns.parts_ns.values()), columns.notes) == ({None}, [sentence])


def test_a_step_that_is_faster_than_its_bounds_together_withdraws_the_ceilings() -> None:
    """As gpt2's, at 0.56 of the least time it could take: no bound is left beside it."""
    fast = {kind: msgspec.structs.replace(each, plain_step_ns=1000.0) for kind, each in ledgers().items()}
    found = bounds_of(over_mini(), WORK, CEILINGS, fast)["decode"]
    assert found.step_ns is None
    assert withdrawn(found, EXCEEDED) == set(found.parts)
    assert found.withdrawn[0].startswith(
        "Bounds: ceilings exceeded; not judged: the step took 1.00 µs, less than the minimum of "
    )


def test_parts_of_transformers_models_hold_several_of_theory() -> None:
    """Scores to weighted sum are one part there; together they hold every part of the forward once."""
    one = ledgers()["decode"]

    def of(*names: str) -> dict[str, Ledger]:
        return {"decode": msgspec.structs.replace(one, parts=dict.fromkeys(names, one.parts["mlp"]))}

    parts = ("embed", "norm", "attn", "attn.rope", "kv.append", "attn.core", "mlp", "lm_head", "sample")
    for names in (parts, ("forward", "sample")):
        found = bounds_of(over_mini("transformers"), WORK, CEILINGS, of(*names))["decode"]
        assert sum(part.bound_ns or 0 for part in found.parts.values()) == pytest.approx(found.step_ns)
    assert set().union(*FUSED.values()) <= set(PARTS)


def test_a_run_without_ceilings_has_no_bounds_nor_has_one_whose_ceilings_were_disturbed() -> None:
    """Runs on a device, and rounds in which the processor was taken away."""
    assert bounds_of(over_mini(), WORK, None, ledgers()) == {}
    assert bounds_of(over_mini(), WORK, replace(CEILINGS, quiet_rounds=2), ledgers()) == {}
    assert bounds_of(Bounded(), WORK, CEILINGS, ledgers()) == {}


def test_a_long_trace_is_judged_at_sixteen_contexts() -> None:
    """From its first to its last step."""
    costs = step_costs(over_mini(), prompt_tokens=20, new_tokens=1000, batch=1)
    assert (len(costs["prefill"]), len(costs["decode"])) == (1, 16)
    assert [cost.step.past for cost in (costs["decode"][0], costs["decode"][-1])] == [20, 1018]
    assert list(step_costs(over_mini(), prompt_tokens=20, new_tokens=1, batch=1)) == ["prefill"]
