"""Finding the target that a person named, and what to feed it.

`mini` is the model that ships with perstep; anything else is a folder, an architecture with random weights, or a hub
id, which alone is fetched from a network. The NumPy decoder runs `mini`, transformers everything else, unless told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep.data import heldout_path, mini_path
from perstep.errors import InputError
from perstep.targets.reference import Reference, load
from perstep.targets.reference.load import stored_bytes as reference_bytes
from perstep.targets.reference.tokenizer import FolderTokenizer

BUILT_IN = "mini"
"""The name of the model that comes with the package."""

EitherModel = Any
"""A `Reference` where the backend is `numpy`, a transformers model where it is `torch`."""

Backend = Literal["numpy", "torch"]


@dataclass(frozen=True)
class Opened:
    """A model that was found and loaded.

    Attributes:
        name: as `shown_name` has it: `mini`, the folder's name, the hub id, or the architecture's name, with the layers
            that were kept of it.
        backend: `numpy` when `model` is a `Reference`, `torch` when it is a transformers model.
        model: in evaluation mode, on its device.
        random_weights: whether the weights are random (law "random weights are a statement").
        facts: its shapes for a manifest; `total_layers` among them where layers were left out.
        source: the folder or hub id that it was loaded from, or `mini`; None for an architecture with random weights.
    """

    name: str
    backend: Backend
    model: EitherModel
    random_weights: bool
    facts: dict[str, Json]
    source: str | None = None

    def prompt(self, *, text: str | None, num_tokens: int, batch: int, seed: int) -> NDArray[np.int64]:
        """Token ids to begin with, [batch, T], as `make_prompt` makes them.

        Args:
            text: encoded with the model's own tokenizer and given to every row; ids without one when None.
            num_tokens: T, where there is no text.
            batch: rows.
            seed: of the ids.

        Raises:
            InputError: the text encodes to no token, or the model has no tokenizer for it.
        """
        if self.backend == "numpy":
            name = self.source or self.name
            return make_prompt(name, self.model, text=text, num_tokens=num_tokens, batch=batch, seed=seed)
        if text is not None:
            return _same_rows(self.encode(text) if text else [], batch)
        if self.source == BUILT_IN:
            return _heldout_rows(load(mini_path()), num_tokens, batch, seed)
        from perstep.targets import transformers

        return _drawn_rows(self.facts["vocab"], num_tokens, batch, seed, transformers.special_ids(self.model))

    def encode(self, text: str) -> list[int]:
        """The token ids of a text.

        Raises:
            InputError: the model has no tokenizer.
        """
        if self.backend == "numpy":
            return list(self.model.encode(text))
        if self.source == BUILT_IN:
            return list(FolderTokenizer(mini_path()).encode(text))
        if self.source is None:
            raise InputError(f"{self.name} has random weights and no tokenizer; give --prompt-tokens in place of text")
        from perstep.targets import transformers

        return transformers.encode(self.source, text)


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
        layers: number of leading decoder layers of `arch` to keep.
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
    name = BUILT_IN if model is None else model
    if _backend(name, arch, backend) == "numpy":
        return _open_reference(name, arch, dtype, device)
    return _open_transformers(name, arch, layers, dtype, device, seed)


def weight_bytes(
    model: str | None,
    *,
    arch: str | None = None,
    layers: int | None = None,
    backend: Backend | None = None,
    dtype: str | None = None,
) -> int:
    """What the weights take in memory of the model that `open_model` would open, by shapes; nothing is loaded.

    Args:
        model: as `open_model` takes it, as the others are.
        arch: a preset's name or a config.json.
        layers: number of leading decoder layers of `arch` to keep.
        backend: what runs it.
        dtype: of the weights.

    Raises:
        InputError: there is no configuration there.
    """
    name = BUILT_IN if model is None else model
    stored: str | Path = mini_path() if name == BUILT_IN else name
    if arch is None and _backend(name, arch, backend) == "numpy":
        return reference_bytes(Path(stored))
    from perstep.targets import transformers

    if arch is not None:
        return transformers.arch_bytes(arch, layers=layers, dtype=dtype or "float32")
    return transformers.stored_bytes(stored, dtype=dtype)


def _backend(name: str, arch: str | None, asked: Backend | None) -> Backend:
    if asked is not None:
        return asked
    return "numpy" if arch is None and name == BUILT_IN else "torch"


def _open_reference(name: str, arch: str | None, dtype: str | None, device: str) -> Opened:
    if arch is not None:
        raise InputError("--arch builds a transformers model; leave out --backend numpy")
    if device != "cpu":
        raise InputError(f"--device {device}: the NumPy decoder runs on the cpu; give --backend torch")
    model = open_target(name)
    if dtype not in {None, model.config.dtype}:
        raise InputError(f"--dtype {dtype}: the NumPy decoder runs {name} in {model.config.dtype}; leave it out")
    shown = name if name == BUILT_IN else _folder_name(name)
    return Opened(shown, "numpy", model, False, describe_target(name, model), name)


def _open_transformers(
    name: str, arch: str | None, layers: int | None, dtype: str | None, device: str, seed: int
) -> Opened:
    from perstep.targets import transformers

    total = None
    if arch is not None:
        model = transformers.build(arch, layers=layers, dtype=dtype or "float32", seed=seed, device=device)
        total = layers if layers is None else transformers.arch_layers(arch)
        shown = shown_name(arch if arch in transformers.presets() else _folder_name(arch), layers, total)
    else:
        model = transformers.load(mini_path() if name == BUILT_IN else name, dtype=dtype)
        shown = _folder_name(name) if Path(name).is_dir() else name
        model = transformers.to_device(model, device)
    source = None if arch is not None else name
    facts = {**transformers.describe(shown, model), **({} if total == layers else {"total_layers": total})}
    return Opened(shown, "torch", model, arch is not None, facts, source)


def shown_name(name: str, kept: int | None, total: int | None) -> str:
    """A model's name wherever it is shown, so that what was measured of a few layers is not said of all.

    Args:
        name: of the whole model.
        kept: layers that were kept; None for all.
        total: layers that it has.
    """
    return name if kept is None or kept == total else f"{name}, {kept} of {total} layers"


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


def describe_target(name: str, model: Reference) -> dict[str, Json]:
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
        return _same_rows(model.encode(text) if text else [], batch)
    if name == BUILT_IN:
        return _heldout_rows(model, num_tokens, batch, seed)
    return _drawn_rows(model.config.vocab, num_tokens, batch, seed)


def _same_rows(ids: Sequence[int], batch: int) -> NDArray[np.int64]:
    if not ids:
        raise InputError("--prompt is empty: give a text of at least one token")
    return np.tile(np.asarray(ids, np.int64), (batch, 1))


def _heldout_rows(model: Reference, num_tokens: int, batch: int, seed: int) -> NDArray[np.int64]:
    stream = np.asarray(model.encode(heldout_path().read_text(encoding="utf-8")), np.int64)
    starts = np.random.default_rng([seed, 0]).integers(0, len(stream), batch)
    return np.stack([np.take(stream, np.arange(start, start + num_tokens), mode="wrap") for start in starts])


def _drawn_rows(vocab: int, num_tokens: int, batch: int, seed: int, never: Sequence[int] = ()) -> NDArray[np.int64]:
    allowed = np.setdiff1d(np.arange(vocab), never)
    return allowed[np.random.default_rng([seed, 0]).integers(0, len(allowed), (batch, num_tokens))]
