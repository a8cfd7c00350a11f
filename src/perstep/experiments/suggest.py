"""What could replace which part of a ledger, and how much that can win at most: `perstep.suggest`.

The bound is the part itself: nothing that replaces it can win more than all of it. Names are all that a ledger has,
so classes of transformers are recognised for certain and your own are not; `perstep fix` tries the drop-ins on what
yours did in a recorded run.
"""

from dataclasses import dataclass
from typing import Final

from perstep.errors import InputError
from perstep.measure import Ledger

EXACT: Final[dict[str, str]] = {
    "logits/TopPLogitsWarper": "perstep.fast.TopP",
    "logits/TopKLogitsWarper": "perstep.fast.TopK",
    "logits/MinPLogitsWarper": "perstep.fast.MinP",
    "logits/SuppressTokensLogitsProcessor": "perstep.fast.SuppressTokens",
    "logits/RepetitionPenaltyLogitsProcessor": "perstep.fast.RepetitionPenalty",
    "stop/StopStringCriteria": "perstep.fast.StopStrings",
}
"""A part that is a class of transformers -> the drop-in with the same tokens."""

_KEPT: Final = (
    "MaxLengthCriteria", "EosTokenCriteria", "MaxTimeCriteria", "TemperatureLogitsWarper", "LogitNormalization",
    "TypicalLogitsWarper", "NoRepeatNGramLogitsProcessor", "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
)  # fmt: skip
_LOOP: Final = ("inputs", "bookkeeping", "sync")
_LEAST = 0.002
"""Parts below this share of the step are not worth a line."""


@dataclass(frozen=True)
class Suggestion:
    """A part that could be replaced.

    Attributes:
        part: its name in the ledger.
        drop_in: what could take its place.
        certain: whether the part is known by its class to be what the drop-in replaces.
        share: of the step.
        most_ns: what replacing it can win of each step at most: all of the part.
        most_speedup: the step before over the step after, at most.
        note: what to know.
    """

    part: str
    drop_in: str
    certain: bool
    share: float
    most_ns: float
    most_speedup: float
    note: str


def suggest(ledger: Ledger) -> list[Suggestion]:
    """What could replace which part of a ledger, the largest possible gain first.

    Args:
        ledger: of a watched or measured run, such as `perstep.watch` gives.

    Raises:
        InputError: the ledger must not be believed.

    Example:
        >>> with perstep.watch(model) as w:  # doctest: +SKIP
        ...     model.generate(**inputs, top_p=0.9, do_sample=True)
        >>> perstep.suggest(w.ledger())[0].drop_in  # doctest: +SKIP
        'perstep.fast.TopP'
    """
    if ledger.invalid:
        raise InputError(f"the ledger is invalid, so nothing follows from it: {ledger.invalid}")
    found = []
    for name, part in ledger.parts.items():
        offer = _offer(name)
        if offer is None or part.share < _LEAST:
            continue
        drop_in, certain, note = offer
        # Shares add up to 1 with the residual; a part that were all of it would leave nothing to divide by.
        most = 1 / max(1 - part.share, 1e-9)
        found.append(Suggestion(name, drop_in, certain, part.share, part.ns, most, note))
    return sorted(found, key=lambda one: -one.most_ns)


def _offer(name: str) -> tuple[str, bool, str] | None:
    """The drop-in for a part, whether it is certain, and a note; None where there is none."""
    plain = name.split("#")[0]
    if plain in EXACT:
        return EXACT[plain], True, "the same tokens"
    room, _, known = plain.partition("/")
    if known in _KEPT:
        return None
    if room == "logits" and known:
        return "perstep.fast.Utf8 or SuppressTokens", False, "your own: `perstep fix` tries them on what it did"
    if room == "stop" and known:
        return "perstep.fast.StopStrings or WordStop", False, "your own: `perstep fix` tries them on what it did"
    if plain in _LOOP:
        return "custom_generate=perstep.fast.decode", True, "the same greedy tokens; sampling equal in distribution"
    return None
