"""Models to measure: real architectures with random weights, and stored models.

The cost of matrix work does not depend on the weights. `RANDOM_WEIGHTS` says what
does (law "random weights are a statement"). The table of architectures is data
(`presets.toml`), with the source of each figure. The network is used for a hub id
alone, and no code that comes with a model is ever run.
"""

import copy
import re
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perstep._words import plural
from perstep.errors import InputError
from perstep.targets.transformers import version
from perstep.targets.transformers._silence import silent
from perstep.targets.transformers.device_check import check_device, refuse_if_no_room
from perstep.targets.transformers.protocols import Config, Model, Setting

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

RANDOM_WEIGHTS: Final = (
    "The weights are random: matrix work costs what it costs with trained ones, but top-p nuclei, expert routing, mask "
    "density and stopping do not."
)
"""The note of a run whose model has random weights."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TILE = 1_048_573  # a prime, so that no two rows of a weight are alike
_SMALL = 65_536
MAX_LAYERS = 1_000
_LAYER_COUNTS = ("num_hidden_layers", "num_decoder_layers", "num_layers", "encoder_layers", "decoder_layers")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


_BAD_CONFIG = (ValueError, ImportError, LookupError, AttributeError, TypeError, ArithmeticError, RuntimeError)
"""What a constructor raises on settings that do not go together: each architecture in its own way."""


@cache
def presets() -> dict[str, dict[str, Setting]]:
    """The table of architectures: name -> `source`, `parameters` (as published) and `config`."""
    return tomllib.loads((files(__package__) / "presets.toml").read_text(encoding="utf-8"))


def build(
    arch: str | Path,
    *,
    layers: int | None = None,
    vocab: int | None = None,
    dtype: str = "float32",
    seed: int = 0,
    attn_implementation: str | None = None,
    device: str = "cpu",
) -> Model:
    """A model of a real architecture with random weights, built on its device, in evaluation mode.

    The weights are one tile of normal numbers repeated, which takes as long as writing the memory:
    a billion numbers of their own would take ten seconds. On a device they never pass through the host's memory.

    Args:
        arch: the name of a preset, or the path of a `config.json` or of a folder that holds one.
        layers: number of leading layers to keep, of the decoder and of the encoder.
        vocab: a vocabulary of another size; special tokens outside of it are dropped.
        dtype: of the weights, as torch spells it.
        seed: of the weights.
        attn_implementation: as transformers spells it; its default when None.
        device: as torch spells it.

    Raises:
        InputError: an unknown architecture, a number out of range, too little memory, or a device that is not here.
    """
    version.require()
    import torch

    torch_dtype = _dtype(dtype)
    config = _config(arch)
    if layers is not None:
        _keep_layers(config, layers, arch)
    if vocab is not None:
        _resize_vocabulary(config, vocab)
    make = _maker(config, torch_dtype, attn_implementation)
    check_device(device)
    with torch.device("meta"):
        _check_memory(make(), torch_dtype, arch, device)
    with _uninitialised(), torch.device(device):
        model = make()
    model.tie_weights()
    _fill(model, config, seed, device)
    return model.eval()


def load(path_or_id: str | Path, *, dtype: str | None = None, attn_implementation: str | None = None) -> Model:
    """A stored model, in evaluation mode: of a local folder, or of the hub.

    A folder that exists is read without the network, whatever its name; the hub is asked only when
    there is no such folder and the name looks like `org/name`.

    Args:
        path_or_id: the folder, or the hub id.
        dtype: of the weights, as torch spells it; as stored when None.
        attn_implementation: as transformers spells it; its default when None.

    Raises:
        InputError: nothing can be loaded from there.
    """
    version.require()
    from transformers import AutoConfig

    name = str(path_or_id)
    local = bool(name) and Path(path_or_id).is_dir()
    if not local and not (isinstance(path_or_id, str) and _HUB_ID.fullmatch(name)):
        shown = name or repr(name)
        raise InputError(f"no folder {shown}: give a folder with a config.json, or a hub id such as org/name")
    # Safetensors alone: a pickle is a program. What is missing is filled with random numbers unless it is asked about.
    options: dict[str, Setting] = {
        "local_files_only": local, "trust_remote_code": False, "use_safetensors": True, "output_loading_info": True
    }  # fmt: skip
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    torch_dtype = "auto" if dtype is None else _dtype(dtype)
    try:
        with silent():
            config = AutoConfig.from_pretrained(name, local_files_only=local, trust_remote_code=False)
            _check_layers(config)
            model: Model
            model, report = _auto_class(config).from_pretrained(name, dtype=torch_dtype, **options)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a folder can be broken in more ways than transformers has errors
        raise InputError(f"cannot load a model from {name}: {_first_line(error)}") from error
    if missing := report["missing_keys"]:
        raise InputError(
            f"{name} lacks {len(missing)} of the model's weights, such as {min(missing)}; give a whole model"
        )
    return model.eval()


def _check_layers(config: Config) -> None:
    """A layer is some 10 ms of making objects in Python: a million take hours before any weight is there."""
    for part in (config, _decoder_config(config)):
        for count in (getattr(part, name, None) for name in _LAYER_COUNTS):
            if isinstance(count, int) and count > MAX_LAYERS:
                raise InputError(
                    f"the model has {plural(count, 'layer')}, of at most {MAX_LAYERS:,}; --layers keeps the first of "
                    "an --arch"
                )


def arch_layers(arch: str | Path) -> int:
    """How many decoder layers an architecture has.

    Args:
        arch: the name of a preset, or the path of a `config.json` or of a folder that holds one.

    Raises:
        InputError: an unknown architecture.
    """
    version.require()
    return int(_decoder_config(_config(arch)).num_hidden_layers)


def arch_bytes(arch: str | Path, *, layers: int | None = None, dtype: str = "float32") -> int:
    """What the weights take that `build` would make, by their shapes; nothing is allocated.

    Args:
        arch: the name of a preset, or the path of a `config.json` or of a folder that holds one.
        layers: number of leading decoder layers to keep.
        dtype: of the weights, as torch spells it.

    Raises:
        InputError: an unknown architecture, or a number out of range.
    """
    version.require()
    torch_dtype = _dtype(dtype)
    config = _config(arch)
    if layers is not None:
        _keep_layers(config, layers, arch)
    return _shape_bytes(config, torch_dtype)


def stored_bytes(path_or_id: str | Path, *, dtype: str | None = None) -> int:
    """What the weights take that `load` would read; they are not read.

    By the shapes of the configuration; by the sizes of its files where a local folder holds quantised weights, whose
    shapes differ from those of the configuration.

    Args:
        path_or_id: the folder, or the hub id.
        dtype: of the weights, as torch spells it; the one that the configuration names when None.

    Raises:
        InputError: there is no configuration of a generating model.
    """
    version.require()
    import torch
    from transformers import AutoConfig

    name = str(path_or_id)
    local = Path(path_or_id).is_dir()
    if not local and not _HUB_ID.fullmatch(name):
        raise InputError(f"no folder {name}: give a folder with a config.json, or a hub id such as org/name")
    try:
        with silent():
            config = AutoConfig.from_pretrained(name, local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(f"cannot load a model from {name}: {_first_line(error)}") from error
    if local and getattr(config, "quantization_config", None) is not None:
        return sum(file.stat().st_size for file in Path(path_or_id).glob("*.safetensors"))
    named = getattr(config, "dtype", None) if dtype is None else _dtype(dtype)
    return _shape_bytes(config, named if isinstance(named, torch.dtype) else torch.float32)


def encode(path_or_id: str | Path, text: str) -> list[int]:
    """The token ids of a text, special tokens included, by the tokenizer stored with a model.

    Args:
        path_or_id: the model's folder, or its hub id.
        text: to encode.

    Raises:
        InputError: there is no tokenizer.
    """
    version.require()
    from transformers import AutoTokenizer

    local = Path(path_or_id).is_dir()
    try:
        with silent():
            tokenizer = AutoTokenizer.from_pretrained(str(path_or_id), local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(
            f"{path_or_id} has no tokenizer that transformers can load; give --prompt-tokens in place of text"
            f" ({_first_line(error)})"
        ) from error
    return [int(token) for token in tokenizer(text)["input_ids"]] if text else []


def _config(arch: str | Path) -> Config:
    from transformers import AutoConfig

    if isinstance(arch, str) and arch in presets():
        settings = copy.deepcopy(presets()[arch]["config"])
        with silent():
            preset: Config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        return preset
    path = Path(arch)
    if not path.exists():
        raise InputError(
            f"unknown architecture {str(arch)!r}: choose from {', '.join(presets())}, or give a config.json"
        )
    try:
        with silent():
            stored: Config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not the configuration of a transformers model: {_first_line(error)}") from error
    return stored


def _dtype(name: str) -> "torch.dtype":
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"unknown dtype {name!r}: choose from float32, bfloat16, float16")
    return dtype


def _keep_layers(config: Config, layers: int, arch: str | Path) -> None:
    text = _decoder_config(config)
    count = text.num_hidden_layers
    if not 1 <= layers <= count:
        raise InputError(f"{arch} has {plural(count, 'layer')}, so layers must be between 1 and {count}, not {layers}")
    for name, value in list(text.to_dict().items()):
        if isinstance(value, list) and len(value) == count:  # one entry a layer, such as layer_types
            setattr(text, name, value[:layers])
    for name in _LAYER_COUNTS:
        if hasattr(text, name):
            setattr(text, name, layers)


def _resize_vocabulary(config: Config, vocab: int) -> None:
    if vocab < 2:
        raise InputError(f"a vocabulary of {vocab}: it must hold at least 2 tokens")
    for part in {id(part): part for part in (config, _decoder_config(config))}.values():
        if hasattr(part, "vocab_size"):
            part.vocab_size = vocab
        for name in _TOKEN_IDS:
            token_id = getattr(part, name, None)
            if isinstance(token_id, int) and token_id >= vocab:
                setattr(part, name, None)


def _decoder_config(config: Config) -> Config:
    """The part of a configuration that shapes the decoder; of an encoder-decoder's a copy would be given."""
    return config if config.is_encoder_decoder else config.get_text_config(decoder=True)


