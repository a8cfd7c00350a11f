"""The laws that any formula of costs must keep, whatever the shape: monotone, additive, linear in the batch."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstep.theory import (
    IDEAL,
    PARTS,
    REFERENCE,
    TRANSFORMERS,
    TRANSFORMERS_EAGER,
    TRANSFORMERS_STATIC,
    Cost,
    Layer,
    Mlp,
    ModelShape,
    Norm,
    QKNorm,
    Step,
    decode,
    parameters,
    prefill,
    step_cost,
)

FLOPS = ("matmul_flops", "vector_flops", "special_functions")
BYTES = ("weight_bytes", "cache_read_bytes", "cache_write_bytes", "activation_read_bytes", "activation_write_bytes")

NORMS = st.builds(Norm, centres=st.booleans(), weights=st.integers(0, 2))
DENSE = st.builds(
    Mlp,
    width=st.integers(1, 9),
    gated=st.booleans(),
    activation=st.sampled_from(["silu", "relu", "gelu"]),
    bias=st.booleans(),
)
MIXTURES = st.builds(
    Mlp,
    width=st.integers(1, 9),
    gated=st.booleans(),
    activation=st.just("silu"),
    bias=st.booleans(),
    experts=st.integers(3, 8),
    active=st.integers(1, 3),
    shared_width=st.integers(0, 5),
    shared_gate=st.booleans(),
    router_bias=st.booleans(),
)
WINDOWS = st.none() | st.integers(1, 12)


def layers(mlp: st.SearchStrategy[Mlp]) -> st.SearchStrategy[tuple[Layer, ...]]:
    """One to four layers."""
    one = st.builds(Layer, mlp=mlp, window=WINDOWS, rotary=st.sampled_from([0, 2]))
    return st.lists(one, min_size=1, max_size=4).map(tuple)


@st.composite
def shapes(draw: st.DrawFn, mlp: st.SearchStrategy[Mlp] = DENSE | MIXTURES) -> ModelShape:
    """Any decoder, small."""
    kv_heads, head_dim = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    learned = draw(st.booleans())
    return ModelShape(
        model_type="any",
        vocab=draw(st.integers(1, 30)),
        hidden=draw(st.integers(1, 12)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_positions=200,
        layers=draw(layers(mlp)),
        tied=draw(st.booleans()),
        norm=draw(NORMS),
        norms_per_layer=draw(st.sampled_from([1, 2, 4])),
        final_norm=draw(st.booleans()),
        embed_norm=draw(st.booleans()),
        qk_norm=draw(st.none() | st.builds(QKNorm, NORMS, st.booleans(), st.booleans())),
        qkv_bias=draw(st.booleans()),
        out_bias=draw(st.booleans()),
        head_bias=draw(st.booleans()),
        positions="learned" if learned else draw(st.sampled_from(["rope", "alibi"])),
        position_rows=200 if learned else 0,
        sinks=draw(st.booleans()),
        softcap_scores=draw(st.booleans()),
        softcap_logits=draw(st.booleans()),
    )


STEPS = st.builds(Step, st.integers(1, 20), st.integers(0, 20), st.integers(1, 5), st.booleans(), st.integers(50, 60))
UNCOUNTED = [
    replace(backend, calls={}) for backend in (IDEAL, REFERENCE, TRANSFORMERS, TRANSFORMERS_STATIC, TRANSFORMERS_EAGER)
]
BACKENDS = st.sampled_from(UNCOUNTED)


@given(shapes(), STEPS, BACKENDS, st.sampled_from(["new", "past", "batch", "capacity"]))
@settings(deadline=None)
def test_more_never_costs_less(shape: ModelShape, step: Step, backend: Any, what: str) -> None:
    """One more new position, held position, sequence or allocated position: no part gets cheaper."""
    more = replace(step, **{what: getattr(step, what) + 1})
    less, greater = (step_cost(shape, one, backend=backend) for one in (step, more))
    assert less.resident_bytes <= greater.resident_bytes
    for part, cost in less.parts.items():
        other = greater.parts[part]
        for name in (*FLOPS, "weight_bytes", "total_bytes", "cache_write_bytes", "activation_bytes"):
            assert getattr(cost, name) <= getattr(other, name) * (1 + 1e-12), (part, name)


@given(shapes(), STEPS, BACKENDS)
@settings(deadline=None)
def test_parts_add_up_to_the_step(shape: ModelShape, step: Step, backend: Any) -> None:
    """Only named parts, in their order, and their sum is the step's."""
    cost = step_cost(shape, step, backend=backend)
    assert list(cost.parts) == [part for part in PARTS if part in cost.parts]
    for field in fields(Cost):
        values = [getattr(part, field.name) for part in cost.parts.values()]
        expected = max(values) if field.name == "working_set_bytes" else sum(values)
        assert getattr(cost.total, field.name) == pytest.approx(expected, rel=1e-12)


