"""Finding the target that a person named, and what to feed it.

`mini` is the model that ships with perstep; anything else is a folder, an architecture with random weights, or a hub
id, which alone is fetched from a network. The NumPy decoder runs `mini`, transformers everything else, unless told.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perstep.data import heldout_path, mini_path
from perstep.errors import InputError
from perstep.targets.reference import Reference, load

BUILT_IN = "mini"

Backend = Literal["numpy", "torch"]


@dataclass(frozen=True)
class Opened:
    """A model that was found and loaded.

    Attributes:
        name: as it is shown: `mini`, the folder's name, the hub id, or the architecture's name.
        backend: `numpy` when `model` is a `Reference`, `torch` when it is a transformers model.
        model: in evaluation mode, on its device.
        random_weights: whether the weights are random (law 14).
        facts: its shapes for a manifest.
    """

    name: str
    backend: Backend
    model: Any
    random_weights: bool
    facts: dict[str, Any]


def open_model(
    model: str | None,
    *,
    arch: str | None = None,
    layers: int | None = None,
    backend: Backend | None = None,
    dtype: str | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Opened:
    """The model that a person named.

    Args:
        model: `mini` (also when neither it nor `arch` is given), a folder, or a hub id.
        arch: a preset's name or a config.json, for random weights.
        layers: keep so many decoder layers of `arch`.
        backend: what runs it; by default numpy for `mini` and torch for everything else.
        dtype: of the weights, as torch spells it.
        device: of a transformers model, as torch spells it.
        seed: of random weights.

    Raises:
        InputError: arguments that exclude each other, or nothing can be loaded from there.
    """
    if model is not None and arch is not None:
        raise InputError("--model and --arch exclude each other; give one of them")
    if layers is not None and arch is None:
        raise InputError("--layers goes with --arch: a stored model is measured whole")
    name = model or BUILT_IN
    if backend is None:
        backend = "numpy" if arch is None and name == BUILT_IN else "torch"
    if backend == "numpy":
        return _open_reference(name, arch, dtype, device)
    return _open_transformers(name, arch, layers, dtype, device, seed)


def _open_reference(name: str, arch: str | None, dtype: str | None, device: str) -> Opened:
    if arch is not None:
        raise InputError("--arch builds a transformers model; leave out --backend numpy")
    if device != "cpu":
        raise InputError(f"--device {device}: the NumPy decoder runs on the cpu; give --backend torch")
    model = open_target(name)
    if dtype not in {None, model.config.dtype}:
        raise InputError(f"--dtype {dtype}: the NumPy decoder runs {name} in {model.config.dtype}; leave it out")
    return Opened(name if name == BUILT_IN else _folder_name(name), "numpy", model, False, describe_target(name, model))


def _open_transformers(
    name: str, arch: str | None, layers: int | None, dtype: str | None, device: str, seed: int
) -> Opened:
    from perstep.targets import transformers

    if arch is not None:
        model = transformers.build(arch, layers=layers, dtype=dtype or "float32", seed=seed)
        shown = arch if arch in transformers.presets() else _folder_name(arch)
    else:
        model = transformers.load(mini_path() if name == BUILT_IN else name, dtype=dtype)
        shown = _folder_name(name) if Path(name).is_dir() else name
    model = transformers.to_device(model, device)
    return Opened(shown, "torch", model, arch is not None, transformers.describe(shown, model))


def _folder_name(path: str) -> str:
    resolved = Path(path).resolve()
    return resolved.parent.name if resolved.name == "config.json" else resolved.name


def open_target(name: str) -> Reference:
    """The model of this name.

    Args:
        name: `mini`, or a folder with config.json and safetensors.

    Raises:
        InputError: there is no such folder, or it holds nothing that the reference decoder runs.
    """
    if name == BUILT_IN:
        return load(mini_path())
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(
            f"no model {name!r}: it is not `{BUILT_IN}`, and not a folder with config.json and model.safetensors"
        )
    return load(folder)


def describe_target(name: str, model: Reference) -> dict[str, Any]:
    """A target's shapes for a manifest."""
    c = model.config
    return {
        "name": name if name == BUILT_IN else Path(name).resolve().name,
        "backend": "numpy",
        "model_type": c.model_type,
        "num_layers": c.num_layers,
        "hidden": c.hidden,
        "heads": c.heads,
        "kv_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate": c.intermediate,
        "vocab": c.vocab,
        "max_positions": c.max_positions,
        "tied_head": c.tied,
        "dtype": c.dtype,
        "num_parameters": model.num_parameters,
        "weight_bytes": model.weight_bytes,
    }


def make_prompt(
    name: str, model: Reference, *, text: str | None, num_tokens: int, batch: int, seed: int
) -> NDArray[np.int64]:
    """Token ids to begin with, [batch, T].

    A text is encoded and given to every row. Without one, `mini` gets sentences of its held-out set, so that its
    choices mean something, and any other model ids drawn at random: the cost of matrix work does not depend on them.
    Rows differ: each begins at another place.

    Raises:
        InputError: the text encodes to no token, or the model has no tokenizer for it.
    """
    if text is not None:
        ids = model.encode(text) if text else []
        if not ids:
            raise InputError("--prompt is empty: give a text of at least one token")
        return np.tile(np.asarray(ids, np.int64), (batch, 1))
    rng = np.random.default_rng([seed, 0])
    if name == BUILT_IN:
        stream = np.asarray(model.encode(heldout_path().read_text(encoding="utf-8")), np.int64)
        starts = rng.integers(0, len(stream), batch)
        return np.stack([np.take(stream, np.arange(start, start + num_tokens), mode="wrap") for start in starts])
    return rng.integers(0, model.config.vocab, (batch, num_tokens))
