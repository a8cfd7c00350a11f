"""Dropping a check instead of replacing it: what is lost, and what looking at the text once at the end costs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from perstep.fixing.capture import Part
from perstep.fixing.observe import Seen, Steps
from perstep.fixing.offer import Offer
from perstep.measure import Clock
from perstep.report.format import duration, plural

if TYPE_CHECKING:
    import torch

_TIMES = 20


def instead_of(offer: Offer, seen: Seen, tokens: "torch.Tensor", clock: Clock) -> str:
    """What it would mean to do without a check that a drop-in could replace; empty where it is no check of the text.

    Args:
        offer: the drop-in.
        seen: what the call did.
        tokens: of the call, [rows, length].
        clock: times the later check.
    """
    from perstep.fast import StopStrings, Utf8

    check = offer.made[0][0] if offer.made else None
    if isinstance(check, Utf8) and offer.index is not None:
        texts = _texts(check, tokens)
        later_ns = _took_ns(lambda: [text.decode(errors="replace") for text in texts], clock)
        steps = seen.steps[offer.kind][offer.index]
        return (
            f"without it, and bytes.decode once at the end ({duration(later_ns, 2)} a call): {_forbidden(steps)}; such "
            "a text would be found invalid only when it is complete, and be generated again"
        )
    if isinstance(check, StopStrings):
        texts = _texts(check, tokens)
        stops = [stop if isinstance(stop, bytes) else stop.encode() for stop in check.strings]
        later_ns = _took_ns(lambda: [text.find(stop) for text in texts for stop in stops], clock)
        left = 0 if seen.limit is None else seen.limit - int(tokens.shape[1])
        further = f"go on to its limit, {plural(left, 'token')} further" if left > 0 else "end at its limit, as it did"
        return (
            f"without it, and bytes.find once at the end ({duration(later_ns, 2)} a call) to cut the text: the call "
            f"would {further}"
        )
    return ""


def instead_of_unknown(steps: Steps) -> str:
    """What a processor of one's own did that has no drop-in, and what would be lost without it."""
    if not steps.rows or not steps.kept_values:
        return ""
    if all(map(np.array_equal, steps.before, steps.after)):
        return f"it changed nothing in {plural(steps.rows, 'recorded row')}"
    if not steps.chosen_forbidden:
        return (
            f"without it: it never forbade the likeliest token in {plural(steps.rows, 'recorded row')}, so a greedy "
            "call would have given the same text; what a check at the end costs depends on what it checks"
        )
    return (
        f"without it, checked once at the end: {_forbidden(steps)}; such a text would have to be generated again; what "
        "the later check costs depends on what it checks"
    )


def _forbidden(steps: Steps) -> str:
    return f"in {steps.chosen_forbidden:,} of {plural(steps.rows, 'recorded row')} the likeliest token was forbidden"


def _texts(check: Part, tokens: "torch.Tensor") -> list[bytes]:
    spelled, size = check.vocabulary.tokens, check.vocabulary.size
    return [b"".join(spelled[token] for token in row if token < size) for row in tokens.tolist()]


def _took_ns(later: Callable[[], object], clock: Clock) -> float:
    """The median of a few calls."""
    took = []
    for _ in range(_TIMES):
        begun_ns = clock.now()
        later()
        took.append(clock.now() - begun_ns)
    return float(np.median(took))