def _auto_class(config: Config) -> Setting:
    """The class that builds a generating model of this configuration: with its vision part, if it has one."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
    from transformers.models.auto import modeling_auto

    for mapping, auto_class in (
        (modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoModelForImageTextToText),
        (modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, AutoModelForSeq2SeqLM),
        (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM),
    ):
        if type(config) in mapping:
            return auto_class
    raise InputError(f"a model of type {config.model_type} does not generate text with transformers")


def _maker(config: Config, dtype: "torch.dtype", attn_implementation: str | None) -> Callable[[], Model]:
    _check_layers(config)
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    auto_class = _auto_class(config)

    def make() -> Model:
        try:
            model: Model = auto_class.from_config(
                copy.deepcopy(config), dtype=dtype, trust_remote_code=False, **options
            )
        except _BAD_CONFIG as error:
            raise InputError(f"transformers cannot build this model: {_first_line(error)}") from error
        return model

    return make


def _shape_bytes(config: Config, dtype: "torch.dtype") -> int:
    import torch

    with torch.device("meta"), silent():
        return _bytes(_maker(config, dtype, None)(), dtype)


def _bytes(shape: Model, dtype: "torch.dtype") -> int:
    """Of a model's weights; tied ones count once."""
    return int(sum(parameter.numel() for parameter in shape.parameters()) * dtype.itemsize)


