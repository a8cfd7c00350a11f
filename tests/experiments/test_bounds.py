"""Bounds from measured ceilings: which level a set takes, and what parts of transformers models hold of theory's."""

import json
from math import ceil

import pytest

from perstep.data import mini_path
from perstep.experiments.bounds import backend_for, config_of, ladder_for, rates_from, shape_of
from perstep.experiments.ledger_bounds import FUSED, bounds_of, step_costs
from perstep.machine import LadderFigures
from perstep.runs import Manifest
from perstep.targets import open_model
from perstep.theory import PARTS, REFERENCE, ModelShape, decode, prefill, step_bound, step_cost

FIGURES = LadderFigures(
    read_gb_s={262_144: 60.0, 1_000_000: 40.0, 4_000_000: 20.0},
    call_ns={0: 500.0, 262_144: 600.0, 1_000_000: 1000.0},
    gemm_gflop_s=100.0,
    vector_g_s=5.0,
    special_g_s=2.0,
    rounds=3,
)
ROUND = {
    **{f"read.{size}@1 m": value for size, value in FIGURES.read_gb_s.items()},
    **{f"call.{size}@1 m": value for size, value in FIGURES.call_ns.items()},
    "gemm@1 m": 100.0,
    "vector@1 m": 5.0,
    "special@1 m": 2.0,
}


def mini_config() -> dict[str, object]:
    """As the folder has it."""
    return json.loads((mini_path() / "config.json").read_text())


def test_the_built_in_decoder_has_the_shape_of_its_folder() -> None:
    """What the manifest holds describes the same model as config.json."""
    assert shape_of(config_of(open_model("mini"))) == ModelShape.from_config(mini_config())


def test_what_theory_cannot_count_has_no_shape() -> None:
    """No bound rather than a wrong one."""
    assert shape_of({"model_type": "mamba"}) is None


def test_a_set_takes_the_figure_of_the_nearest_size() -> None:
    """By ratio: from 262,144 to 1,000,000 half-way is 512,000. A call costs what it does after at least as much."""
    rates = rates_from(FIGURES, "float32")
    assert [rates.level_for(size).bytes_per_s for size in (1, 512_000, 512_001, 1_000_001, 2_000_001, 10**12)] == [
        60e9, 60e9, 40e9, 40e9, 20e9, 20e9,
    ]  # fmt: skip
    assert [rates.level_for(size).call_ns for size in (262_144, 262_145, 600_000)] == [600.0, 1000.0, 1000.0]
    assert rates.level_for(10**12).call_ns is None
    assert (rates.dispatch_ns, rates.vector_flops, rates.special_functions) == (500.0, 5e9, 2e9)


def test_bandwidth_is_measured_at_the_footprints_themselves() -> None:
    """Of the shortest and the longest step and of their layers, with every octave between."""
    shape = ModelShape.from_config(mini_config())
    costs = [step_cost(shape, decode(S), backend=REFERENCE) for S in (8, 512)]
    ladder = ladder_for(costs, library="numpy", threads=1)
    sizes = {size // 64 * 64 for cost in costs for size in (cost.resident_bytes, ceil(cost.layer_bytes))}
    assert sizes <= set(ladder.sizes)
    assert {256 << 10, 512 << 10, 1 << 20, 2 << 20} <= set(ladder.sizes)


def test_nobody_has_counted_the_calls_of_a_mixture() -> None:
    """Its bound is of bytes and arithmetic alone."""
    mixture = ModelShape.from_config({**mini_config(), "model_type": "mixtral", "num_local_experts": 4})
    assert backend_for(REFERENCE, mixture).calls == {}
    assert backend_for(REFERENCE, ModelShape.from_config(mini_config())) is REFERENCE


def ledger_manifest(backend: str = "reference") -> Manifest:
    """Of a run over mini: a prompt of 20, one prefill and 9 decode steps."""
    return Manifest(
        experiment="ledger",
        plan={},
        workload={"prompt_tokens": 20, "new_tokens": 10, "batch": 1},
        conditions={"bounds": {"config": mini_config(), "backend": backend, "dtype": "float32"}},
    )


def test_each_part_has_the_bound_of_its_name() -> None:
    """The mean over the contexts of the trace; what has no formula has none, and the step is their sum."""
    parts = {"decode": [*PARTS, "stop"], "prefill": list(PARTS)}
    found, figures = bounds_of(ledger_manifest(), [ROUND, {}, ROUND], parts)
    assert figures is not None
    assert "stop" not in found["decode"].parts
    assert "attn.mask.build" not in found["decode"].parts
    assert sum(part.bound_ns for part in found["decode"].parts.values()) == pytest.approx(found["decode"].step_ns)
    shape, rates = ModelShape.from_config(mini_config()), rates_from(figures, "float32")
    expected = step_bound(step_cost(shape, prefill(20), backend=REFERENCE), rates)
    assert found["prefill"].parts["mlp"].bound_ns == pytest.approx(expected.parts["mlp"].bound_ns)
    assert found["prefill"].parts["mlp"].binds == expected.parts["mlp"].binds


def test_parts_of_transformers_models_hold_several_of_theory() -> None:
    """Scores to weighted sum are one part there; together they hold every part of the forward once."""
    parts = {"decode": ["embed", "norm", "attn", "attn.rope", "kv.append", "attn.core", "mlp", "lm_head", "sample"]}
    found, _ = bounds_of(ledger_manifest("transformers"), [ROUND], parts)
    assert sum(part.bound_ns for part in found["decode"].parts.values()) == pytest.approx(found["decode"].step_ns)
    whole, _ = bounds_of(ledger_manifest("transformers"), [ROUND], {"decode": ["forward", "sample"]})
    assert sum(part.bound_ns for part in whole["decode"].parts.values()) == pytest.approx(whole["decode"].step_ns)
    assert set().union(*FUSED.values()) <= set(PARTS)


@pytest.mark.parametrize("rounds", [[], [{}], [{"gemm@1 m": 1.0}]])
def test_a_run_without_ceilings_has_no_bounds(rounds: list[dict[str, float]]) -> None:
    """As those of older versions."""
    assert bounds_of(ledger_manifest(), rounds, {"decode": ["mlp"]}) == ({}, None)
    bare = ledger_manifest()
    del bare.conditions["bounds"]
    assert bounds_of(bare, [ROUND], {"decode": ["mlp"]}) == ({}, None)


def test_a_long_trace_is_judged_at_sixteen_contexts() -> None:
    """From its first to its last step."""
    costs = step_costs(ledger_manifest().conditions["bounds"], prompt_tokens=20, new_tokens=1000, batch=1)
    assert (len(costs["prefill"]), len(costs["decode"])) == (1, 16)
    assert [cost.step.past for cost in (costs["decode"][0], costs["decode"][-1])] == [20, 1018]
    assert list(step_costs(ledger_manifest().conditions["bounds"], prompt_tokens=20, new_tokens=1, batch=1)) == [
        "prefill"
    ]
