"""Finding the target that a person named, and what to feed it.

`mini` is the model that ships with perstep; anything else is a folder. Nothing is fetched from a network.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perstep.data import heldout_path, mini_path
from perstep.errors import InputError
from perstep.targets.reference import Reference, load

BUILT_IN = "mini"


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