def _check_memory(shape: Model, dtype: "torch.dtype", arch: str | Path, device: str) -> None:
    import psutil

    needed = _bytes(shape, dtype)
    if device != "cpu":
        spelt = str(dtype).removeprefix("torch.")
        refuse_if_no_room(f"{arch} in {spelt}", needed, device, "keep fewer layers, or use bfloat16")
        return
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{arch} needs {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')} and {free / 1e9:.1f} GB are "
            "free: keep fewer layers, or use bfloat16"
        )


def _uninitialised() -> AbstractContextManager[None]:
    """A context in which models are built without drawing their weights."""
    try:
        module = import_module("transformers.initialization")
    except ImportError:  # transformers 4
        module = import_module("transformers.modeling_utils")
    context: AbstractContextManager[None] = module.no_init_weights()
    return context


def _fill(model: Model, config: Config, seed: int, device: str) -> None:
    """Give every parameter its values: the tile, and in small modules what the architecture itself would set."""
    import torch

    std = getattr(config.get_text_config(decoder=True), "initializer_range", None) or 0.02
    generator = torch.Generator().manual_seed(seed)
    tile = torch.randn(_TILE, generator=generator) * std
    tile = tile.to(device)  # once: the same weights as on a CPU
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                start = int(torch.randint(_TILE, (1,), generator=generator))
                _repeat(tile.to(parameter.dtype).roll(start), parameter.view(-1))
        torch.manual_seed(seed)
        _initialise_small(model, model)


def _repeat(tile: "torch.Tensor", flat: "torch.Tensor") -> None:
    whole = len(flat) // len(tile) * len(tile)
    flat[:whole].view(-1, len(tile)).copy_(tile)
    flat[whole:].copy_(tile[: len(flat) - whole])


def _initialise_small(module: "Model | Module", owner: Setting) -> None:
    """Let the architecture set the modules that are cheap to set: norms, gates, whole models when tiny."""
    if hasattr(module, "_init_weights"):
        owner = module
    for child in module.children():
        _initialise_small(child, owner)
    if 0 < sum(parameter.numel() for parameter in module.parameters()) <= _SMALL:
        owner._init_weights(module)


def _first_line(error: Exception) -> str:
    """What an error says, and its kind where that is a name alone, as a missing key's is."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return f"{type(error).__name__} {lines[0]}" if isinstance(error, KeyError) else lines[0]
