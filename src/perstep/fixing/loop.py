"""`perstep.fast.decode` as a replacement of generate's own loop in a captured call.

Greedy tokens must be the call's. A sampled call draws other numbers of the same distribution (law "a drop-in proves its
guarantee"), so there the tokens must be those of transformers' own loop when it draws by the same keyed noise, over the
full vocabulary. What the loop refuses it refuses itself, by name; nothing is guessed here.
"""

import inspect
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from perstep.errors import InputError
from perstep.fixing.capture import Captured, Part
from perstep.fixing.offer import LOOP, Offer, changed, changes_of
from perstep.fixing.repeat import ended_with
from perstep.fixing.suggest import BETWEEN
from perstep.measure import Clock
from perstep.targets.reference.sample import gumbel_noise
from perstep.targets.transformers import Function, Value, Wraps
from perstep.targets.transformers.protocols import sequences_of

if TYPE_CHECKING:
    import torch

EVIDENCE = "it does what generate's loop does"
SEED = 20_250_101
"""Of the noise with which both loops draw when their tokens are compared."""


def loop_offer() -> Offer:
    """`custom_generate=perstep.fast.decode`."""
    from perstep.fast import decode

    return Offer(LOOP, None, (BETWEEN,), ((decode, "perstep.fast.decode"),), EVIDENCE)


def how_it_ran(offer: Offer) -> tuple[bool, str]:
    """Whether the last call with `perstep.fast.decode` replayed CUDA graphs, and what to say of that; '' on a CPU."""
    last = getattr(offer.made[0][0], "last", None)
    if getattr(last, "replayed", False):
        return True, f"each decode step is one replayed CUDA graph, built in {getattr(last, 'built_s', 0.0):.2f} s"
    why = getattr(last, "why", "")
    return False, f"not in a captured CUDA graph: {why}" if why else ""


def refusal(call: Captured, offers: list[Offer]) -> str:
    """Why `perstep.fast.decode`, which is among the offers, refuses a call, in its own words; empty if it does not."""
    try:
        tokens_with(call, offers)
    except InputError as error:
        return str(error).split(": leave ")[0]
    except Exception as error:  # a processor or criterion of the user's own may want what only generate gives
        return f"the call with it {ended_with(error)}"
    return ""


def tokens_with(call: Captured, offers: list[Offer], **changes: Value) -> "torch.Tensor":
    """The tokens of the call with these offers."""
    lists, settings = changes_of(call, offers)
    with changed(offers):
        return call.again(lists, **settings, **changes)


def keyed_tokens(call: Captured) -> "torch.Tensor":
    """The tokens of a sampled call in transformers' own loop, every draw made by keyed noise over all logits."""
    with Wraps() as wraps:
        wraps.method(call.model, "_get_logits_processor", partial(_with_draw, _draw()))
        return sequences_of(call.ready()())


def _with_draw(draw: object, original: Function) -> Function:
    def method(*args: Value, **kwargs: Value) -> Value:
        processors = original(*args, **kwargs)
        processors.append(draw)
        return processors

    return method


def _draw() -> object:
    """The last processor: it leaves the one token that keyed noise draws, so that multinomial has no choice."""
    import torch
    from transformers import LogitsProcessor

    class KeyedDraw(LogitsProcessor):  # type: ignore[misc] # transformers is not typed
        def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
            only = torch.full_like(scores, -torch.inf)
            for row, logits_V in enumerate(scores.double().cpu().numpy()):
                ids = np.flatnonzero(logits_V > -np.inf)
                noise = gumbel_noise(SEED, row, input_ids.shape[1], ids)
                only[row, int(ids[(logits_V[ids] + noise).argmax()])] = 0.0
            return only

    return KeyedDraw()


def dispatch_ns(processors: list[Part], clock: Clock) -> float:
    """What transformers' look at the signature of each processor takes together, by hot calls; 95th percentile.

    Its list of processors asks for it at every step, inside each processor's part. `fast.decode` asks once a call.
    """
    took = []
    for _ in range(40):
        begun = clock.now()
        for processor in processors:
            _ = inspect.signature(processor.__call__).parameters
        took.append(clock.now() - begun)
    return float(np.percentile(took, 95)) if processors else 0.0
