"""Matmul FLOPs against torch's own counter, with eager attention since it does not see fused attention on a CPU."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from perstep.theory import IDEAL, Backend, Step, read_config, step_cost

pytestmark = pytest.mark.hf

EAGER = replace(IDEAL, name="eager", computes_masked=True)
EAGER_STATIC = replace(EAGER, name="eager, static cache", attends_capacity=True)
CHUNKS = (8, 1, 1, 3)  # a prefill beyond the windows, two decode steps, one more chunk


def count(model: Any, cache: Any, new: int, **options: Any) -> Any:
    """A forward of a batch of two under torch's counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.ones(2, new, dtype=torch.long), past_key_values=cache, **options)
    return counter


def flops(model: Any, backend: Backend, new: int, past: int, **options: Any) -> int:
    """The same by formula."""
    shape = read_config(model.config.to_dict())
    return step_cost(shape, Step(new, past, batch=2, **options), backend=backend).total.matmul_flops


def test_prefill_and_decode_with_a_dynamic_cache(tiny_name: str, build_tiny: Callable[..., Any]) -> None:
    """Equal to the last FLOP in every family: prefill, decode, and a chunk behind what is held."""
    from transformers import DynamicCache

    model = build_tiny(tiny_name)
    cache, past = DynamicCache(config=model.config), 0
    for new in CHUNKS:
        assert flops(model, EAGER, new, past, all_logits=True) == count(model, cache, new).get_total_flops()
        past += new


def test_prefill_and_decode_with_a_static_cache(static_name: str, build_tiny: Callable[..., Any]) -> None:
    """Attention over all that was allocated, filled or not."""
    from transformers import StaticCache

    model = build_tiny(static_name)
    cache, past = StaticCache(config=model.config, max_cache_len=20), 0
    for new in CHUNKS:
        expected = flops(model, EAGER_STATIC, new, past, all_logits=True, capacity=20)
        assert expected == count(model, cache, new).get_total_flops()
        past += new


def test_logits_of_the_last_position_alone(build_tiny: Callable[..., Any]) -> None:
    """`logits_to_keep=1`, as `generate` asks for, leaves one row a sequence to the head."""
    from transformers import DynamicCache

    model = build_tiny("llama")
    counter = count(model, DynamicCache(config=model.config), 8, logits_to_keep=1)
    assert flops(model, EAGER, 8, 0) == counter.get_total_flops()


def test_each_part_has_the_flops_of_its_modules(build_tiny: Callable[..., Any]) -> None:
    """Not only the sum: projections, feed-forward part and head one by one; the attention products are the rest."""
    from transformers import DynamicCache

    model = build_tiny("llama")
    counter = count(model, DynamicCache(config=model.config), 8)
    shape = read_config(model.config.to_dict())
    parts = step_cost(shape, Step(8, batch=2, all_logits=True), backend=EAGER).parts

    def of(*endings: str) -> int:
        found = counter.get_flop_counts().items()
        return sum(sum(counts.values()) for name, counts in found if name.endswith(endings))

    assert parts["attn.qkv"].matmul_flops == of("q_proj", "k_proj", "v_proj")
    assert parts["attn.out"].matmul_flops == of("o_proj")
    assert parts["mlp"].matmul_flops == of(".mlp")
    assert parts["lm_head"].matmul_flops == of("lm_head")
    rest = of(".self_attn") - of("q_proj", "k_proj", "v_proj", "o_proj")
    assert parts["attn.scores"].matmul_flops + parts["attn.pv"].matmul_flops == rest
