"""The forwards of one call: the prefill, then chunks of one token or more, with inputs prepared by transformers.

Where a model leaves the preparation to transformers and has a growing cache, the inputs of one decode step differ
from those of the last in ids, positions and attention mask alone; from the second step on only these are made
(transformers takes 130 µs for all of them). Anything else is asked of the model at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import torch
from transformers import Cache, GenerationMixin
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from perstep.targets.transformers.protocols import Argument, GenerationConfig, Model, Output

# B batch, T text, n new tokens

Cut = TypeVar("Cut")

_FIRST_PAGE = 16
_LARGEST_PAGE = 128

_CHANGING = ("input_ids", "position_ids", "attention_mask")


class DecodingModel(Model, Protocol):
    """What transformers' own loop calls on the model."""

    def _valid_auto_compile_criteria(self, kwargs: dict[str, Argument], config: GenerationConfig, /) -> bool: ...
    def get_compiled_call(self, compile_config: object) -> Callable[..., Output]:
        """Its call, compiled."""
        ...

    def is_remote_code(self) -> bool:
        """Whether its class came with its weights."""
        ...

    def _prefill(
        self, ids: torch.Tensor, config: GenerationConfig, kwargs: dict[str, Argument], /, *, is_first_iteration: bool
    ) -> Output: ...
    def _has_unfinished_sequences(self, finished: bool, /, *, synced_gpus: bool, device: torch.device) -> bool: ...
    def _update_model_kwargs_for_generation(
        self,
        outputs: Output | None,
        model_kwargs: dict[str, Argument],
        /,
        *,
        is_encoder_decoder: bool,
        num_new_tokens: int,
    ) -> dict[str, Argument]: ...
    def _optimize_model_for_decode(self) -> AbstractContextManager[None]: ...


class Forwards:
    """Executes and counts the forwards of one call of `generate`.

    Attributes:
        count: forwards executed, the prefill among them.
        outputs: of the last one, as long as the next inputs follow from them.
        model_kwargs: what `generate` prepared, brought up to date.
    """

    def __init__(
        self, model: DecodingModel, generation_config: GenerationConfig, model_kwargs: dict[str, Argument]
    ) -> None:
        self.model = model
        self.count = 0
        self.outputs: Output | None = None
        self.model_kwargs = model_kwargs
        self._config = generation_config
        compiled = model._valid_auto_compile_criteria(model_kwargs, generation_config)
        self._forward = model.get_compiled_call(generation_config.compile_config) if compiled else model.__call__
        self.is_compiled = bool(compiled)
        self._inputs: dict[str, Argument] | None = None
        self._positions: Iterator[torch.Tensor] | None = None
        self._masks: Iterator[torch.Tensor] | None = None

    @property
    def cache(self) -> Cache | None:
        """The KV cache; None before the prefill of a model that makes its own, or without one."""
        return self.model_kwargs.get("past_key_values")

    def prefill(self, input_ids: torch.Tensor) -> Output:
        """The forward over the prompt."""
        self.count += 1
        self.outputs = self.model._prefill(input_ids, self._config, self.model_kwargs, is_first_iteration=True)
        # As generate does, once behind the prefill and then at every step: a ledger reads its steps off these calls.
        self.model._has_unfinished_sequences(False, synced_gpus=False, device=input_ids.device)
        return self.outputs

    def decode(self, new_ids_Bn: torch.Tensor, num_new: int, input_ids: Callable[[], torch.Tensor]) -> Output:
        """The forward over the tokens chosen since the last one.

        Args:
            new_ids_Bn: these tokens.
            num_new: how many columns they are.
            input_ids: gives the whole text, with them.
        """
        self.count += 1
        inputs = self._inputs
        if inputs is None:
            self.outputs = self._forward(**self._prepared(num_new, input_ids()), return_dict=True)
            return self.outputs
        inputs["input_ids"] = new_ids_Bn
        if self._positions is not None:
            inputs["position_ids"] = _joined(self._positions, num_new)
        if self._masks is not None:
            for _ in range(num_new):
                inputs["attention_mask"] = next(self._masks)
        return self._forward(**inputs)

    def _prepared(self, num_new: int, input_ids: torch.Tensor) -> dict[str, Argument]:
        model = self.model
        self.model_kwargs = model._update_model_kwargs_for_generation(
            self.outputs, self.model_kwargs, is_encoder_decoder=False, num_new_tokens=num_new
        )
        inputs: dict[str, Argument] = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=num_new if self.model_kwargs["use_cache"] else None, **self.model_kwargs
        )
        if self._is_regular(inputs, num_new):
            self._inputs = {**inputs, "return_dict": True}
            if inputs.get("position_ids") is not None:
                self._positions = _positions_after(inputs["position_ids"][:, -1:])
            if inputs.get("attention_mask") is not None:
                self._masks = _masks_after(inputs["attention_mask"])
            self.outputs = None  # the last logits need not outlive their step
        return inputs

    def _is_regular(self, inputs: dict[str, Argument], num_new: int) -> bool:
        """Whether the next step's inputs follow from these."""
        if not prepares_as_usual(self.model) or self.model.is_remote_code():
            return False
        cache = inputs.get("past_key_values")
        if not isinstance(cache, Cache) or cache.is_compileable or not self.model_kwargs["use_cache"]:
            return False
        if self.outputs is None or self.outputs.past_key_values is not cache:
            return False
        if any(isinstance(value, torch.Tensor) for name, value in inputs.items() if name not in _CHANGING):
            return False
        positions, mask = inputs.get("position_ids"), inputs.get("attention_mask")
        return (positions is None or (positions.ndim == 2 and positions.shape[1] == num_new)) and (
            mask is None or mask.ndim == 2
        )

    def takes_chunks(self) -> bool:
        """Whether several tokens may go through at once: a cache of keys and values that grows, and nothing else."""
        layers = getattr(self.cache, "layers", ())
        return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)

    def can_undo(self) -> bool:
        """Whether the last tokens can be taken out of the cache again."""
        layers = getattr(self.cache, "layers", None)
        return layers is not None and all(type(layer) is DynamicLayer for layer in layers)

    def undo(self, num_tokens: int) -> None:
        """Take the last tokens out of the cache again."""
        if num_tokens and self.cache is not None:
            self.cache.crop(-num_tokens)


