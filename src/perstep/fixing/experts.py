"""What the experts of a mixture-of-experts model run with: transformers' own implementations, one against another.

`set_experts_implementation` changes how a step multiplies, not what: sums are in another order, so the whole call must
give the same tokens. The quickest of a few calls is offered; whether it is quicker is for the rounds to say.
"""

from functools import partial

from perstep.fixing.capture import Captured
from perstep.fixing.offer import EXPERTS, Offer, State, changed
from perstep.measure import Clock
from perstep.targets.transformers import Value

_NAMES = ("batched_mm", "grouped_mm", "eager")
_CALLS = 3


def experts_offer(call: Captured, clock: Clock) -> Offer | None:
    """The implementation with which some calls took least; None where there are no experts, or it is the call's own."""
    now = implementation(call.model)
    if not now:
        return None
    offers = {now: None, **{name: _offer(call, name, now) for name in _NAMES if name != now}}
    took = {name: _least_ns(call, offer, clock) for name, offer in offers.items()}
    return offers[min(took, key=lambda name: took[name])]


def implementation(model: Value) -> str:
    """What the experts of a model run with; empty where it has none that can be changed."""
    blocks = [part for part in model.modules() if _has_experts(part)]
    return str(getattr(blocks[0].config, "_experts_implementation", "") or "") if blocks else ""


def _has_experts(part: Value) -> bool:
    """Whether a module is a set of experts whose forward transformers chooses by the configuration."""
    kind = type(part)
    return hasattr(part, "config") and hasattr(kind.forward, "__wrapped__") and "xperts" in kind.__name__


def _offer(call: Captured, name: str, now: str) -> Offer:
    change, restore = (partial(call.model.set_experts_implementation, one) for one in (name, now))
    return Offer(
        EXPERTS,
        None,
        ("forward",),
        (),
        f"the same sums in another order than with {now!r}",
        before=(f"{{model}}.set_experts_implementation({name!r})",),
        state=State(change, restore),
    )


def _least_ns(call: Captured, offer: Offer | None, clock: Clock) -> float:
    """The least that one of a few calls took; infinite where the model refuses the implementation."""
    took = []
    try:
        with changed([offer] if offer else []):
            for _ in range(_CALLS):
                ready = call.ready()
                begun = clock.now()
                ready()
                took.append(clock.now() - begun)
    except Exception:  # this model, or this machine, has no kernel for it
        return float("inf")
    return float(min(took))
