"""What a manifest says of a transformers model, and putting one on its device."""

import hashlib
import json

from perstep.errors import InputError
from perstep.targets.transformers.device_check import check_device, refuse_if_no_room
from perstep.targets.transformers.protocols import Model, Setting
from perstep.targets.transformers.weights import unknown_arithmetic, weight_bytes


def describe(name: str, model: Model) -> dict[str, Setting]:
    """A transformers model's shapes for a manifest.

    Args:
        name: as it is shown.
        model: a transformers model.
    """
    config = model.config
    text = config if config.is_encoder_decoder else config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", None)
    return {
        "name": name,
        "backend": "torch",
        "class": type(model).__name__,
        "model_type": config.model_type,
        "num_layers": getattr(text, "num_hidden_layers", None),
        "hidden": getattr(text, "hidden_size", None),
        "heads": heads,
        "kv_heads": getattr(text, "num_key_value_heads", None) or heads,
        "head_dim": getattr(text, "head_dim", None),
        "intermediate": getattr(text, "intermediate_size", None),
        "vocab": getattr(text, "vocab_size", None),
        "max_positions": getattr(text, "max_position_embeddings", None),
        "tied_head": bool(getattr(config, "tie_word_embeddings", False)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "attn_implementation": getattr(text, "_attn_implementation", None),
        # Tied ones once. Packed weights do not show how many numbers they stand for.
        "num_parameters": None if unknown_arithmetic(model) else sum(p.numel() for p in model.parameters()),
        "weight_bytes": weight_bytes([model]),
    }


def config_hash(model: Model) -> str:
    """SHA-256 of a model's configuration, apart from where it was loaded from and what wrote it."""
    settings = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        settings.pop(name, None)
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def special_ids(model: Model) -> list[int]:
    """The token ids that a configuration gives a meaning: ends, padding, placeholders of pictures ..."""
    configs = [model.config, model.config.get_text_config(decoder=True)]
    ids = {
        value
        for config in configs
        for name, value in config.to_dict().items()
        if name.endswith(("token_id", "token_index")) and isinstance(value, int)
    }
    return sorted(ids)


def to_device(model: Model, device: str) -> Model:
    """The model on a device.

    Args:
        model: a transformers model.
        device: as torch spells it.

    Raises:
        InputError: torch knows no such device, this machine has none, or it is busy.
    """
    if device == "cpu":
        return model
    check_device(device)
    needed = weight_bytes([model]) or 0  # of weights that a library keeps to itself nothing is known
    refuse_if_no_room("the model", needed, device, "give a smaller --dtype")
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}") from error
