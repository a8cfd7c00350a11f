"""What a config.json is read as, and what is refused by name."""

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.sources import tree_of

from perstep import theory
from perstep.errors import InputError
from perstep.theory import ModelShape, read_config
from perstep.theory.families import FAMILIES
from perstep.theory.refused import REFUSED
from perstep.theory.shape import ACTIVATIONS
from perstep.theory.vision import VISION

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 256,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 32,
}
SIZES = {key: value for key, value in LLAMA.items() if key != "model_type"}


def read(**changes: Any) -> ModelShape:
    """A small Llama, changed."""
    return read_config({**LLAMA, **changes})


class Counted:
    """A number that counts what is done to it: additions, multiplications and the like, and special functions."""

    def __init__(self) -> None:
        self.done = [0, 0]

    def _one(self, _other: Any = None) -> "Counted":
        self.done[0] += 1
        return self

    __add__ = __radd__ = __mul__ = __rmul__ = __neg__ = _one

    def __rtruediv__(self, _other: Any) -> "Counted":
        return self._one()

    def special(self) -> "Counted":
        """An exponential, a hyperbolic tangent, an error function."""
        self.done[1] += 1
        return self


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("gelu", lambda x: 0.5 * x * (1 + (x * 0.707).special())),
        ("gelu_new", lambda x: 0.5 * x * (1 + (0.798 * (x + 0.0447 * (x * x * x))).special())),
        ("gelu_pytorch_tanh", lambda x: 0.5 * x * (1 + (0.798 * (x + 0.0447 * (x * x * x))).special())),
        ("gelu_fast", lambda x: 0.5 * x * (1 + (0.798 * x * (1 + 0.0447 * x * x)).special())),
    ],
)
def test_an_activation_costs_what_its_formula_does(name: str, formula: Any) -> None:
    """Counted by writing it down (Hendrycks and Gimpel 2016); gelu_fast is the same polynomial, factored."""
    x = Counted()
    formula(x)
    assert tuple(x.done) == ACTIVATIONS[name]


def test_a_silent_llama_has_full_heads_and_an_untied_head() -> None:
    """Missing keys mean what transformers makes of them."""
    shape = read()
    assert (shape.kv_heads, shape.head_dim, shape.tied, shape.max_positions) == (32, 8, False, 2048)
    assert (shape.qkv_bias, shape.out_bias, shape.layers[0].mlp.bias) == (False, False, False)
    assert (shape.num_layers, shape.layers[0].rotary, shape.layers[0].window) == (3, 8, None)


def test_grouped_and_single_heads() -> None:
    """num_key_value_heads is read, and need not divide the hidden size where head_dim is given."""
    assert read(num_key_value_heads=2).kv_width == 16
    assert read(num_key_value_heads=1, head_dim=10).kv_width == 10
    assert read(head_dim=10).q_width == 320


def test_windows_on_all_layers_or_by_layer_type() -> None:
    """Mistral's window is on every layer; Gemma's and gpt-oss's alternate; layer_types decides where it is given."""
    assert {layer.window for layer in read(model_type="mistral", sliding_window=7).layers} == {7}
    assert [layer.window for layer in read(model_type="mistral", sliding_window=None).layers] == [None] * 3
    assert [layer.window for layer in read(model_type="gemma2", sliding_window=7).layers] == [7, None, 7]
    kinds = ["full_attention", "full_attention", "sliding_attention"]
    assert [layer.window for layer in read(model_type="gemma2", layer_types=kinds).layers] == [None, None, 4096]


def test_qwen_windows_only_if_used_and_only_above() -> None:
    """Qwen2 files carry a sliding_window that use_sliding_window leaves off."""
    qwen = {"model_type": "qwen2", "sliding_window": 7, "max_window_layers": 1}
    assert read(**qwen).windows == {None}
    assert [layer.window for layer in read(**qwen, use_sliding_window=True).layers] == [None, 7, 7]


def test_partial_rotation_from_either_spelling() -> None:
    """partial_rotary_factor beside the rope object or in it; GPT-NeoX calls it rotary_pct."""
    assert read(model_type="phi").layers[0].rotary == 4
    assert read(model_type="phi", rope_parameters={"partial_rotary_factor": 0.25}).layers[0].rotary == 2
    assert read(model_type="gpt_neox", rotary_pct=1.0).layers[0].rotary == 8


def test_mixtures_may_have_dense_layers() -> None:
    """mlp_only_layers and decoder_sparse_step leave layers dense."""
    qwen = read(model_type="qwen3_moe", mlp_only_layers=[1], decoder_sparse_step=1)
    assert [bool(layer.mlp.experts) for layer in qwen.layers] == [True, False, True]
    assert (qwen.layers[0].mlp.width, qwen.layers[1].mlp.width) == (768, 48)


