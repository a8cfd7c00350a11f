"""What a step costs: known answers and bad input."""

from dataclasses import replace
from itertools import combinations, product

import pytest

from perstep.errors import InputError
from perstep.theory import (
    IDEAL,
    REFERENCE,
    TRANSFORMERS,
    TRANSFORMERS_STATIC,
    Cost,
    Layer,
    Mlp,
    ModelShape,
    Norm,
    Precision,
    Step,
    decode,
    expected_experts,
    num_scores,
    prefill,
    read_config,
    step_cost,
)

LLAMA_2_7B = read_config(
    {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    }
)
FLOPS = ("matmul_flops", "vector_flops", "special_functions")
BYTES = ("weight_bytes", "cache_read_bytes", "cache_write_bytes", "activation_read_bytes", "activation_write_bytes")


def test_llama_2_7b_decodes_with_two_flops_a_weight() -> None:
    """2 x 6,607,077,376 for the products with weights, and 4 x 32 layers x 4,096 x 2,048 positions for attention."""
    total = step_cost(LLAMA_2_7B, decode(2047), Precision.all("float16")).total
    assert total.matmul_flops == 13_214_154_752 + 1_073_741_824
    assert total.weight_bytes == 2 * (6_607_077_376 + 65 * 4096 + 4096)  # products, norms, one row of the table
    assert total.cache_read_bytes == 2047 * 524_288
    assert total.cache_write_bytes == 524_288


def test_a_prefill_reads_the_weights_once() -> None:
    """As many bytes of weights for 512 tokens as for one, but for the rows of the table."""
    one, many = step_cost(LLAMA_2_7B, decode(0)), step_cost(LLAMA_2_7B, prefill(512))
    for part in one.parts:
        if part != "embed":
            assert one.parts[part].weight_bytes == many.parts[part].weight_bytes
    assert many.parts["embed"].weight_bytes == 512 * one.parts["embed"].weight_bytes


def test_attention_of_a_prefill_is_that_of_kaplan() -> None:
    """2 x layers x context x width a token on average (Kaplan et al. 2020, table 1), masked scores left out."""
    parts = step_cost(LLAMA_2_7B, prefill(1000)).parts
    attention = parts["attn.scores"].matmul_flops + parts["attn.pv"].matmul_flops
    assert attention == 1000 * (2 * 32 * 1001 * 4096)


def test_masked_scores_double_a_long_prefill() -> None:
    """T x T products against T (T + 1) / 2."""
    assert num_scores(prefill(1000), None, REFERENCE) == 1_000_000
    assert num_scores(prefill(1000), None, IDEAL) == 500_500


@pytest.mark.parametrize("past", [0, 3, 9])
@pytest.mark.parametrize("window", [None, 1, 5, 40])
def test_scores_are_those_that_the_mask_lets_through(past: int, window: int | None) -> None:
    """Counted one by one: query i sees position j if j <= past + i and, with a window, j > past + i - window."""
    seen = sum(
        1 for i in range(12) for j in range(past + i + 1) if window is None or j > past + i - window
    )  # fmt: skip
    assert num_scores(prefill(12, past=past), window, IDEAL) == seen


@pytest.mark.parametrize(("experts", "active", "tokens"), [(4, 2, 1), (4, 2, 2), (5, 1, 3), (3, 3, 2), (4, 3, 3)])
def test_expected_experts_are_the_mean_over_all_routings(experts: int, active: int, tokens: int) -> None:
    """Every combination of choices, counted; 4 experts, 2 active, 2 tokens: 3."""
    choices = list(combinations(range(experts), active))
    routings = list(product(choices, repeat=tokens))
    mean = sum(len(set().union(*routing)) for routing in routings) / len(routings)
    assert expected_experts(experts, active, tokens) == pytest.approx(mean, rel=1e-12)


