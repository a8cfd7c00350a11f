"""Folders in the standard format with random weights, built without torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from perstep.targets.reference.config import end_shapes, layer_shapes, parse_config

Tensors = dict[str, NDArray[Any]]
MakeFolder = Callable[..., Path]

SMALL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "eos_token_id": 2,
}


def random_tensors(raw: dict[str, Any], seed: int = 0) -> Tensors:
    """Weights for a configuration, large enough that every part changes the logits visibly."""
    config = parse_config(raw)
    shapes = dict(end_shapes(config))
    for index in range(config.num_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer_shapes(config).items()}
    rng = np.random.default_rng(seed)
    scale = {1: 0.3, 2: 1.5 / np.sqrt(config.hidden)}
    return {
        name: (rng.standard_normal(shape) * scale[len(shape)] + ("norm" in name)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_folder(folder: Path, raw: dict[str, Any], tensors: Tensors | None = None) -> Path:
    """Write config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(random_tensors(raw) if tensors is None else tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """A factory of small folders: configuration keys to change by keyword, tensors to replace by `tensors`."""

    def make(tensors: Tensors | None = None, **changes: Any) -> Path:
        return write_folder(tmp_path / "model", {**SMALL, **changes}, tensors)

    return make


@pytest.fixture
def small_raw() -> dict[str, Any]:
    """The configuration that `make_folder` starts from."""
    return json.loads(json.dumps(SMALL))


@pytest.fixture
def make_tensors() -> Callable[..., Tensors]:
    """The weights that `make_folder` would write for the same changes."""

    def make(**changes: Any) -> Tensors:
        return random_tensors({**SMALL, **changes})

    return make