def test_text_part_of_a_vision_language_model() -> None:
    """The text_config is read, whatever stands beside it, also where an old file has its keys at the top."""
    nested = {"model_type": "qwen2_5_vl", "text_config": SIZES, "vision_config": {"hidden_size": 999}}
    flat = {**SIZES, "model_type": "qwen2_5_vl", "vision_config": {"hidden_size": 999}}
    assert read_config(nested) == read_config(flat)
    assert read_config(nested).qkv_bias
    assert not read_config(nested).tied
    assert read_config({**nested, "tie_word_embeddings": True}).tied


@pytest.mark.parametrize("model_type", ["deepseek_v3", "mamba", "jamba", "t5", "qwen3_next", "whisper"])
def test_what_is_not_modelled_is_refused_by_name(model_type: str) -> None:
    """One line with the model_type and what it has."""
    with pytest.raises(InputError) as refusal:
        read(model_type=model_type)
    assert model_type in str(refusal.value)
    assert REFUSED[model_type] in str(refusal.value)


def test_latent_attention_is_refused_under_any_name() -> None:
    """A kv_lora_rank gives it away."""
    with pytest.raises(InputError, match="latent attention"):
        read(kv_lora_rank=512)


def test_an_encoder_is_refused_under_any_name() -> None:
    """is_encoder_decoder gives it away."""
    with pytest.raises(InputError, match="encoder"):
        read(model_type="new", is_encoder_decoder=True)


def test_an_unknown_model_type_is_refused_with_the_list() -> None:
    """The message names what would be right."""
    with pytest.raises(InputError) as refusal:
        read(model_type="perceptron")
    assert "'perceptron'" in str(refusal.value)
    assert all(name in str(refusal.value) for name in [*FAMILIES, *VISION])


def test_nothing_is_both_known_and_refused() -> None:
    """The three tables are disjoint."""
    assert not set(FAMILIES) & set(VISION)
    assert not set(REFUSED) & set(FAMILIES | VISION)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": None}, "model_type"),
        ({"hidden_size": None}, "hidden_size must be a positive integer"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive integer"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer"),
        ({"intermediate_size": None}, "intermediate_size must be a positive integer"),
        ({"num_attention_heads": 5}, "multiple of num_attention_heads 5"),
        ({"num_key_value_heads": 3}, "not a multiple of 3"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ({"attention_bias": 1}, "attention_bias must be true or false"),
        ({"hidden_act": "sigmoid"}, "'sigmoid' is not one of relu"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "layer_types must name 3 layers"),
        ({"model_type": "gemma2", "layer_types": ["chunked_attention"] * 3}, "layer_types must name 3 layers"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window must be a positive integer"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers has 1 entry for 3 layers"),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "active experts must be from 1 to 8"),
        ({"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 16}, "word_embed_proj_dim"),
        ({"model_type": "llava", "text_config": [1]}, "text_config must be an object"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], what: str) -> None:
    """The key, what was found and what would be right."""
    with pytest.raises(InputError, match=what):
        read(**changes)


def test_the_room_imports_the_standard_library_alone() -> None:
    """Neither NumPy nor anything above the floor."""
    folder = Path(str(theory.__file__)).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(tree_of(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                own = name in ("perstep.errors", "perstep._json", "perstep._words") or name.startswith("perstep.theory")
                assert own or name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


@pytest.mark.hf
@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name != "ministral"])
def test_silent_keys_mean_what_transformers_makes_of_them(model_type: str) -> None:
    """A file of sizes alone and the full configuration that transformers makes of it have one shape.

    (Ministral's own default of head_dim, null, does not load.)
    """
    from transformers import AutoConfig

    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    spelt = FAMILIES[model_type].keys
    sizes = {spelt.get(key, key): value for key, value in SIZES.items() if spelt.get(key) != "n_embed"}
    sizes |= {"hidden_size": 256} if model_type == "bloom" else {}
    sizes |= {"word_embed_proj_dim": 256} if model_type == "opt" else {}
    sizes |= {"rotary_dim": 8} if model_type == "gptj" else {}  # its default is wider than these heads
    full = AutoConfig.for_model(model_type, **special, **sizes).to_dict()
    assert read_config(full) == read_config({"model_type": model_type, **sizes})


@pytest.mark.hf
@pytest.mark.parametrize("outer", [None, True, False])
@pytest.mark.parametrize("inner", [None, True, False])
@pytest.mark.parametrize("model_type", list(VISION))
def test_vision_language_models_have_the_parameters_of_their_text_part(
    model_type: str, inner: bool | None, outer: bool | None
) -> None:
    """Tied or not as transformers ties them, weight for weight, without the vision tower."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    text: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
    text |= {} if inner is None else {"tie_word_embeddings": inner}
    family = VISION[model_type].text
    named = text if family.endswith("_text") else {**text, "model_type": family}
    raw = {} if outer is None else {"tie_word_embeddings": outer}
    config = AutoConfig.for_model(model_type, text_config=named, **raw)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    text_part = [*model.get_decoder().parameters(), *model.get_output_embeddings().parameters()]
    expected = sum(parameter.numel() for parameter in {id(one): one for one in text_part}.values())
    for written in (config.to_dict(), {"model_type": model_type, "text_config": named, **raw}):
        assert theory.parameters(read_config(written)).total == expected
