"""Drop-ins tried on a captured call: the same tokens over the whole call, then what they win, taking turns with it.

The call is made again as it was and with drop-ins, in balanced rounds (`compare`), seed for seed. Calls that take long
are timed over their first tokens only, which is said. Both arms copy the original processors, so both bear that cost.
"""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from perstep.experiments.compare import compare
from perstep.experiments.comparison import ArmResult, Comparison
from perstep.experiments.fix.behaviour import Offer, find_vocabulary, offers
from perstep.experiments.fix.capture import REMOVED, Captured, Original
from perstep.experiments.fix.observe import Seen, observe
from perstep.experiments.fix.patch import Edit
from perstep.experiments.suggest import Suggestion, suggest
from perstep.measure import Clock, Ledger, Progress
from perstep.measure.blocks import ArmFailed

_CALL_S = 0.1
"""A timed call is shortened to about this, so that a budget of seconds holds enough rounds."""

_WORTH_MEASURING = 0.01  # of the step; the change of a smaller part alone would be `same (within ±1 %)` at best
_LEAST_TOKENS = 8
_LEAST_CALLS = 24  # three rounds; a smaller budget would end before there is anything to see
AS_IT_IS, FIXED = "as it is", "with the drop-ins"


class Tried(msgspec.Struct, kw_only=True):
    """One offer and what became of it.

    Attributes:
        part: the part of the ledger.
        drop_in: how it is written.
        share: of the step that the part takes; None where the ledger does not have it.
        most_speedup: what replacing it can win at most, as the step before over the step after.
        evidence: why it is the same.
        same_tokens: whether the whole call gave the same tokens with it.
        result: against the call as it is, or None where that was not measured.
        instead: what dropping the check would lose, and what a check at the end costs; empty where it is no check.
    """

    part: str
    drop_in: str
    share: float | None
    most_speedup: float | None
    evidence: str
    same_tokens: bool
    result: ArmResult | None = None
    instead: str = ""


class FixFindings(msgspec.Struct, kw_only=True):
    """What could replace the parts of the calls from one line.

    Attributes:
        site: the line.
        tried: one each offer, the largest possible gain first.
        together: all that gave the same tokens, against the call as it is.
        timed_tokens: new tokens of the timed calls; all of the call's, or its first ones.
        all_tokens: of the call.
        others: parts that could be replaced and were not tried, with what to do.
        refused: why nothing was tried, or empty.
    """

    site: str
    tried: list[Tried] = []
    together: Comparison | None = None
    timed_tokens: int = 0
    all_tokens: int = 0
    others: list[str] = []
    refused: str = ""


class Fix:
    """The findings of one call, and the edit that follows from them."""

    def __init__(self, findings: FixFindings, call: Captured, chosen: list[Offer]) -> None:
        self.findings, self.call, self.chosen = findings, call, chosen

    @property
    def edit(self) -> Edit:
        """What changes in the script."""
        edit = Edit(self.call.line, {kind: len(parts) for kind, parts in self.call.lists.items()})
        for offer in self.chosen:
            if offer.index is None:
                edit.added.setdefault(offer.kind, []).append(offer.source)
            else:
                edit.replaced.setdefault(offer.kind, {})[offer.index] = offer.source
            edit.settings.update(offer.settings)
        return edit


