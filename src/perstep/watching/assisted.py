"""Assisted decoding and prompt lookup: what the drafts of a call brought."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from perstep._words import short
from perstep.measure import Ledger
from perstep.report.format import duration, percent, plural
from perstep.targets.transformers import Call

if TYPE_CHECKING:
    from perstep.watching.samples import Sample


class Assisted(msgspec.Struct, frozen=True, kw_only=True):
    """What the drafts of a line's calls brought.

    Attributes:
        tokens: that the calls emitted.
        forwards: of the model itself.
        proposed: tokens of all drafts.
        accepted: how many of these were right.
        acceptance: of the drafts with a token at a place, the share in which it was accepted; the first place first.
        token_ns: a decode step over the tokens that it emits on average; None where no decode step was seen.
    """

    tokens: int
    forwards: int
    proposed: int
    accepted: int
    acceptance: list[float]
    token_ns: float | None


def accepted(call: Call) -> list[int]:
    """How many tokens of each draft of a call were accepted: the text grows by these and one of the model's own."""
    if not call.drafts or call.prompt_tokens is None or call.new_tokens is None:
        return []
    lengths = [length for length, _ in call.drafts] + [call.prompt_tokens + call.new_tokens]
    grown = [after - before - 1 for before, after in pairwise(lengths)]
    return [max(0, min(more, proposed)) for more, (_, proposed) in zip(grown, call.drafts, strict=True)]


def find_assisted(samples: Sequence["Sample"], decode: Ledger | None) -> Assisted | None:
    """What the drafts of finished calls brought; None where there were none."""
    drafted = [sample for sample in samples if sample.accepted and sample.new_tokens]
    if not drafted:
        return None
    pairs = [pair for sample in drafted for pair in zip(sample.proposed, sample.accepted, strict=True)]
    places = range(1, max(proposed for proposed, _ in pairs) + 1)
    shares = [[right >= place for proposed, right in pairs if proposed >= place] for place in places]
    in_steps = sum(right + 1 for sample in drafted for right in sample.accepted[1:])
    steps = sum(len(sample.accepted) - 1 for sample in drafted)
    return Assisted(
        tokens=sum(sample.new_tokens or 0 for sample in drafted),
        forwards=sum(sample.forwards for sample in drafted),
        proposed=sum(proposed for proposed, _ in pairs),
        accepted=sum(right for _, right in pairs),
        acceptance=[sum(share) / len(share) for share in shares],
        token_ns=decode.step_ns * steps / in_steps if decode is not None and in_steps else None,
    )


def assisted_sentences(assisted: Assisted | None) -> list[str]:
    """What a user of a draft wants to know."""
    if assisted is None:
        return []
    ratio = short(assisted.tokens / assisted.forwards, 3) if assisted.forwards else "no"
    said = f"{plural(assisted.tokens, 'token')} in {plural(assisted.forwards, 'forward')}: {ratio} a forward."
    if assisted.proposed:
        by_place = ", ".join(percent(share) for share in assisted.acceptance)
        said += f" Accepted: {assisted.accepted:,} of {assisted.proposed:,} proposed; by place in the draft {by_place}."
    if assisted.token_ns is not None:
        said += f" An emitted token costs {duration(assisted.token_ns)}."
    return [said]
