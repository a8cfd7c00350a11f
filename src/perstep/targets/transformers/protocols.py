"""What the adapter touches of transformers, as mypy sees it; torch's own types are used as torch gives them.

Types only: nothing here imports torch or transformers when it runs. transformers itself is not read by mypy, which
would go through every architecture's module: what comes from it is unchecked until it gets one of these types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from torch.nn import Module

Argument = Any
"""A keyword argument of generate or of a forward: its type goes by its name."""

Setting = Any
"""A value of a configuration: its type goes by its name and differs between architectures."""


class Config(Protocol):
    """A model's configuration, or its text part."""

    model_type: str
    is_encoder_decoder: bool
    num_hidden_layers: int
    hidden_size: int
    vocab_size: int
    layer_types: list[str]
    vision_config: Setting
    _attn_implementation: str | None
    _experts_implementation: str | None

    def get_text_config(self, decoder: bool = False) -> Config:
        """The part that shapes the text decoder."""
        ...

    def to_dict(self) -> dict[str, Setting]:
        """Its values by name."""
        ...


class GenerationConfig(Protocol):
    """How a call generates."""

    do_sample: bool
    num_beams: int | None
    max_length: int | None
    return_dict_in_generate: bool | None
    compile_config: Setting
    _pad_token_tensor: torch.Tensor | None

    def get_generation_mode(self, assistant_model: object = None) -> Setting:
        """The mode, a member of transformers' enumeration."""
        ...


class Output(Protocol):
    """What a forward returns."""

    logits: torch.Tensor
    past_key_values: Cache | None

    def __getitem__(self, name: str, /) -> Argument:
        """One of its values by name."""
        ...


class Parts(Protocol):
    """What has modules inside it: a model, or one of its modules."""

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside it."""
        ...


class Model(Parts, Protocol):
    """A model that generates."""

    config: Config
    generation_config: GenerationConfig
    forward: Callable[..., Output]
    _compiled_call_impl: Callable[..., Output] | None
    _forward_pre_hooks: Mapping[int, object]
    _forward_hooks: Mapping[int, object]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        ...

    def __call__(self, *args: Argument, **kwargs: Argument) -> Output:
        """Run a forward."""
        ...

    def generate(self, *args: Argument, **kwargs: Argument) -> Generated:
        """Generate tokens."""
        ...

    def prepare_inputs_for_generation(self, *args: Argument, **kwargs: Argument) -> dict[str, Argument]:
        """The arguments of the next forward."""
        ...

    def get_input_embeddings(self) -> Module:
        """The table of token embeddings."""
        ...

    def get_output_embeddings(self) -> Module | None:
        """The language-model head."""
        ...

    def get_encoder(self) -> Module:
        """Of an encoder-decoder model."""
        ...

    def get_decoder(self) -> Module:
        """The decoder without its head."""
        ...

    def get_image_features(self, **kwargs: Argument) -> Argument:
        """What the vision tower and its projector give: a tensor, a list of them, or an output that holds them."""
        ...

    def set_experts_implementation(self, name: str) -> None:
        """Choose what the experts run with."""
        ...

    def modules(self) -> Iterator[Module]:
        """All modules, itself first."""
        ...

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """The same with their names."""
        ...

    def children(self) -> Iterator[Module]:
        """The modules directly inside it."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The weights; tied ones once."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The same with their names."""
        ...

    def buffers(self) -> Iterator[torch.Tensor]:
        """The tensors that are no weights."""
        ...

    def to(self, device: str) -> Model:
        """Move it."""
        ...

    def eval(self) -> Model:
        """Put it in evaluation mode."""
        ...

    def tie_weights(self) -> None:
        """Tie the head to the embeddings where the configuration says so."""
        ...


Generated = Any
"""What generate returns: a tensor of token ids, or an output that holds one as `sequences`."""


class Streamer(Protocol):
    """What is handed tokens as they are chosen."""

    def put(self, value: torch.Tensor) -> None:
        """Take tokens."""
        ...

    def end(self) -> None:
        """There are no more."""
        ...


class Cache(Protocol):
    """A cache of keys and values."""

    update: Callable[..., object]

    def crop(self, max_length: int) -> None:
        """Keep this number of positions; with a negative number, remove its absolute value."""
        ...


class StoppingCriterion(Protocol):
    """A stopping criterion as generate calls it; the scores are those that the call records, or None."""

    def __call__(self, input_ids: torch.Tensor, scores: Argument, /) -> torch.Tensor:
        """Which rows stop, bool [B]."""
        ...


def sequences_of(result: Generated) -> torch.Tensor:
    """The token ids [B, T] in what generate returned."""
    ids: torch.Tensor = result.sequences if hasattr(result, "sequences") else result
    return ids
