"""Finding the target that a person named.

`mini` is the model that ships with perstep; anything else is a folder, an architecture with random weights, or a hub
id, which alone is fetched from a network. The NumPy decoder runs `mini`, transformers everything else, unless told.
"""

from importlib import import_module
from types import ModuleType

from perstep.errors import InputError
from perstep.targets.target import BUILT_IN, Backend, Target

BACKENDS: dict[Backend, str] = {
    "numpy": "perstep.targets.reference.target",
    "torch": "perstep.targets.transformers.target",
}
"""The module of each backend. It has `open_model` and `weight_bytes`, which take what those here take."""


def open_model(
    model: str | None,
    *,
    arch: str | None = None,
    layers: int | None = None,
    backend: Backend | None = None,
    dtype: str | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Target:
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
    opened: Target = _module(name, arch, backend).open_model(
        name, arch=arch, layers=layers, dtype=dtype, device=device, seed=seed
    )
    return opened


def weight_bytes(
    model: str | None,
    *,
    arch: str | None = None,
    layers: int | None = None,
    backend: Backend | None = None,
    dtype: str | None = None,
) -> int:
    """What the weights take in memory of the model that `open_model` would open, by shapes; nothing is loaded.

    Raises:
        InputError: there is no configuration there.
    """
    name = BUILT_IN if model is None else model
    return int(_module(name, arch, backend).weight_bytes(name, arch=arch, layers=layers, dtype=dtype))


def _module(name: str, arch: str | None, asked: Backend | None) -> ModuleType:
    usual: Backend = "numpy" if arch is None and name == BUILT_IN else "torch"
    return import_module(BACKENDS[asked or usual])
