"""One captured call: what could replace its parts, whether the tokens stay, and what each drop-in and all together win.

Offers that give the same tokens are timed alone where their part is large enough to tell, then together: all but those
that were slower alone. What becomes known is handed on sample by sample; what it says is found in `findings.py`.
"""

from collections.abc import Callable
from typing import Any

from perstep.experiments.fix.behaviour import find_vocabulary, offers
from perstep.experiments.fix.capture import Captured, tokens_of
from perstep.experiments.fix.instead import instead_of, instead_of_unknown
from perstep.experiments.fix.loop import SEED, dispatch_ns, ended_with, keyed_tokens, loop_offer, refusal, tokens_with
from perstep.experiments.fix.observe import Seen, observe
from perstep.experiments.fix.offer import LOOP, PROCESSORS, Offer
from perstep.experiments.fix.patch import Edit, write
from perstep.experiments.fix.samples import Offered, Sample, Tokens, Tried
from perstep.experiments.fix.trial import Trials
from perstep.experiments.suggest import bound, loop_parts
from perstep.measure import Clock, HostClock, Ledger, Progress
from perstep.stats import Verdict

Keep = Callable[[Sample], None]

_WORTH_MEASURING = 0.01  # of the step; the change of a smaller part alone would be `same (within ±1 %)` at best
_RIGHT = ("the same", "equal in distribution")
_TOGETHER = 0.6
"""The share of the budget for all together, where they are timed alone as well."""