def test_olmoe_reads_its_active_weights_for_one_token_and_nearly_all_for_many() -> None:
    """1,282,017,280 active numbers of which one row of the table is read; 64 tokens touch 64 (1 - (7/8)^64) experts."""
    olmoe = read_config(
        {
            "model_type": "olmoe",
            "vocab_size": 50304,
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_experts_per_tok": 8,
        }
    )
    one = step_cost(olmoe, decode(10)).total
    assert one.weight_bytes == 4 * (1_282_017_280 - 50304 * 2048 + 2048)
    assert one.matmul_flops == 2 * (1_282_017_280 - 50304 * 2048 - 16 * 4 * 2048 - 2048) + 16 * 4 * 11 * 2048
    expert = 3 * 2048 * 1024 * 4
    more = (
        step_cost(olmoe, decode(10, batch=64)).parts["mlp"].weight_bytes
        - step_cost(olmoe, decode(10)).parts["mlp"].weight_bytes
    )
    assert more == pytest.approx(16 * expert * (64 * (1 - (7 / 8) ** 64) - 8), rel=1e-9)


def test_a_small_llama_by_hand() -> None:
    """Every number of a decode step worked out on paper: D 4, 2 heads of 2 on 1, I 6, V 10, one layer, 3 held."""
    mlp = Mlp(width=6, gated=True, activation="silu")
    shape = ModelShape("llama", 10, 4, 2, 1, 2, 64, (Layer(mlp, rotary=2),), True, Norm(centres=False, weights=1), 2)
    parts = step_cost(shape, decode(3), backend=REFERENCE).parts
    expected = {
        "embed": Cost(0, 0, 0, 16, 0, 0, 0, 16, 1, 16),
        "norm": Cost(0, 3 * 16, 3, 3 * 16, 0, 0, 3 * 16, 3 * 16, 9, 32),
        "attn.qkv": Cost(2 * 4 * 8, 0, 0, 4 * 8 * 4, 0, 0, 16, 32, 1, 48),
        "attn.rope": Cost(0, 3 * 6, 0, 0, 0, 0, 24, 24, 1, 48),
        "kv.append": Cost(0, 0, 0, 0, 0, 16, 16, 0, 2, 16),
        "attn.scores": Cost(2 * 2 * 8, 0, 0, 0, 3 * 2 * 4, 0, (4 + 2) * 4, 8 * 4, 1, 14 * 4),
        "attn.softmax": Cost(0, 24, 8, 0, 0, 0, 4 * 32, 2 * 32, 4, 32),
        "attn.pv": Cost(2 * 2 * 8, 4, 0, 0, 3 * 2 * 4, 0, (8 + 2) * 4, 16, 2, 14 * 4),
        "attn.out": Cost(2 * 16, 4, 0, 64, 0, 0, 32, 16, 2, 48),
        "mlp": Cost(2 * 72, 6 * 3 + 4, 6, 288, 0, 0, (4 + 18) * 4 + 16, (4 + 18) * 4, 7, 2 * 22 * 4),
        "lm_head": Cost(80, 0, 0, 160, 0, 0, 16, 40, 1, 56),
        "sample": Cost(0, 10, 0, 0, 0, 0, 40, 0, 1, 40),
    }
    assert parts == expected


def test_a_small_gpt_by_hand() -> None:
    """A prefill of three tokens: D 4, 2 heads of 2, I 6, V 10, one layer, LayerNorm and biases, learned positions."""
    mlp = Mlp(width=6, gated=False, activation="relu", bias=True)
    norm = Norm(centres=True, weights=2)
    shape = ModelShape(
        *("gpt", 10, 4, 2, 2, 2, 8, (Layer(mlp),), True, norm, 2),
        qkv_bias=True,
        out_bias=True,
        positions="learned",
        position_rows=8,
    )
    assert step_cost(shape, prefill(3), backend=REFERENCE).parts == {
        "embed": Cost(0, 12, 0, 96, 0, 0, 0, 48, 1, 48),
        "norm": Cost(0, 7 * (12 + 12 + 4), 7, 96, 0, 0, 112, 112, 15, 96),
        "attn.qkv": Cost(288, 36, 0, 240, 0, 0, 48, 144, 2, 192),
        "kv.append": Cost(0, 0, 0, 0, 0, 96, 96, 0, 2, 96),
        "attn.mask.build": Cost(0, 9, 0, 0, 0, 0, 0, 36, 2, 36),
        "attn.mask.apply": Cost(0, 18, 0, 0, 0, 0, 108, 72, 1, 108),
        "attn.scores": Cost(72, 0, 0, 0, 0, 0, 96, 72, 1, 168),
        "attn.softmax": Cost(0, 54, 18, 0, 0, 0, 4 * 72, 2 * 72, 4, 72),
        "attn.pv": Cost(72, 12, 0, 0, 0, 0, 120, 48, 2, 168),
        "attn.out": Cost(96, 24, 0, 80, 0, 0, 96, 48, 3, 144),
        "mlp": Cost(288, 60, 0, 232, 0, 0, 240, 192, 9, 384),
        "lm_head": Cost(80, 0, 0, 160, 0, 0, 16, 40, 1, 56),
        "sample": Cost(0, 10, 0, 0, 0, 0, 40, 0, 1, 40),
    }


