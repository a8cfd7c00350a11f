"""The models that were seen in loops, for as long as somebody holds them."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from perstep.targets.loops._positions import Positions
from perstep.targets.transformers import Loop, Marks, Wraps
from perstep.targets.transformers.words import FORWARD

Callee = Any
"""A module, or a function that `torch.compile` gave: what somebody's loop calls."""


@dataclass(eq=False)
class Watched:
    """A model that was seen.

    Attributes:
        model: gives it, or None when nobody holds it any more.
        number: among all that were seen.
        label: its class, or a function's name; `X#2` where another of that name was seen before it.
        path: where it was loaded from, as transformers keeps it; else empty.
        size: number of its weights.
        device: where its weights are, as torch spells it.
        dtype: of its weights, likewise.
        loop: the state of its runs; made when the first one begins.
        marks: takes the marks of its runs; made likewise.
        inside: wrappers inside its forward.
        part: what no other part of its forward covers.
        caches: classes of caches whose update is wrapped.
        begun: the forwards of a run whose first one was seen only from inside.
    """

    model: Callable[[], Callee]
    number: int
    label: str
    path: str
    size: int
    device: str
    dtype: str
    loop: Loop | None = None
    marks: Marks | None = None
    inside: Wraps = field(default_factory=Wraps)
    part: str = FORWARD
    caches: set[type] = field(default_factory=set)
    begun: Positions | None = None


class Models:
    """All of them, by identity."""

    def __init__(self) -> None:
        self._known: dict[int, Watched] = {}
        self._labels: Counter[str] = Counter()

    def of(self, model: Callee, args: Iterable[Callee] = ()) -> Watched:
        """What is known of a model.

        Args:
            model: what is called.
            args: with what; a compiled function may get the module that holds the weights.
        """
        watched = self._known.get(id(model))
        if watched is None or watched.model() is not model:  # an id is used again when a model is gone
            name = str(getattr(model, "__name__", type(model).__name__))
            self._labels[name] += 1
            label = name if self._labels[name] == 1 else f"{name}#{self._labels[name]}"
            number = self._labels.total()
            weights = _weights(model, args)
            first = next(iter(weights), None)
            device, dtype = ("cpu", "") if first is None else (str(first.device), str(first.dtype))
            watched = self._known[id(model)] = Watched(
                weakref.ref(model),
                number,
                label,
                str(getattr(model, "name_or_path", "")),
                sum(weight.numel() for weight in weights),
                device,
                dtype.removeprefix("torch."),
            )
        return watched

    def restore(self) -> None:
        """Take away what was wrapped inside them."""
        for watched in self._known.values():
            watched.inside.restore()


def _weights(model: Callee, args: Iterable[Callee]) -> list[Callee]:
    """Of a module; of a compiled method those of its module, of a function those of the modules that it is given."""
    bound = getattr(getattr(model, "_torchdynamo_orig_callable", None), "__self__", None)
    holders = [one for one in (model, bound, *args) if hasattr(one, "parameters")]
    return list(holders[0].parameters()) if holders else []