def try_call(
    call: Captured,
    ledger: Ledger | None,
    *,
    budget_s: float,
    keep: Keep,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Edit:
    """Try the drop-ins on one captured call; what changes in its source.

    Args:
        call: the call.
        ledger: of the line it came from; None where no step was seen.
        budget_s: for all measurements of this call.
        keep: takes what becomes known, in order.
        clock: the host's, unless a test passes its own.
        progress: told what is tried.
    """
    say, clock = progress or (lambda _share, _what: None), clock or HostClock()
    offered = Offered(site=call.site, calls=call.calls, refused=call.refused)
    if not call.refused:
        say(0.0, f"{call.site}: make the call again")
        offered.refused = _changed(call)
    if offered.refused:
        keep(offered)
        return Edit(call)
    seen = observe(call)
    made = [(one, _tried(one, call, seen, clock)) for one in offers(call, seen, find_vocabulary(call))]
    if call.custom_generate is None:
        _try_loop(call, seen, made)
    offered.loop_is_fast, offered.sampled = call.custom_generate is not None, seen.sampled
    made.sort(key=lambda pair: -_share(pair[0], ledger))
    offered.tried = [tried for _, tried in made]
    offered.instead = _instead(seen, call, made)
    offered.dispatch_ns = dispatch_ns([*call.lists[PROCESSORS], *seen.built[PROCESSORS]], clock)
    trials = Trials(call, clock, keep)
    offered.all_tokens = trials.all_tokens
    keep(offered)
    chosen = _timed(call, ledger, made, trials, budget_s=budget_s, sampled=seen.sampled, say=say)
    edit = Edit(call, [made[place][0] for place in chosen])
    keep(write(edit, chosen, sampled=seen.sampled))
    return edit


def _changed(call: Captured) -> str:
    """Why a call that is made again does not give its tokens, or empty."""
    try:
        same = _equal(call.again(), tokens_of(call.result))
    except Exception as error:  # the script's own processors, its inputs, its model
        return f"made again, {ended_with(error).removeprefix('the call with it ')}"
    return "" if same else "made again, seed for seed, it gives other tokens: it depends on something that was not kept"


def _equal(found: Any, expected: Any) -> bool:
    return bool(found.shape == expected.shape and (found == expected).all())


def _tried(offer: Offer, call: Captured, seen: Seen, clock: Clock) -> Tried:
    expected = tokens_of(call.result)
    tried = Tried(parts=list(offer.parts), drop_in=offer.source, tokens="not made", evidence=offer.evidence)
    try:
        tried.tokens = "the same" if _equal(tokens_with(call, [offer]), expected) else "differ"
    except Exception as error:  # the model, or what the call has besides
        tried.refused = ended_with(error)
    tried.instead = instead_of(offer, seen, expected, clock)
    return tried


def _try_loop(call: Captured, seen: Seen, made: list[tuple[Offer, Tried]]) -> None:
    """Add `perstep.fast.decode` to what was tried: by itself, or where that is refused beside what gave the tokens."""
    offer = loop_offer()
    tried = Tried(parts=list(offer.parts), drop_in=offer.source, tokens="not made", refused=refusal(call, [offer]))
    held = [offer]
    if tried.refused:
        held = [*(other for other, beside in made if beside.tokens in _RIGHT), offer]
        if len(held) > 1 and not refusal(call, held):
            tried.leans, tried.evidence, tried.refused = True, tried.refused, ""
    if not tried.refused:
        tried.tokens = _loop_tokens(call, held, sampled=seen.sampled)
    made.append((offer, tried))


def _loop_tokens(call: Captured, held: list[Offer], *, sampled: bool) -> Tokens:
    """What becomes of the tokens with `perstep.fast.decode` among the offers."""
    if sampled:
        same = _equal(tokens_with(call, held, seed=SEED), keyed_tokens(call))
        return "equal in distribution" if same else "differ"
    return "the same" if _equal(tokens_with(call, held), tokens_of(call.result)) else "differ"


def _share(offer: Offer, ledger: Ledger | None) -> float:
    """Of the step, what an offer takes the place of."""
    if ledger is None:
        return 0.0
    return bound(ledger, loop_parts(ledger) if offer.kind == LOOP else offer.parts)[1]


def _instead(seen: Seen, call: Captured, made: list[tuple[Offer, Tried]]) -> dict[str, str]:
    """For each processor of the call's own that has no offer, what would be lost without it."""
    answered = {part for offer, _ in made for part in offer.parts}
    found = {}
    for part, steps in zip(call.lists[PROCESSORS], seen.steps[PROCESSORS], strict=True):
        name = seen.name_of(part)
        if name not in answered and (said := instead_of_unknown(steps)):
            found[name] = said
    return found


def _timed(
    call: Captured,
    ledger: Ledger | None,
    made: list[tuple[Offer, Tried]],
    trials: Trials,
    *,
    budget_s: float,
    sampled: bool,
    say: Progress,
) -> list[int]:
    """Time what gave the right tokens, alone and together; the places of what is to be written."""
    chosen = [place for place, (_, tried) in enumerate(made) if tried.tokens in _RIGHT]
    if len(chosen) > 1 and not _right_together(call, [made[place][0] for place in chosen], sampled=sampled):
        chosen = [place for place in chosen if not made[place][1].leans][:1]  # each is right alone: keep the costliest
    worth = [place for place in chosen if ledger is None or _share(made[place][0], ledger) >= _WORTH_MEASURING]
    alone = [place for place in worth if not made[place][1].leans] if len(chosen) > 1 else []
    trials.shown = len(alone) + 1  # all together as well
    for number, place in enumerate(alone):
        say((1 - _TOGETHER) * number / len(alone), f"{call.site}: {', '.join(made[place][0].parts)}")
        verdict = trials.run([made[place][0]], [place], budget_s * (1 - _TOGETHER) / len(alone))
        if verdict == Verdict.SLOWER and not any(made[other][1].leans for other in chosen):
            chosen.remove(place)
    if not chosen or chosen == alone[:1]:  # nothing is left to be timed together
        return chosen
    say(1 - _TOGETHER if alone else 0.0, f"{call.site}: all together")
    verdict = trials.run([made[place][0] for place in chosen], chosen, budget_s * (_TOGETHER if alone else 1))
    return [] if verdict.startswith((Verdict.SLOWER, Verdict.SAME)) else chosen


def _right_together(call: Captured, held: list[Offer], *, sampled: bool) -> bool:
    if any(offer.kind == LOOP for offer in held):
        return _loop_tokens(call, held, sampled=sampled) in _RIGHT
    return _equal(tokens_with(call, held), tokens_of(call.result))
