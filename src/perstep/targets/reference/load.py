"""From a folder in the standard format (config.json, model.safetensors, tokenizer.json) to a `Reference`.

Everything that can be refused is refused before a weight is read: configuration, memory, names and shapes, in
this order. Weights become float32, fused and laid out for a matrix-vector product. Never touches a network.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.targets.reference.config import Config, config_hash, end_shapes, layer_shapes, parse_config
from perstep.targets.reference.memory import refuse_if_too_large
from perstep.targets.reference.model import Floats, Layer, Reference
from perstep.targets.reference.safetensors_files import (
    DTYPE_NAMES,
    STORED_AS,
    StoredTensor,
    find_tensors,
    read_json,
)
from perstep.targets.reference.tokenizer import FolderTokenizer

# Up to this size a matrix that is at least as wide as tall is faster stored [in, out], above it as the file has it;
# the README has the figures.
IN_CACHE_BYTES = 1 << 20


def load(folder: Path, *, available_bytes: int | None = None) -> Reference:
    """Read a Llama-family folder.

    Args:
        folder: holds config.json and model.safetensors, or the shards of model.safetensors.index.json.
        available_bytes: the memory the model may take; what the system reports as available, if None.

    Raises:
        InputError: one line: what is missing, unreadable, wrong-shaped, too large or not supported, by name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one that holds config.json and model.safetensors")
    raw = read_json(folder / "config.json")
    generation = folder / "generation_config.json"
    config = parse_config(raw, read_json(generation) if generation.is_file() else None)
    refuse_if_too_large(f"{folder}: the model in float32", _peak_bytes(config), available_bytes)
    tensors = find_tensors(folder)
    _check_tensors(folder, tensors, config)
    reader = _Reader(config, tensors)
    embedding_VD = reader.read("model.embed_tokens.weight")
    stored_head_too = config.tied and "lm_head.weight" in tensors
    if stored_head_too and not np.array_equal(reader.read("lm_head.weight"), embedding_VD):
        raise InputError(f"{folder}: tie_word_embeddings is true, but lm_head.weight differs from the embeddings")
    return Reference(
        config=config,
        config_hash=config_hash(raw),
        stored_dtypes=tuple(sorted({DTYPE_NAMES[tensor.dtype] for tensor in tensors.values()})),
        tokenizer=FolderTokenizer(folder),
        embedding_VD=embedding_VD,
        layers=[reader.layer(index) for index in range(config.num_layers)],
        final_norm_D=reader.read("model.norm.weight"),
        head_DV=embedding_VD.T if config.tied else laid_out(reader.read("lm_head.weight")),
    )


def stored_bytes(folder: Path) -> int:
    """What a folder's weights take in memory, by the shapes that its configuration gives; they are not read.

    Raises:
        InputError: there is no configuration, or one that the decoder does not run.
    """
    return 4 * parse_config(read_json(Path(folder) / "config.json"), None).num_parameters


def laid_out(weight_OI: Floats) -> Floats:
    """A stored weight [out, in] as the [in, out] that `x @ W` takes, in the memory order that is faster."""
    num_out, num_in = weight_OI.shape
    if num_out >= num_in and weight_OI.nbytes <= IN_CACHE_BYTES:
        return np.ascontiguousarray(weight_OI.T)
    return weight_OI.T


def paired(rows: NDArray[np.float32], head_dim: int) -> Floats:
    """Reorder the output rows of a query or key projection so that the halves of a rotary pair are neighbours.

    The format stores the first halves of a head's pairs, then the second (element p turns with p + head_dim /
    2). Queries and keys are reordered alike, so their products stay the same.
    """
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


class _Reader:
    """Reads tensors by name and puts layers together."""

    def __init__(self, config: Config, tensors: Mapping[str, StoredTensor]):
        self.config = config
        self.tensors = tensors

    def read(self, *names: str) -> Floats:
        """Tensors that agree in all but the first dimension, below one another, float32."""
        shapes = [self.tensors[name].shape for name in names]
        fused = np.empty((sum(shape[0] for shape in shapes), *shapes[0][1:]), np.float32)
        start = 0
        for name, shape in zip(names, shapes, strict=True):
            self.tensors[name].read_into(fused[start : start + shape[0]])
            start += shape[0]
        return fused

    def layer(self, index: int) -> Layer:
        c, prefix = self.config, f"model.layers.{index}"
        attn, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        return Layer(
            index=index,
            attn_norm_D=self.read(f"{prefix}.input_layernorm.weight"),
            qkv_DO=laid_out(self._qkv(attn, "weight")),
            qkv_bias_O=self._qkv(attn, "bias") if c.qkv_bias else None,
            out_QD=laid_out(self.read(f"{attn}.o_proj.weight")),
            out_bias_D=self.read(f"{attn}.o_proj.bias") if c.out_bias else None,
            mlp_norm_D=self.read(f"{prefix}.post_attention_layernorm.weight"),
            gate_up_DI2=laid_out(self._gate_up(mlp, "weight")),
            gate_up_bias_I2=self._gate_up(mlp, "bias") if c.mlp_bias else None,
            down_ID=laid_out(self.read(f"{mlp}.down_proj.weight")),
            down_bias_D=self.read(f"{mlp}.down_proj.bias") if c.mlp_bias else None,
        )

    def _qkv(self, attn: str, kind: str) -> Floats:
        """Query, key and value rows as one; rotary pairs together, queries divided by sqrt(head_dim)."""
        c = self.config
        rows = self.read(*(f"{attn}.{name}_proj.{kind}" for name in ("q", "k", "v")))
        rotated = rows[: c.q_width + c.kv_width]
        rotated[...] = paired(rotated, c.head_dim)
        rows[: c.q_width] *= np.float32(c.head_dim**-0.5)
        return rows

    def _gate_up(self, mlp: str, kind: str) -> Floats:
        """Gate and up rows as one; the gate halved, which is exact in binary, for `model.mlp`."""
        rows = self.read(f"{mlp}.gate_proj.{kind}", f"{mlp}.up_proj.{kind}")
        rows[: self.config.intermediate] *= np.float32(0.5)
        return rows


def _peak_bytes(c: Config) -> int:
    """Every weight in float32, and the largest tensor once more while it is read."""
    largest = max(c.vocab * c.hidden, c.hidden * max(2 * c.intermediate, c.q_width + 2 * c.kv_width))
    return 4 * (c.num_parameters + largest)


def _check_tensors(folder: Path, tensors: Mapping[str, StoredTensor], config: Config) -> None:
    """Every tensor the decoder needs is there in the right shape and dtype, and none that it would leave out."""
    expected = dict(end_shapes(config))
    for index in range(config.num_layers):
        expected |= {f"model.layers.{index}.{name}": shape for name, shape in layer_shapes(config).items()}
    for name, shape in expected.items():
        if name not in tensors:
            raise InputError(f"{folder}: tensor {name} of shape {list(shape)} is missing")
    if config.tied:
        expected["lm_head.weight"] = (config.vocab, config.hidden)
    for name, tensor in tensors.items():
        if name.endswith("rotary_emb.inv_freq"):  # older exports store what follows from the configuration
            continue
        if name not in expected:
            raise InputError(
                f"{folder}: tensor {name} has no place in a {config.model_type} decoder of this config.json"
            )
        if tensor.shape != expected[name]:
            raise InputError(f"{folder}: tensor {name} has shape {list(tensor.shape)}, expected {list(expected[name])}")
        if tensor.dtype not in STORED_AS:
            raise InputError(
                f"{folder}: tensor {name} is stored as {tensor.dtype}, only {', '.join(STORED_AS)} are supported"
            )