def find_fixes(
    call: Captured,
    ledger: Ledger | None,
    *,
    budget_s: float,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Fix:
    """Try the drop-ins on one captured call.

    Args:
        call: the call.
        ledger: of the line it came from; None where no step was seen.
        budget_s: for all measurements of this call.
        clock: the host's, unless a test passes its own.
        progress: told what is tried.
    """
    say = progress or (lambda _share, _what: None)
    suggestions = [] if ledger is None or ledger.invalid else suggest(ledger)
    findings = FixFindings(site=call.site)
    if call.refused:
        findings.refused = call.refused
        return Fix(findings, call, [])
    say(0.0, f"{call.site}: make the call again")
    expected = _tokens(call.result)
    if not _equal(call.again(), expected):
        findings.refused = "made again, seed for seed, it gives other tokens: it depends on something that was not kept"
        return Fix(findings, call, [])
    seen, vocabulary = observe(call), find_vocabulary(call)
    made = offers(call, seen, vocabulary)
    found = [(offer, _tried(offer, call, seen, suggestions, expected)) for offer in made]
    found.sort(key=lambda pair: -(pair[1].share or 0))
    findings.tried = [tried for _, tried in found]
    chosen = [offer for offer, tried in found if tried.same_tokens]
    if len(chosen) > 1 and not _equal(_with(call, chosen), expected):
        chosen = chosen[:1]  # each is right alone, not together; keep the costliest
    findings.others = _others(suggestions, made)
    if chosen:
        findings.all_tokens, findings.timed_tokens, limit, seconds = _limit(call)
        alone = [offer for offer, tried in found if tried.same_tokens and (tried.share or 1) >= _WORTH_MEASURING]
        arms = [chosen] if len(chosen) == 1 else [chosen, *([one] for one in alone if one in chosen)]
        for number, held in enumerate(arms):
            say(number / len(arms), f"{call.site}: {', '.join(one.part for one in held)}")
            share = 1.0 if len(arms) == 1 else 0.6 if number == 0 else 0.4 / (len(arms) - 1)
            comparison = _compared(call, held, limit, max(budget_s * share, _LEAST_CALLS * seconds), clock)
            if comparison is None:
                continue
            if number == 0:
                findings.together = comparison
            if len(held) == 1:
                next(tried for offer, tried in found if offer is held[0]).result = comparison[FIXED]
    return Fix(findings, call, chosen)


def _compared(
    call: Captured, held: list[Offer], limit: Mapping[str, Any], budget_s: float, clock: Clock | None
) -> Comparison | None:
    """The call as it is against the call with drop-ins; None where not even a round came to its end."""
    arms = {AS_IT_IS: lambda: call.again(**limit), FIXED: lambda: _with(call, held, **limit)}
    try:
        return compare(arms, budget_s=budget_s, clock=clock)
    except ArmFailed as failed:
        return failed.partial if isinstance(failed.partial, Comparison) else None


def _tokens(result: Any) -> Any:
    return getattr(result, "sequences", result)


def _equal(found: Any, expected: Any) -> bool:
    return bool(found.shape == expected.shape and (found == expected).all())


def _with(call: Captured, chosen: list[Offer], **changes: Any) -> Any:
    """The tokens of the call with drop-ins."""
    lists: dict[str, list[Any]] = {
        kind: [Original(index) for index in range(len(parts))] for kind, parts in call.lists.items()
    }
    settings: dict[str, Any] = {}
    for offer in chosen:
        made = [one for one, _ in offer.made]
        if offer.index is None:
            lists[offer.kind] += made
        else:
            lists[offer.kind][offer.index] = made[0]
        settings.update(offer.settings)
    return call.again(lists, **settings, **changes)


def _tried(offer: Offer, call: Captured, seen: Seen, suggestions: list[Suggestion], expected: Any) -> Tried:
    bound = next((one for one in suggestions if one.part == offer.part), None)
    return Tried(
        part=offer.part,
        drop_in=offer.source,
        share=None if bound is None else bound.share,
        most_speedup=None if bound is None else bound.most_speedup,
        evidence=offer.evidence,
        same_tokens=_equal(_with(call, [offer]), expected),
        instead=_instead(offer, seen, expected),
    )


def _instead(offer: Offer, seen: Seen, expected: Any) -> str:
    """What it would mean to drop a check of the text and look at the text once, after the fact."""
    from perstep.fast.utf8 import Utf8

    mask = offer.made[0][0]
    if offer.index is None or not isinstance(mask, Utf8):
        return ""
    steps = seen.steps[offer.kind][offer.index]
    rows = expected.tolist()
    texts = [b"".join(mask.vocabulary.tokens[token] for token in row if token < mask.vocabulary.size) for row in rows]
    took = []
    for _ in range(20):
        begun = time.perf_counter_ns()
        for text in texts:
            text.decode(errors="replace")
        took.append(time.perf_counter_ns() - begun)
    return (
        f"without any check, and bytes.decode once at the end ({np.median(took) / 1e3:.2g} µs a call): in "
        f"{steps.chosen_forbidden:,} of {steps.rows:,} recorded rows the likeliest token was forbidden; such a text "
        "would be found invalid only when it is complete, and be generated again"
    )


def _others(suggestions: list[Suggestion], made: list[Offer]) -> list[str]:
    """Parts that have a drop-in and were not tried."""
    tried = {offer.part for offer in made}
    loop = [one for one in suggestions if one.drop_in.startswith("custom_generate")]
    said = []
    for one in suggestions:
        if one.part not in tried and one not in loop and not one.certain:
            said.append(f"{one.part} ({one.share:.1%} of the step): no drop-in does what it did")
        elif one.part not in tried and one not in loop:
            said.append(f"{one.part} ({one.share:.1%} of the step): {one.drop_in}, {one.note}")
    if loop:
        share = sum(one.share for one in loop)
        parts = ", ".join(one.part for one in loop)
        said.append(f"{parts} (together {share:.1%} of the step): {loop[0].drop_in}, {loop[0].note}; not tried here")
    return said


def _limit(call: Captured) -> tuple[int, int, Mapping[str, Any], float]:
    """New tokens of the call, of the timed calls, the arguments that limit these, and how long one takes."""
    begun = time.perf_counter()
    tokens = call.again()
    seconds = time.perf_counter() - begun
    short = {"max_new_tokens": 1, "max_length": REMOVED, "min_new_tokens": REMOVED, "min_length": REMOVED}
    prompt = call.again(**short).shape[1] - 1
    made = max(int(tokens.shape[1]) - prompt, 1)
    timed = min(made, max(_LEAST_TOKENS, int(made * _CALL_S / seconds)))
    return made, timed, {**short, "max_new_tokens": timed}, seconds * timed / made
