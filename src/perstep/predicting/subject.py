"""What a prediction is of: a shape, a batch and a context, worked through in one way on one machine."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from perstep._files import read_given
from perstep._json import Json
from perstep._words import plural, short
from perstep.data import mini_path
from perstep.errors import InputError
from perstep.experiments.bounds import BACKENDS, backend_for
from perstep.targets import BUILT_IN
from perstep.targets.transformers.presets import presets
from perstep.theory import (
    ModelShape,
    Precision,
    StepCost,
    bytes_each,
    decode,
    kv_bytes,
    parameters,
    read_config,
    step_cost,
)

_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")


@dataclass(frozen=True)
class Way:
    """How steps are carried out. Cells of two ways are never fitted together.

    Attributes:
        backend: a name of `experiments.bounds.BACKENDS`.
        dtype: of the weights.
        device: as torch spells it.
        threads: of the matrix library.
        choosing: how tokens are chosen, by `choosing`.
        processors: further logits processors of each step, by their parts' names in a ledger, in order.
        mixture: whether layers are mixtures of experts, whose calls theory does not count.
    """

    backend: str
    dtype: str
    device: str
    threads: int
    choosing: str
    processors: tuple[str, ...] = ()
    mixture: bool = False

    @property
    def words(self) -> str:
        """In a sentence."""
        how = [self.backend, self.dtype, self.device, plural(self.threads, "thread"), self.choosing, *self.processors]
        return ", ".join([*how, "mixture of experts"] if self.mixture else how)


GREEDY = "greedy"


def is_mixture(shape: ModelShape) -> bool:
    """Whether all layers are mixtures of experts, or none.

    Raises:
        InputError: some are: theory has one sum for both kinds of layers, and a ledger two parts.
    """
    kinds = {bool(layer.mlp.experts) for layer in shape.layers}
    if len(kinds) > 1:
        raise InputError(
            "a model of dense layers and of mixtures of experts is not predicted: theory does not part them"
        )
    return kinds == {True}


def choosing(temperature: float, top_k: int, top_p: float) -> str:
    """How tokens are chosen: what of a sampler's settings decides which work a step does."""
    if temperature == 0:
        return GREEDY
    scaled = ["by a temperature"] if temperature != 1 else []
    limits = [f"top-k {top_k}"] if top_k else []
    return " ".join(["sampled", *scaled, *limits, *([f"top-p {short(top_p)}"] if top_p < 1 else [])])


@dataclass(frozen=True)
class Subject:
    """A decode step.

    Attributes:
        arch: the architecture's name, without the layers that were kept of it.
        shape: of the layers that run.
        batch: sequences side by side.
        context: positions in the cache.
        way: how it is carried out.
    """

    arch: str
    shape: ModelShape
    batch: int
    context: int
    way: Way

    def cost(self) -> StepCost:
        """FLOPs, bytes and calls, part by part.

        Raises:
            InputError: the model has fewer positions.
        """
        return _cost(self)

    @property
    def weight_bytes(self) -> int:
        """Of all layers, the embedding and the head."""
        return parameters(self.shape).total * bytes_each(self.way.dtype)

    @property
    def cache_bytes(self) -> int:
        """Of all sequences, the new token included."""
        return kv_bytes(self.shape, self.context + 1, batch=self.batch, dtype=self.way.dtype).used

    @property
    def name(self) -> str:
        """What it is called: `llama-3.1-70b, 80 layers, batch 64, context 131,072`."""
        layers = plural(self.shape.num_layers, "layer")
        return f"{self.arch}, {layers}, batch {self.batch}, context {self.context:,}"


@lru_cache(maxsize=4096)
def _cost(subject: Subject) -> StepCost:
    """Counted once: a validation asks for it a hundred times."""
    backend = backend_for(BACKENDS[subject.way.backend], subject.shape)
    if subject.way.device != "cpu":  # where no library packs weights
        backend = replace(backend, packing=None)
    step = decode(subject.context, batch=subject.batch)
    return step_cost(subject.shape, step, Precision.all(subject.way.dtype), backend)


def shape_named(arch: str, layers: int | None) -> tuple[str, ModelShape]:
    """The name and shape of a preset, or of a config.json; torch is not imported.

    Raises:
        InputError: there is no such architecture, theory has no formula for it, or it has fewer layers.
    """
    config = dict(_config(arch))
    path = Path(arch)
    name = path.resolve().parent.name if path.name == "config.json" else path.name
    if layers is not None:
        keep_layers(config, layers, arch)
    return name, read_config(config)


def _config(arch: str) -> Mapping[str, Json]:
    if arch in presets():
        config: Mapping[str, Json] = presets()[arch]["config"]
        return config
    path = mini_path() if arch == BUILT_IN else Path(arch)
    path = path / "config.json" if path.is_dir() else path
    try:
        read = json.loads(read_given(path))
    except FileNotFoundError as error:
        names = ", ".join(presets())
        raise InputError(f"unknown architecture {arch!r}: choose from {names}, or give a config.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no config.json: {error}") from error
    if not isinstance(read, dict):
        raise InputError(f"{path} is no config.json: it holds a {type(read).__name__}")
    return read


def keep_layers(config: dict[str, Json], layers: int, arch: str) -> None:
    """Let a configuration have its leading layers alone.

    Raises:
        InputError: it has fewer.
    """
    total = read_config(config).num_layers
    if not 1 <= layers <= total:
        raise InputError(f"{arch} has {plural(total, 'layer')}, so --layers is between 1 and {total}, not {layers}")
    for name, value in config.items():
        if isinstance(value, list) and len(value) == total:
            config[name] = value[:layers]
        elif name in _COUNTS and value == total:
            config[name] = layers
