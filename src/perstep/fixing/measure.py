"""One captured call: what could replace its parts, whether the tokens stay, and what each drop-in and all together win.

Offers that give the same tokens are timed one after the other, the costliest part first, each beside those that were
faster before it: in a call that is rid of the first, what the second saves is a larger share, and a loop that works
beside others alone can be timed at all. What is written was faster each by itself and all together. What becomes known
is handed on sample by sample; what it says is found in `findings.py`.
"""

from collections.abc import Callable

from perstep.fixing.alternatives import instead_of, instead_of_unknown
from perstep.fixing.behaviour import find_vocabulary, offers
from perstep.fixing.capture import Captured
from perstep.fixing.draft import SAMPLED, draft_offer, forwards_of
from perstep.fixing.experts import experts_offer
from perstep.fixing.loop import EVIDENCE, SEED, dispatch_ns, how_it_ran, keyed_tokens, loop_offer, refusal, tokens_with
from perstep.fixing.observe import Seen, observe
from perstep.fixing.offer import DRAFT, LOOP, PROCESSORS, Offer
from perstep.fixing.patch import Edit, write
from perstep.fixing.repeat import ended_with, equal, why_not_repeatable
from perstep.fixing.samples import RIGHT, Clash, Offered, Sample, Tokens, Tried
from perstep.fixing.suggest import at_most, bound, loop_parts
from perstep.fixing.trial import THRESHOLD, Trials
from perstep.measure import Clock, HostClock, Ledger, Progress
from perstep.stats import Verdict
from perstep.targets.transformers.protocols import sequences_of

Keep = Callable[[Sample], None]


