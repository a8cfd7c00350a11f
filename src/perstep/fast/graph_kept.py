"""Steps that are kept with their model between calls: found by shape, bounded, dropped when the model has changed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from perstep.errors import InputError
from perstep.fast.graph_capture import Work
from perstep.fast.graph_step import Step

if TYPE_CHECKING:
    from perstep.fast.decode_inputs import DecodingModel

MOST_STEPS = 4
"""Shapes kept for one model; the one used longest ago goes first."""
MOST_SHARE = 0.25
"""Of a device's memory, that the steps kept for one model may take together."""
MOST_BYTES_ON_HOST = 1 << 30
"""The same in the host's memory."""

_SCALARS = frozenset((bool, int, float, str, type(None)))
_LISTS = frozenset((list, tuple))
_TENSORS = ("_parameters", "_buffers")


@dataclass(eq=False)
class Kept:
    """A step, and what repeats it.

    Attributes:
        step: its buffers.
        replays: what repeats each half.
        captured: whether these are graphs.
        busy: held by the call that uses it.
        done: on a device, when the last call that used it is through.
    """

    step: Step
    replays: list[Work]
    captured: bool
    busy: threading.Lock = field(default_factory=threading.Lock)
    done: torch.Event | None = None

    @property
    def nbytes(self) -> int:
        """What slots and buffers take; the pool of a graph is not counted."""
        return self.step.slots.nbytes + self.step.nbytes


@dataclass(eq=False)
class _Shelf:
    """What is kept for one model as it was at the last call."""

    state: Hashable = None
    steps: dict[Hashable, Kept | str] = field(default_factory=dict)  # or why there can be none


_shelves: weakref.WeakKeyDictionary[DecodingModel, _Shelf] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def release(model: object) -> int:
    """Free the caches and graphs that `fast.decode` keeps for a model.

    Args:
        model: as it was given to `generate`.

    Returns:
        The bytes of slots and buffers that were kept, 0 if there were none.

    Raises:
        InputError: not a model.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"release takes the model whose graphs are to be freed, not {type(model).__name__}")
    with _lock:
        shelf = _shelves.pop(model, _Shelf())  # type: ignore[call-overload] # a module may be no model
        freed = _bytes_of(shelf.steps)
        _drop(shelf.steps)
        return freed


def drop_if_changed(model: DecodingModel) -> bool:
    """Drop everything that was kept if the model has changed since; whether there was something to drop."""
    state = state_of(model)
    with _lock:
        shelf = _shelves.setdefault(model, _Shelf(state))
        stale = bool(shelf.steps) and shelf.state != state
        if stale:
            _drop(shelf.steps)
        was_noted, shelf.state = shelf.state is not None, state  # not where it was released during a call
        return stale and was_noted


def find(model: DecodingModel, key: Hashable) -> Kept | str | None:
    """The step of this shape, why there can be none, or None if that is not known."""
    with _lock:
        steps = _shelves.setdefault(model, _Shelf()).steps
        step = steps.pop(key, None)
        if step is not None:
            steps[key] = step  # the last one used stands last
        return step


def keep(model: DecodingModel, key: Hashable, step: Kept | str) -> int:
    """Keep a step, or why there can be none, within the limits; the bytes that are kept for the model now."""
    with _lock:
        steps = _shelves.setdefault(model, _Shelf()).steps
        steps[key] = step
        limit = most_bytes(model.device)
        while len(steps) > MOST_STEPS or _bytes_of(steps) > limit:
            _drop(steps, 1)
        return _bytes_of(steps)


def most_bytes(device: torch.device) -> int:
    """What the steps kept for one model may take together."""
    if device.type != "cuda":
        return MOST_BYTES_ON_HOST
    return int(torch.cuda.get_device_properties(device).total_memory * MOST_SHARE)


def _drop(steps: dict[Hashable, Kept | str], most: int | None = None) -> None:
    """Drop steps, the one used longest ago first, when the device is through with them."""
    for key in list(steps)[:most]:
        kept = steps.pop(key)
        if isinstance(kept, Kept) and kept.done is not None:
            kept.done.synchronize()


def _bytes_of(steps: dict[Hashable, Kept | str]) -> int:
    return sum(kept.nbytes for kept in steps.values() if isinstance(kept, Kept))


def modules_of(model: DecodingModel) -> list[nn.Module]:
    """The model and every module inside it, once; in a quarter of the time that `modules()` takes."""
    by_id: dict[int, nn.Module] = {}
    waiting: list[nn.Module | None] = [cast("nn.Module", model)]
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in by_id:
            by_id[id(module)] = module
            waiting.extend(module._modules.values())
    return list(by_id.values())


def state_of(model: DecodingModel) -> Hashable:
    """What a graph of the model depends on: where its weights are, their dtypes, and the settings of its modules.

    Values that change in place do not count: a graph reads them from where they are. 1.5 ms for 400 modules.
    """
    parts: list[Hashable] = []
    for holder in (model.config, model.config.get_text_config(), *modules_of(model)):
        for name, value in vars(holder).items():
            kind = type(value)
            if kind in _SCALARS:
                parts.append((name, value))
            elif kind in _LISTS:
                parts.append((name, tuple(one if type(one) in _SCALARS else id(one) for one in value)))
            elif kind is dict and name in _TENSORS:
                parts.extend((_address(one), one.dtype, one.device) for one in value.values() if one is not None)
    return tuple(parts)


def _address(tensor: torch.Tensor) -> int:
    """Where its values are; of a tensor that is wrapped around others, such as a quantised one, which object it is."""
    return tensor.data_ptr() if type(tensor) in (torch.Tensor, nn.Parameter) else id(tensor)
