"""Numbers of library calls, counted again where they happen."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.targets import reference
from perstep.theory import (
    PARTS,
    REFERENCE,
    TRANSFORMERS,
    TRANSFORMERS_EAGER,
    TRANSFORMERS_STATIC,
    Backend,
    decode,
    prefill,
    read_config,
    step_cost,
)

TINY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHAPE = read_config(TINY)
OUT_OF_SIGHT = ("embed", "kv.append", "sample")  # methods and assignments of arrays


def counting_numpy(parts: list[str], calls: Counter[str]) -> SimpleNamespace:
    """NumPy whose ufuncs, reductions and linear algebra count themselves under the part that was begun last."""

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[parts[-1]] += 1
            return function(*args, **kwargs)

        return call

    names = {name: getattr(np, name) for name in dir(np)}
    for name, function in list(names.items()):
        if isinstance(function, np.ufunc):
            names[name] = counted(function)
            names[name].reduce = counted(function.reduce)
    names |= {name: counted(names[name]) for name in ("vdot", "full", "triu")}
    return SimpleNamespace(**names)


def test_calls_of_the_reference(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decode step calls NumPy as often as the record says, part by part; so do the masks of a prefill."""
    model = reference.load(tiny_llama)
    cache = model.new_cache(1, 8)
    raw = {"num_attention_heads": model.config.heads, "num_hidden_layers": model.config.num_layers}
    shape = read_config({**TINY, **raw, "hidden_size": model.config.hidden, "num_key_value_heads": 1})
    parts: list[str] = ["before"]
    calls: Counter[str] = Counter()
    monkeypatch.setattr("perstep.targets.reference.model.np", counting_numpy(parts, calls))
    reference.prefill(model, [[1, 2, 3]], cache, parts.append)
    masks = step_cost(shape, prefill(3), backend=REFERENCE).parts
    assert all(calls[part] == masks[part].calls for part in ("attn.mask.build", "attn.mask.apply"))
    calls.clear()
    reference.decode_one_token(model, [4], cache, parts.append)
    expected = {part: cost.calls for part, cost in step_cost(shape, decode(3), backend=REFERENCE).parts.items()}
    assert calls == {part: number for part, number in expected.items() if part not in OUT_OF_SIGHT}


