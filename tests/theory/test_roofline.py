"""Bounds: known answers for each term, and where bytes come from."""

from dataclasses import replace
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.theory import (
    IDEAL,
    REFERENCE,
    Cost,
    Level,
    Precision,
    Rates,
    binding_terms,
    decode,
    part_bound,
    prefill,
    read_config,
    roofline_ns,
    step_bound,
    step_cost,
)

L2, L3, MEMORY = Level("l2", 100e9, 1 << 20), Level("l3", 50e9, 32 << 20), Level("memory", 10e9)
RATES = Rates((L2, L3, MEMORY), {"float32": 100e9}, call_overhead_ns=500)
TINY = read_config(
    {
        "model_type": "llama",
        "vocab_size": 500,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
)


def test_arithmetic_binds() -> None:
    """1,000,000 FLOPs at 100 GFLOP/s are 10 us; 1,000 bytes at 10 GB/s only 0.1; two calls add 1 us."""
    bound = part_bound(Cost(matmul_flops=1_000_000, weight_bytes=1000, calls=2), RATES, "float32", MEMORY)
    assert (bound.compute_ns, bound.bandwidth_ns, bound.call_overhead_ns) == (10_000, 100, 1000)
    assert (bound.bound_ns, bound.binds) == (11_000, "compute")


def test_bandwidth_binds_at_the_level_the_weights_come_from() -> None:
    """1 MB from memory at 10 GB/s is 100 us, from L3 at 50 GB/s 20."""
    cost = Cost(matmul_flops=1000, weight_bytes=1_000_000)
    assert part_bound(cost, RATES, "float32", MEMORY).binds == "bandwidth@memory"
    assert part_bound(cost, RATES, "float32", MEMORY).bound_ns == pytest.approx(100_000)
    assert part_bound(cost, RATES, "float32", L3).bound_ns == pytest.approx(20_000)


def test_activations_come_from_where_their_own_working_set_fits() -> None:
    """Eight occurrences of 0.5 MB are read from L2, though 4 MB in all would not fit; one of 4 MB from L3."""
    small = Cost(activation_read_bytes=4_000_000, working_set_bytes=500_000)
    assert part_bound(small, RATES, "float32", MEMORY).binds == "bandwidth@l2"
    large = replace(small, working_set_bytes=4_000_000)
    assert part_bound(large, RATES, "float32", MEMORY).bound_ns == pytest.approx(80_000)
    assert part_bound(large, RATES, "float32", MEMORY).binds == "bandwidth@l3"


def test_calls_bind_what_is_tiny() -> None:
    """Three calls of 500 ns against a few hundred bytes."""
    bound = part_bound(Cost(vector_flops=512, activation_read_bytes=512, calls=3), RATES, "float32", MEMORY)
    assert (bound.binds, bound.call_overhead_ns) == ("call overhead", 1500)


def test_calls_are_cold_where_a_layer_lies_far() -> None:
    """What came since the last call like it is a layer, not the step; where that is near, calls are hot."""
    cost = Cost(calls=12)
    assert part_bound(cost, RATES, "float32", MEMORY).call_overhead_ns == 6000
    assert part_bound(cost, RATES, "float32", MEMORY, 1500).call_overhead_ns == 18_000
    cold = replace(RATES, levels=(L2, replace(L3, call_ns=4000), MEMORY))
    hot, many = step_cost(TINY, decode(1024), backend=REFERENCE), step_cost(TINY, decode(4096), backend=REFERENCE)
    assert (step_bound(hot, cold).level, hot.resident_bytes / 2 < 1 << 20) == ("l3", True)
    assert step_bound(hot, cold) == step_bound(hot, RATES)
    assert many.resident_bytes / 2 > 1 << 20
    slow, fast = (step_bound(many, rates).parts["norm"] for rates in (cold, RATES))
    assert slow.call_overhead_ns == 8 * fast.call_overhead_ns


def test_vectors_and_special_functions_have_rates_of_their_own() -> None:
    """They count when their rates are known, and add to the products."""
    cost = Cost(matmul_flops=100_000, vector_flops=10_000, special_functions=1000)
    assert part_bound(cost, RATES, "float32", L2).compute_ns == 1000
    known = replace(RATES, vector_flops=10e9, special_functions=1e9)
    assert part_bound(cost, known, "float32", L2).compute_ns == pytest.approx(1000 + 1000 + 1000)


def test_every_term_that_may_be_the_largest_within_the_intervals_is_named() -> None:
    """Reading takes 100 to 125 µs. Products of 90 bind never, of 90 to 110 perhaps, of 130 always."""
    cost = Cost(matmul_flops=9_000_000, weight_bytes=1_000_000)

    def terms(least_us: float, typical_us: float) -> tuple[str, ...]:
        ends = ((Level("far", 10e9), least_us), (Level("far", 8e9), typical_us))
        rates = [Rates((level,), {"float32": 9e12 / us}) for level, us in ends]
        return binding_terms(*(part_bound(cost, each, "float32", each.levels[0]) for each in rates))

    assert terms(90, 90) == ("bandwidth@far",)
    assert terms(90, 110) == ("bandwidth@far", "compute")
    assert terms(110, 110) == ("compute", "bandwidth@far")
    assert terms(130, 140) == ("compute",)


def test_the_roofline_of_a_part_is_what_nothing_can_be_faster_than() -> None:
    """0.5 MB of weights from L2, as if alone there: 5 µs; 1,000,000 FLOPs 10. Calls and the rest do not count."""
    cost = Cost(weight_bytes=500_000, cache_read_bytes=0, calls=9, packed_bytes=9e9, special_functions=10**9)
    assert roofline_ns(cost, RATES, "float32") == pytest.approx(5_000)
    assert roofline_ns(replace(cost, matmul_flops=1_000_000), RATES, "float32") == pytest.approx(10_000)
    assert roofline_ns(replace(cost, cache_read_bytes=500_000, cache_write_bytes=1_000_000), RATES, "float32") == (
        pytest.approx(2_000_000 / 50)
    )  # 2 MB from L3


def test_packing_comes_before_the_products() -> None:
    """1 MB read and written at 20 GB/s takes 100 µs, beside 10 µs of products it cannot overlap with."""
    level = Level("memory", 20e9)
    bound = part_bound(Cost(matmul_flops=1_000_000, packed_bytes=2_000_000), RATES, "float32", level)
    assert (bound.packing_ns, bound.bound_ns, bound.binds) == (100_000, 110_000, "BLAS packing")


def test_a_step_finds_its_weights_where_its_footprint_fits() -> None:
    """A model of 0.5 MB lives in L2 until its cache has grown; then everything comes from L3."""
    costs = [step_cost(TINY, decode(context)) for context in (8, 1024)]
    short, long = (step_bound(cost, RATES) for cost in costs)
    assert (short.level, long.level) == ("l2", "l3")
    assert costs[0].resident_bytes < 1 << 20 < costs[1].resident_bytes
    assert short.parts["lm_head"].bandwidth_ns < long.parts["lm_head"].bandwidth_ns


def test_the_footprint_counts_what_a_step_touches() -> None:
    """Weights, cache, working set; of an untied table only the rows looked up, of experts all."""
    cost = step_cost(TINY, decode(9))
    weights = 4 * (2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64 + 500 * 64 + 64)
    assert cost.resident_bytes == weights + 10 * 2 * 2 * 64 * 4 + max(
        part.working_set_bytes for part in cost.parts.values()
    )
    assert cost.layer_bytes == (cost.resident_bytes - 4 * 500 * 64) / 2
    tied = step_cost(replace(TINY, tied=True), decode(9))
    assert tied.resident_bytes == cost.resident_bytes - 4 * 64
    layer = TINY.layers[0]
    mixture = replace(layer, mlp=replace(layer.mlp, experts=10, active=2))
    grown = step_cost(replace(TINY, layers=(mixture, mixture)), decode(9))
    assert grown.resident_bytes - cost.resident_bytes > 4 * 2 * 9 * 3 * 64 * 128


def test_a_step_is_the_sum_of_its_parts() -> None:
    """Parts run one after another; each is the larger of two terms and its calls."""
    bound = step_bound(step_cost(TINY, decode(100), backend=REFERENCE), RATES)
    assert bound.bound_ns == pytest.approx(sum(part.bound_ns for part in bound.parts.values()))
    for part in bound.parts.values():
        assert part.bound_ns == max(part.compute_ns, part.bandwidth_ns) + part.packing_ns + part.call_overhead_ns
    assert sum(part.call_overhead_ns for part in bound.parts.values()) == 500 * (2 * 26 + 3 + 1 + 1 + 1)


def test_a_prefill_is_bound_by_arithmetic_and_a_decode_step_by_bytes() -> None:
    """Intensity of N tokens is N / 2 FLOPs a byte of float32 weights (Pope et al. 2022)."""
    slow = Rates((Level("memory", 10e9),), {"float32": 100e9})
    assert step_bound(step_cost(TINY, decode(8), backend=IDEAL), slow).parts["mlp"].binds == "bandwidth@memory"
    assert step_bound(step_cost(TINY, prefill(512), backend=IDEAL), slow).parts["attn.qkv"].binds == "compute"


def test_products_are_bound_by_the_peak_of_their_dtype() -> None:
    """A missing dtype is named, with those there are."""
    with pytest.raises(InputError, match="no peak FLOP/s for bfloat16, only for float32"):
        step_bound(step_cost(TINY, decode(8), Precision.all("bfloat16")), RATES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": ()},
        {"levels": (L2,)},
        {"levels": (L3, L2, MEMORY)},
        {"levels": (MEMORY, L2)},
        {"levels": (MEMORY, MEMORY)},
        {"peak_flops": {"float32": 0}},
        {"call_overhead_ns": -1},
        {"vector_flops": 0},
    ],
)
def test_bad_rates_are_refused(wrong: dict[str, Any]) -> None:
    """Levels out of order, rates of nothing."""
    with pytest.raises(InputError):
        replace(RATES, **wrong)


def test_a_level_without_bandwidth_is_refused() -> None:
    """By its name."""
    with pytest.raises(InputError, match="level l9"):
        Level("l9", 0)