class InputIds:
    """The text so far, concatenated on demand."""

    def __init__(self, prompt_BT: torch.Tensor) -> None:
        self._joined = prompt_BT
        self._columns: list[torch.Tensor] = []
        self.length = int(prompt_BT.shape[1])

    def append(self, tokens_B1: torch.Tensor) -> None:
        """One more token a row."""
        self._columns.append(tokens_B1)
        self.length += 1

    def last(self, num_new: int) -> torch.Tensor:
        """The last tokens of each row, [B, n]."""
        if len(self._columns) < num_new:
            return self()[:, -num_new:].contiguous()
        columns = self._columns[-num_new:]
        return columns[0] if num_new == 1 else torch.cat(columns, dim=-1)

    def without_last(self) -> torch.Tensor:
        """All of it but the last token, int64 [B, T - 1]."""
        return self()[:, :-1]

    def __call__(self) -> torch.Tensor:
        """All of it, int64 [B, T]."""
        if self._columns:
            self._joined = torch.cat([self._joined, *self._columns], dim=-1)
            self._columns = []
        return self._joined


def pages(cut: Callable[[int, int], Iterable[Cut]]) -> Iterator[Cut]:
    """What `cut(begin, end)` gives for 0, 1, 2 and so on, some of it at a time.

    After a forward, whose weights have emptied the processor's cache, a torch operation takes 10 µs, and taking the
    next of what was cut beforehand next to nothing. Pages grow, so that few tokens cost little.
    """
    begin, size = 0, _FIRST_PAGE
    while True:
        yield from cut(begin, begin + size)
        begin, size = begin + size, min(2 * size, _LARGEST_PAGE)


def _positions_after(last_B1: torch.Tensor) -> Iterator[torch.Tensor]:
    """The positions behind the given ones, int64 [B, 1] each."""

    def cut(begin: int, end: int) -> Iterable[torch.Tensor]:
        page_nB1: torch.Tensor = last_B1 + torch.arange(begin + 1, end + 1, device=last_B1.device)[:, None, None]
        return list(page_nB1.unbind(0))

    return pages(cut)


def _masks_after(mask_BT: torch.Tensor) -> Iterator[torch.Tensor]:
    """The attention mask with one more token, with two more, and so on."""
    length = mask_BT.shape[1]

    def cut(begin: int, end: int) -> Iterable[torch.Tensor]:
        whole = torch.cat([mask_BT, mask_BT.new_ones((len(mask_BT), end))], dim=-1)
        return [whole[:, :stop] for stop in range(length + begin + 1, length + end + 1)]

    return pages(cut)


def _joined(columns: Iterator[torch.Tensor], num: int) -> torch.Tensor:
    """The next columns side by side."""
    return next(columns) if num == 1 else torch.cat([next(columns) for _ in range(num)], dim=1)


def prepares_as_usual(model: Model) -> bool:
    """Whether model and instance leave the preparation of inputs to transformers; a ledger's marks do not count."""
    for name in ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation"):
        method = getattr(model, name)
        function = getattr(method, "__func__", method)
        while getattr(function, "__globals__", {}).get("__name__", "").startswith("perstep."):
            function = getattr(function, "__wrapped__", None)
        if function is not getattr(GenerationMixin, name):
            return False
    return True
