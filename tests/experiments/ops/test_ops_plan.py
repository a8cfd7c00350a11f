"""Everything wrong with a plan is told before a weight is made, with what would be right."""

import json
from pathlib import Path
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.experiments.ops import Plan
from perstep.experiments.ops.plan import check, needed_bytes

HF = pytest.mark.hf


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seq": (0, 8)}, "--seq 0: it must be at least 1"),
        ({"past": -1}, "--past -1: it must be at least 0"),
        ({"layers": 3}, "--layers 3: tiny has 2 layers"),
        ({"layers": 0}, "--layers 0"),
        ({"threads": 0}, "--threads 0"),
        ({"seq": (60,), "past": 5}, "make 65 positions, tiny has 64"),
        ({"arch": "no-such-model"}, "unknown architecture 'no-such-model': choose from"),
        ({"arch": "gpt2"}, "model_type 'gpt2' is not one of llama"),
        ({"dtype": "int8"}, "--dtype int8: it must be one of"),
        ({"dtype": "bfloat16"}, "NumPy computes in float32 or float64"),
        ({"arm": ("mask=magic",)}, "the arms are mask=rebuild, mask=cached, mask=fused"),
        ({"arm": ("rebuild",)}, "the arms are mask=rebuild"),
        ({"arm": ()}, "no arm is left"),
        ({"arm": ("mask=cached", "mask=cached")}, "--arm mask=cached is given twice"),
        ({"arm": ("mask=fused",)}, "NumPy has no fused attention"),
        ({"what_if": ("nonsense=0",)}, "write PART=0 with one of the parts embed, norm"),
        ({"what_if": ("mlp=1",)}, "write PART=0"),
        ({"what_if": ("mlp",)}, "write PART=0"),
        ({"what_if": ("attn.core=0",)}, "write PART=0"),
        ({"what_if": ("mlp=0", "mlp=0")}, "--what-if mlp is given twice"),
        ({"what_if": ("attn.mask.build=0",), "seq": (1,)}, "one new token needs no mask"),
        ({"op": ("numpy:square",)}, "write module:function@SHAPE"),
        ({"op": ("numpy:square@S,width",)}, "'width' is not a size"),
        ({"op": ("numpy:square@0",)}, "'0' is not a size"),
        ({"op": ("numpy:nonsense@S",)}, "cannot import numpy:nonsense"),
        ({"op": ("no_such_module:f@S",)}, "cannot import no_such_module:f"),
        ({"fast": True, "rigorous": True}, "exclude each other"),
        pytest.param(
            {"arm": ("mask=fused",), "backend": "torch", "past": 4}, "wrong for 8 queries after --past 4", marks=HF
        ),
    ],
)
def test_a_wrong_plan_is_refused(tiny_llama: Path, options: dict[str, Any], words: str) -> None:
    """By the name of the option."""

    def refuse() -> None:
        plan = Plan(**{"arch": str(tiny_llama), "seq": (8,), **options})
        _ = plan.effort(), check(plan)

    with pytest.raises(InputError, match=words):
        refuse()


def config_file(folder: Path, **changes: Any) -> str:
    """A config.json of another shape."""
    raw = {
        "model_type": "llama", "vocab_size": 32, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": 1 << 20, **changes,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(raw))
    return str(folder / "config.json")


def test_heads_that_do_not_divide_the_hidden_size_are_refused(tmp_path: Path) -> None:
    """With both numbers."""
    with pytest.raises(InputError, match="hidden_size 64 must be a multiple of num_attention_heads 5"):
        check(Plan(arch=config_file(tmp_path, num_attention_heads=5)))


def test_biases_that_are_not_measured_are_refused(tmp_path: Path) -> None:
    """Rather than left out in silence."""
    with pytest.raises(InputError, match="biases in its output projection or MLP"):
        check(Plan(arch=config_file(tmp_path, mlp_bias=True)))


@pytest.mark.parametrize("content", ["[1]", "{", "\xff"])
def test_a_damaged_config_is_refused(tmp_path: Path, content: str) -> None:
    """By its name."""
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"config\.json is not a config\.json"):
        check(Plan(arch=str(tmp_path)))


def test_shapes_too_large_for_memory_are_refused_with_bytes(tmp_path: Path) -> None:
    """Before anything is allocated: scores of a million queries and keys."""
    with pytest.raises(InputError, match=r"--seq 1000000 and --past 0 needs \d+\.\d+ GB of memory"):
        check(Plan(arch=config_file(tmp_path), seq=(1_000_000,)))


def test_the_document_s_shapes_fit_into_two_gibibytes() -> None:
    """One layer of llama-2-7b in float32 at 1 to 512 tokens: 0.8 GB of layer, 0.5 GB of head, and operands."""
    plan = Plan()
    work = check(plan)
    assert (work.config.hidden, work.config.heads, work.config.head_dim) == (4096, 32, 128)
    assert 1.3e9 < needed_bytes(plan, work) < 2 << 30


def test_more_time_is_given_than_to_other_commands() -> None:
    """Unless it is said: a round at the default shapes takes seconds."""
    assert Plan().effort().budget_s == 180
    assert Plan(fast=True).effort().budget_s == 10
    assert Plan(rigorous=True).effort().budget_s == 600
    assert Plan(budget=7.0).effort().budget_s == 7
    assert Plan(rounds=3).effort().max_rounds == 3