@pytest.mark.hf
@pytest.mark.parametrize(
    ("backend", "attention", "static"),
    [(TRANSFORMERS, "sdpa", False), (TRANSFORMERS_STATIC, "sdpa", True), (TRANSFORMERS_EAGER, "eager", False)],
    ids=["defaults", "static", "eager"],
)
def test_calls_of_transformers(backend: Backend, attention: str, static: bool) -> None:
    """A decode step of a Llama dispatches as many operators that touch data as the record says."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache

    views = ("view", "reshape", "expand", "transpose", "unsqueeze", "slice", "aten.t.", "alias", "detach")
    seen: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not any(view in str(func) for view in views):
                seen.append(str(func))
            return func(*args, **(kwargs or {}))

    settings = {key: value for key, value in TINY.items() if key != "model_type"}
    config = AutoConfig.for_model("llama", **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    cache = StaticCache(config=config, max_cache_len=32) if static else DynamicCache(config=config)
    token = torch.ones(1, 1, dtype=torch.long)
    with torch.no_grad():
        model(torch.ones(1, 8, dtype=torch.long), past_key_values=cache)
        with Count():
            logits = model(token, past_key_values=cache).logits
            logits[0, -1].argmax()
    seen = [name for name in seen if "select" not in name]
    assert step_cost(SHAPE, decode(8, capacity=32), backend=backend).total.calls == len(seen)


def test_calls_are_given_for_all_parts_or_for_none() -> None:
    """A part forgotten would look free."""
    with pytest.raises(InputError, match=r"no number of calls for attn\.pv; give all or none"):
        Backend("mine", calls=dict.fromkeys([part for part in PARTS if part != "attn.pv"], 1))


MINI: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("inputs", "outputs", "most_rows"),
    [
        (128, 768, 10),  # 10^6 multiply-adds are 10.2 rows
        (128, 256, 30),
        (128, 128, 61),
        (384, 128, 9),  # stored output by output: 1,200 results are 9.4 rows
        (512, 1024, 1),  # 2 MiB: likewise, 1.2 rows
    ],
)
def test_openblas_packs_beyond_so_many_rows(inputs: int, outputs: int, most_rows: int) -> None:
    """The rows that its kernel for small products takes, worked out from its source; one row is always taken."""
    packing = REFERENCE.packing
    assert packing is not None
    found = [rows for rows in range(1, 100) if not packing.packs(rows, inputs, outputs, 4)]
    assert found == list(range(1, most_rows + 1))


def test_a_prefill_packs_its_weights_and_a_decode_step_does_not() -> None:
    """17 rows of `mini`: gate and up, and down, of four layers, in float32, read once and written once."""
    shape = read_config(MINI)
    parts = step_cost(shape, prefill(17), backend=REFERENCE).parts
    assert {part: cost.packed_bytes for part, cost in parts.items() if cost.packed_bytes} == {
        "mlp": 4 * 2 * 4 * (128 * 768 + 384 * 128)
    }
    assert step_cost(shape, prefill(9), backend=REFERENCE).total.packed_bytes == 0
    assert step_cost(shape, decode(1000), backend=REFERENCE).total.packed_bytes == 0
    matrices = 4 * (128 * 256 + 128 * 128 + 128 * 768 + 384 * 128)
    assert step_cost(shape, prefill(64), backend=REFERENCE).total.packed_bytes == 2 * 4 * matrices
    assert step_cost(shape, prefill(9), backend=TRANSFORMERS).total.packed_bytes == 2 * 4 * matrices
    assert step_cost(shape, prefill(9)).total.packed_bytes == 0
    assert step_cost(shape, prefill(3), backend=TRANSFORMERS).total.packed_bytes == 0
    head = 2 * 4 * 512 * 128
    every = step_cost(shape, prefill(9, all_logits=True), backend=TRANSFORMERS)
    assert every.total.packed_bytes == 2 * 4 * matrices + head


def test_of_a_mixture_the_experts_touched_are_packed() -> None:
    """8 experts of 3 x 32 x 48 weights, 2 a token: all are touched by many tokens, each by one row or more."""
    mixture = {**TINY, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
    uncounted = replace(TRANSFORMERS, calls={}, calls_many_rows={})
    shape = read_config(mixture)
    one = step_cost(shape, decode(3), backend=uncounted).parts["mlp"]
    many = step_cost(shape, prefill(1000), backend=uncounted).parts["mlp"]
    assert one.packed_bytes == 0
    assert many.packed_bytes == pytest.approx(2 * 2 * 4 * 8 * 3 * 32 * 48)


def test_the_reference_goes_over_its_scores_four_times_in_place() -> None:
    """100 positions: 4 heads x 100 x 100 scores a layer, read by four calls and written by two, and nowhere else."""
    parts = step_cost(read_config(MINI), prefill(100), backend=REFERENCE).parts
    scores = 4 * 100 * 100 * 4
    assert parts["attn.softmax"].activation_read_bytes == 4 * 4 * scores
    assert parts["attn.softmax"].activation_write_bytes == 4 * 2 * scores
    assert parts["attn.softmax"].working_set_bytes == scores
    assert parts["attn.mask.apply"].working_set_bytes == scores + 100 * 100 * 4
    eager = step_cost(read_config(MINI), prefill(100), backend=TRANSFORMERS_EAGER).parts
    assert eager["attn.softmax"].activation_read_bytes == 4 * scores
    assert eager["attn.softmax"].working_set_bytes == 2 * scores


def test_biases_and_rows_add_calls() -> None:
    """The reference adds each bias by a call of its own, and normalises several rows with six instead of three."""
    biased = read_config({**TINY, "attention_bias": True, "mlp_bias": True})
    plain = step_cost(SHAPE, decode(3), backend=REFERENCE).parts
    assert step_cost(biased, decode(3), backend=REFERENCE).parts["attn.qkv"].calls == plain["attn.qkv"].calls + 2
    assert step_cost(biased, decode(3), backend=REFERENCE).parts["mlp"].calls == plain["mlp"].calls + 2 * 2
    assert step_cost(SHAPE, decode(3, batch=2), backend=REFERENCE).parts["norm"].calls == 2 * plain["norm"].calls
