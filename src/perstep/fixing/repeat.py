"""Whether a captured call gives its tokens again, and if it does not, which of its objects cannot be repeated.

A copy proves nothing by itself: what `deepcopy` refuses is shared with the original, which the call has changed. Only
the recorded tokens do, and they have to come twice where something is shared, since the first repeat may change it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perstep.fixing.capture import Captured, Original, tokens_of
from perstep.fixing.offer import PROCESSORS

_MOST = 64  # answers compared at most


def equal(found: Any, expected: Any) -> bool:
    """Whether two calls gave the same tokens."""
    return bool(found.shape == expected.shape and (found == expected).all())


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
        if all(equal(call.again(), tokens_of(call.result)) for _ in repeats):
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
    at, found = error.__traceback__, ""
    while at is not None:
        own = type(at.tb_frame.f_locals.get("self"))
        found = found or (own.__name__ if own in kinds else "")
        at = at.tb_next
    return found


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


def _same(one: Any, other: Any) -> bool:
    return equal(one, other) if hasattr(one, "shape") and hasattr(other, "shape") else bool(one == other)


def _observed(call: Captured) -> list[tuple[str, Any, Any]]:
    """Who was called in a repeat, with what (scores, or for a criterion ids), and what it gave; the first steps."""
    seen: list[tuple[str, Any, Any]] = []
    lists = {kind: [_Observed(index, kind, seen) for index in range(len(parts))] for kind, parts in call.lists.items()}
    call.again(lists)
    return seen


@dataclass(frozen=True)
class _Observed(Original):
    """Stands for a processor or criterion of the call, whose answers are kept."""

    kind: str
    seen: list[tuple[str, Any, Any]]

    def fresh(self, parts: list[Any]) -> Any:
        """Its copy for this call, behind something that listens."""
        return _listener(self.kind, super().fresh(parts), self._keep)

    def _keep(self, part: Any, given: Any, made: Any) -> None:
        if len(self.seen) < _MOST:
            self.seen.append((type(part).__name__, given, made.clone() if hasattr(made, "clone") else made))


def _listener(kind: str, part: Any, keep: Callable[[Any, Any, Any], None]) -> Any:
    """A processor or criterion of transformers that hands on to `part` and keeps what it was given and gave."""
    from transformers import LogitsProcessor, StoppingCriteria

    class Processor(LogitsProcessor):  # type: ignore[misc] # transformers is not typed
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            given = scores.clone()
            made = part(input_ids, scores)
            keep(part, given, made)
            return made

    class Criterion(StoppingCriteria):  # type: ignore[misc] # transformers is not typed
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            made = part(input_ids, scores, **kwargs)
            keep(part, input_ids.clone(), made)
            return made

    return Processor() if kind == PROCESSORS else Criterion()
