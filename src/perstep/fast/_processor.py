"""What the logits processors of this room have in common.

At every step `generate` asks for `inspect.signature(processor.__call__)`: 12 µs in a loop, 48 between two forwards, of
which 20 are left where the signature is stored. A call leaves the scores it is given as they are, because
`generate(output_logits=True)` hands out the very tensor that the first processor saw; `in_turn` says where they may
be written over instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from transformers import LogitsProcessor

__all__ = ["Processor", "in_turn", "signed"]

_KEEP_NOTHING = ("perstep.fast.", "transformers.")
"""Modules whose processors remember no scores."""


Process = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A logits processor as it is called, with ids [B, T] and scores [B, V]."""

Change = Any
"""A parameter of `Signature.replace`: its type goes by its name."""

Call = TypeVar("Call", bound=Callable[..., torch.Tensor])


class _Signature(inspect.Signature):
    """A signature that knows itself without its first parameter: to make that anew is a third of what asking takes."""

    __slots__ = ("_bound", "_rest")

    def __init__(self, whole: inspect.Signature) -> None:
        parameters = list(whole.parameters.values())
        super().__init__(parameters, return_annotation=whole.return_annotation)
        self._rest = tuple(parameters[1:])
        self._bound = whole.replace(parameters=self._rest)

    def replace(self, **changes: Change) -> inspect.Signature:  # type: ignore[override] # always a plain signature
        """As `Signature.replace`."""
        if changes.keys() == {"parameters"} and changes["parameters"] == self._rest:
            return self._bound
        plain = inspect.Signature(list(self.parameters.values()), return_annotation=self.return_annotation)
        return plain.replace(**changes)


def signed(call: Call) -> Call:
    """A processor's `__call__` with its signature stored.

    An attribute of the instance would be found faster still, but `torch.compile` does not trace such a call.
    """
    call.__signature__ = _Signature(inspect.signature(call))  # type: ignore[attr-defined]
    return call


class Processor(LogitsProcessor):  # type: ignore[misc] # transformers is not typed
    """A logits processor that is called with ids and scores alone."""

    def overwrite(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The same scores as a call's; what is given may be written over."""
        changed: torch.Tensor = self(input_ids, scores)
        return changed


def in_turn(processors: Iterable[Process], *, private: bool) -> list[Process]:
    """What to call, one after the other, with ids and scores.

    Args:
        processors: of a call of `generate`.
        private: whether nobody else holds the scores that the first is given.

    Returns:
        `overwrite` of those that have one of their own, up to the first processor that may have kept its scores.
    """
    calls: list[Process] = []
    for processor in processors:
        kind = type(processor)
        overwrite: Process = getattr(processor, "overwrite", processor)
        calls.append(overwrite if private and "overwrite" in vars(kind) else processor)
        private = private and kind.__module__.startswith(_KEEP_NOTHING)
    return calls
