"""From a config.json to a `ModelShape`: reads, checks and refuses by name.

What a family means is data (`families.py`); this module only looks it up. Sizes must be there, other keys may
be missing and then mean what transformers makes of them. Opens no file.
"""

from collections.abc import Mapping

from perstep._json import Json
from perstep._words import plural
from perstep.errors import InputError
from perstep.theory.families import FAMILIES
from perstep.theory.family import Family, Values, never
from perstep.theory.refused import ENCODER, LATENT, REFUSED
from perstep.theory.shape import Layer, Mlp, ModelShape
from perstep.theory.vision import VISION

_MOST_LAYERS = 10_000
"""A billion of them, each described, would fill the memory."""
_LAYER_TYPES = {"full_attention": False, "sliding_attention": True}


def read_config(config: Mapping[str, Json]) -> ModelShape:
    """The shape of the decoder that a `config.json` describes, or the `to_dict()` of a transformers configuration.

    A vision-language configuration gives the shape of its text part. A key that is left out means what transformers
    makes of it, except for the sizes, which must be there.

    Raises:
        InputError: naming what cannot be modelled (latent attention, state spaces, encoders, an unknown model_type) or
            which key is missing or wrong.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise InputError(f"config.json: model_type must be a name, found {model_type!r}")
    _refuse(model_type, config)
    if model_type in VISION:
        return _read_vision(model_type, config)
    if model_type not in FAMILIES:
        supported = ", ".join(sorted(FAMILIES | VISION))
        raise InputError(f"config.json: model_type {model_type!r} is not one of {supported}")
    return _Reader(model_type, config).shape()


def size_in(config: Mapping[str, Json], key: str) -> int:
    """A size that a `config.json` must have.

    Raises:
        InputError: it is missing, or no positive integer.
    """
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"config.json: {key} must be a positive integer, found {value!r}")
    return value


def shape_of(config: Mapping[str, Json]) -> ModelShape | None:
    """The shape that a config describes, or None where there is no formula for it."""
    try:
        return read_config(config)
    except InputError:
        return None


def _refuse(model_type: str, config: Mapping[str, Json]) -> None:
    reason = REFUSED.get(model_type)
    if reason is None and config.get("kv_lora_rank") is not None:  # a model_type that nobody has named yet
        reason = LATENT
    if reason is None and config.get("is_encoder_decoder"):
        reason = ENCODER
    if reason is not None:
        raise InputError(f"config.json: model_type {model_type!r} has {reason}; its costs are not modelled")


def _read_vision(model_type: str, config: Mapping[str, Json]) -> ModelShape:
    """The text part; older files have its keys beside `vision_config` rather than under `text_config`."""
    vision = VISION[model_type]
    text = config.get("text_config")
    if text is None:
        text = {key: value for key, value in config.items() if key != "model_type"}
    if not isinstance(text, Mapping):
        raise InputError(f"config.json: text_config must be an object, found {text!r}")
    tied = config.get("tie_word_embeddings", vision.tied)
    if vision.either:
        tied = tied or text.get("tie_word_embeddings", False)
    return read_config({"model_type": vision.text, **text, "tie_word_embeddings": tied})


class _Reader:
    """The values of one file under their usual names, with what is missing filled in, and checks on reading."""

    def __init__(self, model_type: str, config: Mapping[str, Json]):
        self.model_type = model_type
        self.family: Family = FAMILIES[model_type]
        self.keys = self.family.keys
        renamed = {usual: config[spelt] for usual, spelt in self.keys.items() if config.get(spelt) is not None}
        given: Values = {"tie_word_embeddings": self.family.tied, **self.family.defaults, **config, **renamed}
        self.values = given
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"):  # adjustments count with these
            self.count(key)
        self.values = self.family.adjust(given)

    def shape(self) -> ModelShape:
        """Everything together."""
        values, family = self.values, self.family
        hidden, heads = self.count("hidden_size"), self.count("num_attention_heads")
        head_dim = self.head_dim(hidden, heads)
        if values.get("word_embed_proj_dim") not in (None, hidden):
            raise InputError(
                f"config.json: word_embed_proj_dim {values['word_embed_proj_dim']} other than "
                f"hidden_size {hidden} is not modelled"
            )
        max_positions = self.count("max_position_embeddings")
        positions = values.get("positions", family.positions)
        return ModelShape(
            model_type=self.model_type,
            vocab=self.count("vocab_size"),
            hidden=hidden,
            heads=heads,
            kv_heads=heads if values.get("num_key_value_heads") is None else self.count("num_key_value_heads"),
            head_dim=head_dim,
            max_positions=max_positions,
            layers=self.layers(hidden, self.rotary(head_dim) if positions == "rope" else 0),
            tied=self.flag("tie_word_embeddings"),
            norm=values.get("norm", family.norm),
            norms_per_layer=values.get("norms_per_layer", family.norms_per_layer),
            final_norm=values.get("final_norm", True),
            embed_norm=family.embed_norm,
            qk_norm=values.get("qk_norm", family.qk_norm),
            qkv_bias=self.bias(family.qkv_bias),
            out_bias=self.bias(family.out_bias),
            head_bias=self.bias(family.head_bias),
            positions=positions,
            position_rows=max_positions + family.extra_position_rows if positions == "learned" else 0,
            extra_embeddings=values.get("extra_embeddings", 0),
            embed_scale=family.embed_scale,
            sinks=family.sinks,
            softcap_scores=values.get("attn_logit_softcapping") is not None,
            softcap_logits=values.get("final_logit_softcapping") is not None,
        )

    def head_dim(self, hidden: int, heads: int) -> int:
        """The width of a head: given, or the hidden size divided among the heads."""
        if self.values.get("head_dim") is not None:
            return self.count("head_dim")
        if hidden % heads:
            raise InputError(
                f"config.json: hidden_size {hidden} must be a multiple of num_attention_heads {heads} "
                "when head_dim is not given"
            )
        return hidden // heads

    def rotary(self, head_dim: int) -> int:
        """How many numbers of a head are rotated."""
        if self.values.get("rotary_dim") is not None:
            return self.count("rotary_dim")
        rope = self.values.get("rope_parameters") or self.values.get("rope_scaling") or {}
        places = [rope if isinstance(rope, Mapping) else {}, self.values]
        shares = [place[key] for place in places for key in ("partial_rotary_factor", "rotary_pct") if key in place]
        share = shares[0] if shares else self.family.partial_rotary
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise InputError(f"config.json: partial_rotary_factor must be a number from 0 to 1, found {share!r}")
        return int(head_dim * share)

    def layers(self, hidden: int, rotary: int) -> tuple[Layer, ...]:
        """One entry a layer."""
        count = self.count("num_hidden_layers")
        if count > _MOST_LAYERS:
            raise InputError(f"config.json: num_hidden_layers {count}: at most {_MOST_LAYERS:,} are modelled")
        rotates = self.values.get("no_rope_layers") or [True] * count
        windowed = self.windowed(count)
        if len(rotates) < count:
            raise InputError(
                f"config.json: no_rope_layers has {plural(len(rotates), 'entry', 'entries')} for "
                f"{plural(count, 'layer')}"
            )
        window = self.count("sliding_window") if any(windowed) else None
        dense, mixture = self.dense(hidden), self.mixture()
        return tuple(
            Layer(
                mlp=mixture if mixture is not None and self.is_sparse(index) else dense,
                window=window if windowed[index] else None,
                rotary=rotary if rotates[index] else 0,
            )
            for index in range(count)
        )

    def windowed(self, count: int) -> list[bool]:
        """Which layers have a sliding window: as listed, or by the family's rule."""
        kinds = self.values.get("layer_types")
        if self.values.get("sliding_window") is None:
            return [False] * count
        if kinds is None or self.family.windowed is never:
            return [self.family.windowed(self.values, index) for index in range(count)]
        unknown = [kind for kind in kinds if kind not in _LAYER_TYPES]
        if unknown or len(kinds) < count:
            raise InputError(
                f"config.json: layer_types must name {plural(count, 'layer')}, each {' or '.join(_LAYER_TYPES)}, found "
                f"{kinds!r}"
            )
        return [_LAYER_TYPES[kind] for kind in kinds[:count]]

    def is_sparse(self, index: int) -> bool:
        """Whether a layer of a mixture family is one, as Qwen's MoE models may mix both kinds."""
        if index in (self.values.get("mlp_only_layers") or []):
            return False
        return (index + 1) % int(self.values.get("decoder_sparse_step", 1)) == 0

    def dense(self, hidden: int) -> Mlp:
        """The feed-forward part of a dense layer."""
        silent = self.values.get("intermediate_size") is None and "intermediate_size" in self.family.defaults
        width = 4 * hidden if silent else self.count("intermediate_size")
        return Mlp(width, self.family.gated, self.activation(), bias=self.bias(self.family.mlp_bias))

    def mixture(self) -> Mlp | None:
        """The feed-forward part of a mixture layer, if the family has them."""
        keys = self.family.mixture
        if keys is None:
            return None
        return Mlp(
            self.count(keys.width),
            self.family.gated,
            self.activation(),
            bias=keys.bias,
            experts=self.count(keys.experts),
            active=self.count("num_experts_per_tok"),
            shared_width=self.count(keys.shared) if keys.shared else 0,
            shared_gate=keys.shared is not None,
            router_bias=keys.bias,
        )

    def activation(self) -> str:
        """The activation's name; `ModelShape` checks it."""
        return str(self.values.get("hidden_act") or self.family.activation)

    def bias(self, rule: bool | str) -> bool:
        """Whether products of a kind have a bias."""
        if isinstance(rule, bool):
            return rule
        return self.flag(rule) if rule in self.values else False

    def count(self, key: str) -> int:
        """A positive integer."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"config.json: {self.keys.get(key, key)} must be a positive integer, found {value!r}")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.values[key]
        if not isinstance(value, bool):
            raise InputError(f"config.json: {key} must be true or false, found {value!r}")
        return value