def test_bytes_follow_the_precision() -> None:
    """Half precision halves all bytes and changes no FLOP; each kind has its own dtype."""
    full, half = (
        step_cost(LLAMA_2_7B, decode(9)).total,
        step_cost(LLAMA_2_7B, decode(9), Precision.all("float16")).total,
    )
    assert [getattr(half, name) for name in BYTES] == [getattr(full, name) / 2 for name in BYTES]
    assert [getattr(half, name) for name in FLOPS] == [getattr(full, name) for name in FLOPS]
    mixed = step_cost(
        LLAMA_2_7B, decode(9), Precision(weights="int8", activations="bfloat16", cache="float8_e5m2")
    ).total
    assert (mixed.weight_bytes, mixed.cache_read_bytes) == (full.weight_bytes / 4, full.cache_read_bytes / 4)
    assert mixed.activation_read_bytes == full.activation_read_bytes / 2


def test_a_concatenating_cache_moves_all_that_is_held() -> None:
    """The dynamic cache of transformers reads and writes S positions to append one; the reference writes one."""
    copied = step_cost(LLAMA_2_7B, decode(100), backend=TRANSFORMERS).parts["kv.append"]
    in_place = step_cost(LLAMA_2_7B, decode(100), backend=REFERENCE).parts["kv.append"]
    assert (copied.cache_read_bytes, copied.cache_write_bytes) == (100 * 2**20, 101 * 2**20)
    assert (in_place.cache_read_bytes, in_place.cache_write_bytes) == (0, 2**20)


def test_a_static_cache_costs_its_capacity() -> None:
    """The same at any length, and as much as a full one."""
    few, many = (
        step_cost(LLAMA_2_7B, decode(context, capacity=512), backend=TRANSFORMERS_STATIC).total for context in (8, 511)
    )
    assert few == many


def test_a_static_cache_needs_a_capacity() -> None:
    """There is no default for what was allocated."""
    with pytest.raises(InputError, match="give the step a capacity"):
        step_cost(LLAMA_2_7B, decode(8), backend=TRANSFORMERS_STATIC)


def test_calls_of_a_mixture_are_not_guessed() -> None:
    """A backend that counts calls counted none of experts."""
    mixture = read_config(
        {
            "model_type": "mixtral",
            "vocab_size": 10,
            "hidden_size": 8,
            "intermediate_size": 4,
            "num_hidden_layers": 1,
            "num_attention_heads": 8,
        }
    )
    with pytest.raises(InputError, match="counts no calls of a mixture"):
        step_cost(mixture, decode(1), backend=REFERENCE)
    assert step_cost(mixture, decode(1), backend=replace(REFERENCE, calls={})).total.calls == 0


def test_learned_positions_end() -> None:
    """GPT-2 has no row for the 1,025th position."""
    gpt2 = {"model_type": "gpt2", "vocab_size": 10, "n_embd": 8, "n_layer": 1, "n_head": 2}
    shape = read_config(gpt2)
    step_cost(shape, decode(1023))
    with pytest.raises(InputError, match="has 1,024 positions, 1025 were requested"):
        step_cost(shape, decode(1024))


@pytest.mark.parametrize(
    ("step", "what"),
    [
        ({"new": 0}, "found new=0"),
        ({"new": 1, "past": -1}, "past=-1"),
        ({"new": 1, "batch": 0}, "batch=0"),
        ({"new": 5, "past": 6, "capacity": 10}, "11 positions do not fit into a capacity of 10"),
    ],
)
def test_bad_steps_are_named(step: dict[str, int], what: str) -> None:
    """What was wrong."""
    with pytest.raises(InputError, match=what):
        Step(**step)
