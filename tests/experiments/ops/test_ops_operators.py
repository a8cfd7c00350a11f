"""The operators compute what the reference decoder and transformers compute."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from perstep.experiments.ops.arms import capture, freed, operators_with
from perstep.targets.operators import numpy_layer as numpy_operators
from perstep.targets.operators.layer import PARTS, Inputs, LayerWeights, Weights, layer, step
from perstep.targets.reference import forward, load


def stored_weights(folder: Path, layers: int) -> Weights:
    """The weights of a folder, as the operators take them."""
    tensors = load_file(folder / "model.safetensors")

    def of(index: int) -> LayerWeights:
        held = {
            name.removeprefix(f"model.layers.{index}.").removesuffix(".weight"): array
            for name, array in tensors.items()
        }
        return LayerWeights(
            attn_norm_D=held["input_layernorm"],
            qkv_OD=np.concatenate([held[f"self_attn.{name}_proj"] for name in "qkv"]),
            qkv_bias_O=None,
            out_DQ=held["self_attn.o_proj"],
            mlp_norm_D=held["post_attention_layernorm"],
            gate_up_2ID=np.concatenate([held["mlp.gate_proj"], held["mlp.up_proj"]]),
            down_DI=held["mlp.down_proj"],
        )

    return Weights(
        [of(index) for index in range(layers)], tensors["model.norm.weight"], tensors["model.embed_tokens.weight"]
    )


def inputs_behind(earlier: Inputs | None, made: Inputs) -> Inputs:
    """Inputs whose caches begin with what an earlier step has left in its own."""
    for (keys, values), (old_keys, old_values) in zip(made.caches, earlier.caches if earlier else [], strict=True):
        keys[:, : made.past], values[:, : made.past] = old_keys, old_values
    return made


@pytest.mark.parametrize("mask", ["rebuild", "cached"])
def test_the_step_gives_the_logits_of_the_reference_decoder(tiny_llama: Path, mask: str) -> None:
    """A prefill, a chunk behind it, and a decode step behind that: the same logits, with grouped heads."""
    model = load(tiny_llama)
    weights = stored_weights(tiny_llama, model.config.num_layers)
    ids = np.random.default_rng(1).integers(0, model.config.vocab, 9)
    expected = forward(model, ids[None])[0]
    earlier = None
    for past, seq in ((0, 5), (5, 3), (8, 1)):
        made = numpy_operators.make_inputs(model.config, seq, past, "float32", 0)
        made = replace(made, ids_S=ids[past : past + seq])
        inputs = inputs_behind(earlier, made) if earlier else made
        logits = step(operators_with("numpy", mask), weights, inputs)
        np.testing.assert_allclose(logits, expected[past + seq - 1], rtol=1e-3, atol=1e-3 * np.abs(expected).max())
        earlier = inputs


@pytest.mark.hf
@pytest.mark.parametrize(("mask", "past"), [("rebuild", 0), ("cached", 0), ("fused", 0), ("rebuild", 6), ("cached", 6)])
def test_the_layer_is_the_decoder_layer_of_transformers(mask: str, past: int) -> None:
    """Hidden states of LlamaDecoderLayer, eager attention, grouped heads; also for a chunk behind a past."""
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=32)
    config._attn_implementation = "eager"
    theirs = LlamaDecoderLayer(config, 0).eval()
    length, seq = past + 5, 5
    x_LD = torch.randn(length, 64)
    positions = torch.arange(length)[None]
    cos, sin = LlamaRotaryEmbedding(config)(x_LD, positions)
    additive = torch.full((length, length), -torch.inf).triu(1)[None, None]
    weights = LayerWeights(
        attn_norm_D=theirs.input_layernorm.weight,
        qkv_OD=torch.cat([getattr(theirs.self_attn, f"{name}_proj").weight for name in "qkv"]),
        qkv_bias_O=None,
        out_DQ=theirs.self_attn.o_proj.weight,
        mlp_norm_D=theirs.post_attention_layernorm.weight,
        gate_up_2ID=torch.cat([theirs.mlp.gate_proj.weight, theirs.mlp.up_proj.weight]),
        down_DI=theirs.mlp.down_proj.weight,
    )
    with torch.no_grad():
        expected = theirs(x_LD[None], attention_mask=additive, position_embeddings=(cos, sin), position_ids=positions)
        expected_LD = (expected[0] if isinstance(expected, tuple) else expected).view(length, 64)
        ops = operators_with("torch", mask)
        cache = (torch.zeros(2, length, 8), torch.zeros(2, length, 8))
        for first, last in ((0, past), (past, length)):
            if first == last:
                continue
            views = tuple(held[:, :last] for held in cache)
            heads = (8, 2, 8)
            made = Inputs(torch.zeros(last - first), first, cos[0, first:last], sin[0, first:last], [], heads, 1e-6)
            found_SD = layer(ops, weights, x_LD[first:last], made, views)  # type: ignore[arg-type]
    assert torch.allclose(found_SD, expected_LD[-seq:], atol=1e-5)


@pytest.mark.hf
def test_both_backends_compute_the_same(tiny_llama: Path) -> None:
    """The same weights and inputs give the same logits."""
    from perstep.targets.operators import torch_layer as torch_operators

    config = load(tiny_llama).config
    found = [
        np.asarray(
            step(
                backend.OPERATORS,
                backend.random_weights(config, "float32", 3),
                backend.make_inputs(config, 6, 4, "float32", 3),
            )
        )
        for backend in (numpy_operators, torch_operators)
    ]
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


def test_a_freed_part_changes_nothing_but_its_cost(tiny_llama: Path) -> None:
    """Whatever part hands out what it computed before, the logits are the same, and its function is not called."""
    config = load(tiny_llama).config
    weights = numpy_operators.random_weights(config, "float32", 0)
    inputs = numpy_operators.make_inputs(config, 4, 3, "float32", 0)
    ops = numpy_operators.OPERATORS
    called = capture(ops, weights, inputs, set(PARTS))
    for operator, results in called.results.items():

        def never(*_arguments: Any) -> Any:
            raise AssertionError("a freed part was computed")

        without = freed(replace(ops, **{operator: never}), PARTS[operator], results)
        for _ in range(2):
            np.testing.assert_array_equal(step(without, weights, inputs), called.logits)
    assert len(called.results["norm"]) == 2 * config.num_layers
