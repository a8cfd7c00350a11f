"""Plain decoding in place of assisted decoding or prompt lookup: whether the draft is worth what it costs.

For greedy tokens both must give the same. Where tokens are drawn, assisted decoding draws others from the same
distribution, so that nothing could be compared; and how many candidates are taken depends on the draws.
"""

from functools import partial

from perstep._words import plural, short
from perstep.fixing.capture import REMOVED, Captured
from perstep.fixing.offer import DRAFT, Offer
from perstep.targets.transformers import Function, Value, Wraps

DRAFTED = "draft"
"""The part of a step in which candidates are made."""

_SETTINGS = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
SAMPLED = (
    "tokens are drawn: plain decoding draws others of the same distribution, so they cannot be compared, and the time "
    "depends on the draws"
)


def draft_offer(call: Captured) -> Offer | None:
    """Plain decoding; None where the call has no draft."""
    given = [name for name in _SETTINGS if call.arguments[1].get(name)]
    if not given:
        return None
    return Offer(DRAFT, None, (DRAFTED,), (), "the same prompts without a draft", dict.fromkeys(given, REMOVED))


def forwards_of(call: Captured) -> int:
    """Forwards of the model that the call makes, the prefill among them; those of an assistant are not counted."""
    count = 0

    def counted(original: Function, *args: Value, **kwargs: Value) -> Value:
        nonlocal count
        count += 1
        return original(*args, **kwargs)

    with Wraps() as wraps:
        wraps.method(call.model, "forward", lambda original: partial(counted, original))
        call.again()
    return count


def verdict(tokens: int, forwards: int, verdict: str, change: float | None, *, projected: bool) -> str:
    """What the rounds say of the draft, in a sentence.

    Args:
        tokens: new tokens of the call.
        forwards: that it made; 0 where they could not be counted.
        verdict: of plain decoding against the call as it is.
        change: of the call's time, plain against with the draft; None without one.
        projected: it was timed over its first tokens alone.

    >>> verdict(40, 14, "faster", -0.4444, projected=False)
    '40 tokens in 14 forwards; with the draft a token costs 1.8 times as much: drop it'
    """
    counts = (
        f"{plural(tokens, 'token')} in {plural(forwards, 'forward')}; " if forwards else f"{plural(tokens, 'token')}; "
    )
    if change is None:
        return f"{counts}whether the draft pays is not known: {verdict}"
    times = f"with the draft a token costs {short(1 / (1 + change), 2)} times as much"
    advice = {"faster": "drop it", "slower": "keep it"}.get(verdict, f"{verdict}, so nothing is to be gained")
    if verdict.startswith("not resolved"):
        advice = "not resolved, try a larger --budget"
    return f"{counts}{times}: {advice}{' (projected from its first tokens)' if projected else ''}"