@given(shapes(), layers(DENSE), STEPS, BACKENDS)
@settings(deadline=None)
def test_layers_add_up(shape: ModelShape, extra: tuple[Layer, ...], step: Step, backend: Any) -> None:
    """What layers cost does not depend on the layers beside them, masks apart, which they share."""

    def without_masks(layers: tuple[Layer, ...]) -> Cost:
        parts = step_cost(replace(shape, layers=layers), step, backend=backend).parts
        return sum((cost for part, cost in parts.items() if part != "attn.mask.build"), Cost())

    once, twice = without_masks(shape.layers + extra), without_masks(shape.layers + extra + extra)
    alone, doubled = without_masks(extra), without_masks(extra + extra)
    for name in (*FLOPS, *BYTES):
        added, expected = getattr(twice, name) - getattr(once, name), getattr(doubled, name) - getattr(alone, name)
        assert added == pytest.approx(expected, rel=1e-9)


@given(shapes(), STEPS, BACKENDS)
@settings(deadline=None)
def test_a_batch_multiplies_work_and_activations(shape: ModelShape, step: Step, backend: Any) -> None:
    """All but weights and masks, which the sequences of a batch share."""
    one = step_cost(shape, replace(step, batch=1), backend=backend)
    many = step_cost(shape, step, backend=backend)
    for part, cost in one.parts.items():
        if not part.startswith("attn.mask"):
            for name in (*FLOPS, *BYTES[1:]):
                assert getattr(many.parts[part], name) == step.batch * getattr(cost, name), (part, name)


@given(shapes(DENSE), STEPS, BACKENDS)
@settings(deadline=None)
def test_a_dense_model_reads_the_same_weights_for_any_batch(shape: ModelShape, step: Step, backend: Any) -> None:
    """But for the rows of the embedding table; and never more than there are."""
    one = step_cost(shape, replace(step, batch=1), backend=backend)
    many = step_cost(shape, step, backend=backend)
    for part, cost in one.parts.items():
        if part != "embed":
            assert cost.weight_bytes == many.parts[part].weight_bytes
    head = 4 * shape.vocab * shape.hidden if shape.tied else 0  # a tied table is read by look-up and by the head
    assert many.total.weight_bytes <= 4 * parameters(shape).total + head


@given(shapes(), st.integers(1, 15), st.integers(1, 3))
@settings(deadline=None)
def test_a_prefill_does_the_work_of_its_decode_steps(shape: ModelShape, tokens: int, batch: int) -> None:
    """FLOP for FLOP where nothing masked is computed, the head apart, which runs once."""
    whole = step_cost(shape, prefill(tokens, batch=batch)).parts
    every = step_cost(shape, prefill(tokens, batch=batch, all_logits=True)).parts
    steps = [step_cost(shape, decode(context, batch=batch)).parts for context in range(tokens)]
    for name in FLOPS:
        for part in whole:
            summed = sum(getattr(parts[part], name) for parts in steps)
            if part not in ("norm", "lm_head", "sample"):
                assert getattr(whole[part], name) == summed, part
            if part != "sample":
                assert getattr(every[part], name) == summed, part


@given(shapes(), STEPS)
@settings(deadline=None)
def test_no_backend_does_less_than_the_ideal(shape: ModelShape, step: Step) -> None:
    """The ideal is the least, part by part, in FLOPs and in all bytes together."""
    least = step_cost(shape, step).total
    for backend in UNCOUNTED:
        cost = step_cost(shape, step, backend=backend).total
        assert cost.matmul_flops >= least.matmul_flops
        assert cost.vector_flops >= least.vector_flops
        assert cost.total_bytes >= least.total_bytes * (1 - 1e-12)