def try_call(
    call: Captured,
    ledger: Ledger | None,
    prefill: Ledger | None = None,
    *,
    budget_s: float,
    keep: Keep,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Edit:
    """Try the drop-ins on one captured call; what changes in its source.

    Args:
        call: the call.
        ledger: of the decode steps of the line it came from; None where no step was seen.
        prefill: likewise, of its prefills.
        budget_s: for all measurements of this call.
        keep: takes what becomes known, in order.
        clock: the host's, unless a test passes its own.
        progress: told what is tried.
    """
    say, clock = progress or (lambda _share, _what: None), clock or HostClock()
    offered = Offered(site=call.site, calls=call.calls, refused=call.refused, shared=call.shared, streams=call.streams)
    if not call.refused:
        say(0.0, f"{call.site}: a second call")
        offered.refused = why_not_repeatable(call)
    if offered.refused:
        keep(offered)
        return Edit(call)
    seen = observe(call)
    pairs = [(one, _tried(one, call, seen, clock)) for one in offers(call, seen, find_vocabulary(call))]
    pairs += _of_the_call(call, seen, clock)
    if call.custom_generate is None:
        _try_loop(call, seen, pairs)
    offered.loop_is_fast, offered.sampled = call.custom_generate is not None, seen.sampled
    offered.beams = seen.beams
    pairs.sort(key=lambda pair: -_share(pair[0], ledger))
    offered.tried = [tried for _, tried in pairs]
    offered.instead, offered.reasons = _instead(seen, call, pairs), seen.reasons
    offered.dispatch_ns = dispatch_ns([*call.lists[PROCESSORS], *seen.built[PROCESSORS]], clock)
    trials = Trials(call, clock, keep)
    offered.all_tokens = trials.all_tokens
    keep(offered)
    right = _right_together(call, pairs, keep, sampled=seen.sampled)
    worth = [place for place in right if _is_worth(*pairs[place], ledger, prefill, trials.all_tokens)]
    chosen = _timed(call, pairs, worth, trials, keep, budget_s=budget_s, sampled=seen.sampled, say=say)
    edit = Edit(call, [pairs[place][0] for place in chosen])
    keep(write(edit, chosen, sampled=seen.sampled))
    return edit


def _of_the_call(call: Captured, seen: Seen, clock: Clock) -> list[tuple[Offer, Tried]]:
    """What is offered for the call as a whole: plain decoding in place of a draft, another way to run the experts."""
    pairs = []
    draft = draft_offer(call)
    if draft is not None and seen.sampled:
        pairs.append((draft, Tried(parts=list(draft.parts), drop_in=draft.source, tokens="not made", refused=SAMPLED)))
    elif draft is not None:
        tried = _tried(draft, call, seen, clock)
        tried.forwards = forwards_of(call)
        pairs.append((draft, tried))
    experts = experts_offer(call, clock)
    if experts is not None:
        pairs.append((experts, _tried(experts, call, seen, clock)))
    return pairs


def _tried(offer: Offer, call: Captured, seen: Seen, clock: Clock) -> Tried:
    expected = sequences_of(call.result)
    tried = Tried(parts=list(offer.parts), drop_in=offer.source, tokens="not made", evidence=offer.evidence)
    tried.by_generate = offer.index is None and bool(offer.made)
    try:
        tried.tokens = "the same" if equal(tokens_with(call, [offer]), expected) else "differ"
    except Exception as error:  # the model, or what the call has besides
        tried.refused = f"the call with it {ended_with(error)}"
    tried.instead = instead_of(offer, seen, expected, clock)
    return tried


def _try_loop(call: Captured, seen: Seen, pairs: list[tuple[Offer, Tried]]) -> None:
    """Add `perstep.fast.decode` to what was tried: by itself, or where that is refused beside what gave the tokens."""
    offer = loop_offer()
    tried = Tried(parts=list(offer.parts), drop_in=offer.source, tokens="not made", refused=refusal(call, [offer]))
    together = [offer]
    if tried.refused:
        together = [*(other for other, beside in pairs if beside.tokens in RIGHT), offer]
        if len(together) > 1 and not refusal(call, together):
            tried.leans, tried.evidence, tried.refused = True, tried.refused, ""
    if not tried.refused:
        tried.tokens = _loop_tokens(call, together, sampled=seen.sampled)
        tried.captured, said = how_it_ran(offer)
        if said and not tried.leans:
            tried.evidence = f"{EVIDENCE}; {said}"
    pairs.append((offer, tried))


def _loop_tokens(call: Captured, chosen: list[Offer], *, sampled: bool) -> Tokens:
    """What becomes of the tokens with `perstep.fast.decode` among the offers."""
    if sampled:
        same = equal(tokens_with(call, chosen, seed=SEED), keyed_tokens(call))
        return "equal in distribution" if same else "differ"
    return "the same" if equal(tokens_with(call, chosen), sequences_of(call.result)) else "differ"


def _share(offer: Offer, ledger: Ledger | None) -> float:
    """Of the step, what an offer takes the place of."""
    if ledger is None:
        return 0.0
    return bound(ledger, loop_parts(ledger) if offer.kind == LOOP else offer.parts)[1]


def _instead(seen: Seen, call: Captured, pairs: list[tuple[Offer, Tried]]) -> dict[str, str]:
    """For each processor of the call's own that has no offer, what would be lost without it."""
    answered = {part for offer, _ in pairs for part in offer.parts}
    advice = {}
    for part, steps in zip(call.lists[PROCESSORS], seen.steps[PROCESSORS], strict=True):
        name = seen.name_of(part)
        if name not in answered and (said := instead_of_unknown(steps)):
            advice[name] = said
    return advice


def _right_together(call: Captured, pairs: list[tuple[Offer, Tried]], keep: Keep, *, sampled: bool) -> list[int]:
    """The places of what gives the right tokens together; each of them did alone.

    Where all together do not, the one is dropped without which they do: of several such, the one that costs least.
    Where no single one is to blame, they are put together one by one, and each that changes the tokens is dropped.
    """
    places = [place for place, (_, tried) in enumerate(pairs) if tried.tokens in RIGHT]

    def right(subset: list[int]) -> bool:
        return _right(call, [pairs[place][0] for place in subset], sampled=sampled)

    if len(places) < 2 or right(places):
        return places
    without = {place: [other for other in places if other != place] for place in reversed(places)}
    culprit = next((place for place, rest in without.items() if right(rest)), None)
    kept: list[int] = without[culprit] if culprit is not None else []
    if culprit is None:
        for place in places:
            if right([*kept, place]):
                kept.append(place)
    for place in places:
        if place not in kept:
            keep(Clash(site=call.site, offer=place, beside=kept))
    return kept


def _right(call: Captured, chosen: list[Offer], *, sampled: bool) -> bool:
    """Whether offers together give the right tokens."""
    try:
        if any(offer.kind == LOOP for offer in chosen):
            return _loop_tokens(call, chosen, sampled=sampled) in RIGHT
        return equal(tokens_with(call, chosen), sequences_of(call.result))
    except Exception:  # one that leans on another which is not among them
        return False


def _is_worth(offer: Offer, tried: Tried, ledger: Ledger | None, prefill: Ledger | None, tokens: int) -> bool:
    """Whether a part is so large that replacing it can change a step or the call by more than `same` is."""
    if ledger is None or offer.kind == DRAFT:  # a draft changes how many forwards there are
        return True
    parts = loop_parts(ledger) if offer.kind == LOOP else offer.parts
    step, whole = at_most(ledger, prefill, tokens, parts, by_generate=tried.by_generate)
    return max(step, whole or 1.0) >= 1 / (1 - THRESHOLD)


def _timed(
    call: Captured,
    pairs: list[tuple[Offer, Tried]],
    worth: list[int],
    trials: Trials,
    keep: Keep,
    *,
    budget_s: float,
    sampled: bool,
    say: Progress,
) -> list[int]:
    """Time offers one after the other, and those that were faster together; the places of what is to be written."""
    several = len(worth) > 1
    left = trials.shown = len(worth) + several  # all together as well
    ends_ns = trials.now() + budget_s * 1e9
    chosen: dict[int, Offer] = {}

    def run(tried: dict[int, Offer], beside: dict[int, Offer], what: str) -> str:
        say(1 - left / trials.shown, f"{call.site}: {what}")
        rest_s = max(ends_ns - trials.now(), 0) / 1e9
        # Better one verdict than several trials that all end a round before theirs.
        return trials.run(tried, beside, max(rest_s / left, min(trials.verdict_s, rest_s)), sampled=sampled)

    for place in sorted(worth, key=lambda place: pairs[place][1].leans):
        offer, leans = pairs[place][0], pairs[place][1].leans
        if (chosen or leans) and not _right(call, [*chosen.values(), offer], sampled=sampled):
            if not leans:  # one that leans works beside other lines, and they are not among these
                keep(Clash(site=call.site, offer=place, beside=list(chosen)))
        elif run({place: offer}, chosen, ", ".join(offer.parts)) == Verdict.FASTER:
            chosen[place] = offer
        left -= 1
    if len(chosen) == 1 or not several:
        return list(chosen)
    verdict = run(chosen or {place: pairs[place][0] for place in worth}, {}, "all together")
    # Each was faster beside those before it, so all of them are, unless these rounds say otherwise.
    return list(chosen)[:1] if verdict.startswith((Verdict.SLOWER, Verdict.SAME)) else list(chosen)
