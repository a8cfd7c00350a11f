"""Experts a token: equal to a model built with that top-k, restored, and refused where it does nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from perstep.errors import InputError
from perstep.targets.transformers import ExpertsPerToken, find_routers

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")

FAMILIES = ["olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss"]
IDS = torch.arange(3, 23).reshape(2, 10)

Build = Callable[..., Any]


def logits(model: Any) -> Any:
    """Of a forward over fixed ids."""
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_top_k_is_that_of_a_model_built_so(family: str, build_tiny: Build) -> None:
    """Bit for bit, in a family of each kind of router; afterwards the model is as it was."""
    model = build_tiny(family)
    routers, before = find_routers(model), logits(model)
    assert (routers.top_k, routers.num_experts) == (2, 2 if family == "deepseek_v3" else 4)
    for top_k in (2, 1):
        built = build_tiny(family, num_experts_per_tok=top_k)
        built.load_state_dict(model.state_dict())
        with ExpertsPerToken(routers, top_k):
            assert torch.equal(logits(model), logits(built))
    assert torch.equal(logits(model), before)
    assert {module.top_k for module in routers.modules} == {2}


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_implementations_agree(implementation: str, build_tiny: Build) -> None:
    """To rounding; the model's own comes back, after an exception too."""
    model = build_tiny("olmoe")
    routers, before = find_routers(model), model.config._experts_implementation
    with pytest.raises(ZeroDivisionError), ExpertsPerToken(routers, 2, implementation):
        raise ZeroDivisionError
    with ExpertsPerToken(routers, 2, implementation):
        assert model.config._experts_implementation == implementation
        torch.testing.assert_close(logits(model), logits(build_tiny("olmoe")))
    assert model.config._experts_implementation == before


def test_what_has_no_top_k_to_change_is_refused_by_name(build_tiny: Build) -> None:
    """A dense model, and a family whose routers always take two."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with pytest.raises(InputError, match=r"LlamaForCausalLM \(llama\) is a dense model"):
        find_routers(build_tiny("llama"))
    config = AutoConfig.for_model(
        "phimoe", vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(InputError, match=r"no effect on PhimoeForCausalLM \(phimoe\)"):
        find_routers(model)
    assert {module.top_k for module in model.modules() if hasattr(module, "top_k")} == {2}


@pytest.mark.parametrize("top_k", [0, 5])
def test_top_k_is_among_the_experts(top_k: int, build_tiny: Build) -> None:
    """From one to all of them."""
    with pytest.raises(InputError, match=f"top-k {top_k}: the routers choose among 4 experts"):
        ExpertsPerToken(find_routers(build_tiny("olmoe")), top_k)


def test_an_unknown_implementation_is_refused(build_tiny: Build) -> None:
    """By its name, and nothing is changed."""
    routers = find_routers(build_tiny("olmoe"))
    with pytest.raises(InputError, match="cannot run nonsense"):
        ExpertsPerToken(routers, 1, "nonsense").__enter__()
    assert {module.top_k for module in routers.modules} == {2}
