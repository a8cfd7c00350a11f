"""Whether a captured call gives its tokens again, and if it does not, which of its objects cannot be repeated.

A copy proves nothing by itself: what `deepcopy` refuses is shared with the original, which the call has changed. Only
the recorded tokens do, and they have to come twice where something is shared, since the first repeat may change it.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from perstep.fixing.capture import Captured, Original, Part
from perstep.fixing.observe import listener
from perstep.fixing.offer import PROCESSORS
from perstep.targets.transformers import Value
from perstep.targets.transformers.protocols import sequences_of

if TYPE_CHECKING:
    import torch

_MOST = 64  # answers compared at most


def equal(actual: "torch.Tensor", expected: "torch.Tensor") -> bool:
    """Whether two calls gave the same tokens."""
    return bool(actual.shape == expected.shape and (actual == expected).all())


def ended_with(error: Exception) -> str:
    """What to say of a call that raises."""
    return f"ended with {type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")


def why_not_repeatable(call: Captured) -> str:
    """Why a call that is made again does not give its tokens, or empty."""
    shared = ""
    if call.shared:
        shared = f"; its state before the call could not be copied, because it holds {', '.join(call.shared)}"
    try:
        repeats = range(2 if call.shared else 1)
        if all(equal(call.again(), sequences_of(call.result)) for _ in repeats):
            return ""
    except Exception as error:  # the script's own processors, its inputs, its model
        who = _raised(call, error)
        return f"repeated, {who and who + ' '}{ended_with(error)}{shared}"
    said = "repeated with the same seed, it gives other tokens"
    who = _unsteady(call)
    if who:
        return f"{said}: {who} gave another result for the same scores{shared}"
    return f"{said}: it depends on state that was not stored{shared}"


def _raised(call: Captured, error: Exception) -> str:
    """The processor or criterion in which a repeated call raised, or empty."""
    kinds = {type(part) for parts in call.lists.values() for part in parts}
    at, raiser = error.__traceback__, ""
    while at is not None:
        own = type(at.tb_frame.f_locals.get("self"))
        raiser = raiser or (own.__name__ if own in kinds else "")
        at = at.tb_next
    return raiser


def _unsteady(call: Captured) -> str:
    """The first processor or criterion that is given the same in two repeats and gives something else, or empty."""
    try:
        first, second = _observed(call), _observed(call)
    except Exception:  # a repeat that raises where another did not
        return ""
    for one, other in zip(first, second, strict=False):
        if one[0] != other[0] or not _same(one[1], other[1]):
            return ""  # what went before differs already
        if not _same(one[2], other[2]):
            return str(one[0])
    return ""


def _same(one: Value, other: Value) -> bool:
    return equal(one, other) if hasattr(one, "shape") and hasattr(other, "shape") else bool(one == other)


def _observed(call: Captured) -> list[tuple[str, Value, Value]]:
    """Who was called in a repeat, with what (scores, or for a criterion ids), and what it gave; the first steps."""
    seen: list[tuple[str, Value, Value]] = []
    lists = {kind: [_Observed(index, kind, seen) for index in range(len(parts))] for kind, parts in call.lists.items()}
    call.again(lists)
    return seen


@dataclass(frozen=True)
class _Observed(Original):
    """Stands for a processor or criterion of the call, whose answers are kept."""

    kind: str
    seen: list[tuple[str, Value, Value]]

    def fresh(self, parts: list[Part]) -> Part:
        """Its copy for this call, behind something that listens."""
        part = super().fresh(parts)
        return listener(self.kind, part, partial(self._keep, type(part).__name__))

    def _keep(self, name: str, input_ids: Value, scores: Value, returned: Value) -> None:
        if len(self.seen) < _MOST:
            given = scores if self.kind == PROCESSORS else input_ids.clone()
            self.seen.append((name, given, returned.clone() if hasattr(returned, "clone") else returned))
