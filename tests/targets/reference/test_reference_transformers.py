"""The reference and transformers on the same folder: the same logits, the same greedy tokens, the same sets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perstep.targets import reference

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.hf

TOLERANCE = 1e-4  # the largest absolute difference of any logit in float32, over 256 positions
SHAPES: dict[str, Any] = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": None,
    "bos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama gqa untied": ("llama", {}),
    "llama mha tied": ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama mqa biases": ("llama", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    "llama head_dim": ("llama", {"head_dim": 24, "rms_norm_eps": 1e-3}),
    "llama theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama llama3": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral head_dim": ("mistral", {"sliding_window": 512, "head_dim": 32}),
    "qwen2 untied": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
}


def save(folder: Path, model_type: str, dtype: Any = torch.float32, **changes: Any) -> Path:
    """A random model saved as transformers saves it, its weights large enough to spread the logits."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**SHAPES, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
            else:
                weight.mul_(4 if "embed" not in name else 1)
    model.to(dtype).save_pretrained(folder)
    return folder


def open_transformers(folder: Path) -> Any:
    """The folder as transformers loads it, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def assert_same(folder: Path, num_positions: int = 256, num_greedy: int = 200) -> None:
    """Uncached, prefilled and decoded logits within tolerance, and the same greedy tokens."""
    theirs, ours = open_transformers(folder), reference.load(folder)
    assert ours.num_parameters == theirs.num_parameters()
    ids_BT = np.random.default_rng(1).integers(0, ours.config.vocab, (2, num_positions))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids_BT)).logits.numpy()
    assert np.ptp(expected) > 1  # flat logits would agree whatever the decoder does
    assert np.abs(reference.forward(ours, ids_BT) - expected).max() <= TOLERANCE
    cache = ours.new_cache(2, num_positions)
    cached = [reference.prefill(ours, ids_BT[:, :100], cache)]
    cached += [reference.decode_one_token(ours, ids_BT[:, t], cache) for t in range(100, num_positions)]
    assert np.abs(np.stack(cached, axis=1) - expected[:, 99:]).max() <= TOLERANCE

    prompt = torch.tensor(ids_BT[:1, :8])
    theirs.generation_config = transformers.GenerationConfig(pad_token_id=0)
    generated = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=num_greedy, do_sample=False
    )
    new_ids = reference.generate(ours, prompt.numpy(), num_greedy, eos_ids=())
    assert new_ids[0].tolist() == generated[0, 8:].tolist()


@pytest.mark.parametrize(("model_type", "changes"), VARIANTS.values(), ids=VARIANTS.keys())
def test_the_same_folder_gives_the_same_logits(tmp_path: Path, model_type: str, changes: dict[str, Any]) -> None:
    """Every accepted family and shape agrees with transformers, cached and uncached, and in 200 greedy tokens."""
    assert_same(save(tmp_path, model_type, **changes))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_folders(tmp_path: Path, dtype: str) -> None:
    """Weights stored in half precision give what transformers computes from them in float32."""
    assert_same(save(tmp_path, "llama", getattr(torch, dtype)))
    assert reference.load(tmp_path).stored_dtypes == (dtype,)


def test_shards(tmp_path: Path) -> None:
    """A folder that transformers saved in several files is read through its index."""
    model = open_transformers(save(tmp_path / "one", "llama"))
    model.save_pretrained(tmp_path / "many", max_shard_size="200KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert_same(tmp_path / "many")


def old_style(raw: dict[str, Any]) -> None:
    """Write the rotary settings as transformers 4 did."""
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    raw["rope_scaling"] = None if rope["rope_type"] == "default" else rope


def silent(raw: dict[str, Any]) -> None:
    """Leave out every key that has a default."""
    for key in ("rope_parameters", "head_dim", "rms_norm_eps", "tie_word_embeddings", "attention_bias", "hidden_act"):
        raw.pop(key, None)


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 777.0}, LLAMA3], ids=["default", "llama3"])
def test_configurations_of_before_transformers_5(tmp_path: Path, rope: dict[str, Any]) -> None:
    """rope_theta and rope_scaling mean to the reference what they mean to transformers."""
    rewrite(save(tmp_path, "llama", rope_parameters=rope), old_style)
    assert_same(tmp_path)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2"])
def test_keys_that_are_left_out(tmp_path: Path, model_type: str) -> None:
    """A silent configuration means to the reference what it means to transformers."""
    extra = {"sliding_window": None} if model_type == "mistral" else {}
    rewrite(save(tmp_path, model_type, **extra), silent)
    assert_same(tmp_path)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change config.json in place."""
    raw = json.loads((folder / "config.json").read_text())
    change(raw)
    (folder / "config.json").write_text(json.dumps(raw))


def test_mini() -> None:
    """The model that ships with perstep gives the same logits and tokens in both."""
    folder = Path(str(reference.__file__)).parents[2] / "data" / "mini"
    if not (folder / "config.json").is_file():
        pytest.skip("the trained weights of mini are not there")
    assert_same(folder)


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.6), (0, 0.95), (20, 0.7), (1, 0.5)])
def test_allowed_sets_are_those_of_the_warpers(top_k: int, top_p: float) -> None:
    """Top-k and top-p leave the tokens that transformers' warpers leave, in the same order of application."""
    logits = np.random.default_rng(4).standard_normal((50, 300)).astype(np.float32) * 3
    scores = torch.tensor(logits) / 1.7
    if top_k:
        scores = transformers.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = transformers.TopPLogitsWarper(top_p)(None, scores)
    for row, left in zip(logits, scores.isfinite(), strict=True):
        ids = reference.allowed(row.astype(np.float64) / 1.7, top_k, top_p)
        assert ids.tolist() == left.nonzero()[:, 0].tolist()
