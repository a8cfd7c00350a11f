"""What every processor and criterion did in a call, which is made again with something that watches them.

Masks are kept as bits, verdicts as they are, for a limited number of steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from perstep.experiments.fix.capture import Captured, copied
from perstep.targets.transformers._wrap import Wraps

Function = Callable[..., Any]

MOST_STEPS = 256
"""So many steps of a call are looked at."""


@dataclass
class Steps:
    """What one processor or criterion was given and made of it, step by step."""

    ids: list[Any] = field(default_factory=list)
    before: list[Any] = field(default_factory=list)  # packed bits of finite logits
    after: list[Any] = field(default_factory=list)  # packed bits, or verdicts
    kept_values: bool = True
    chosen_forbidden: int = 0  # rows in which the likeliest token was forbidden
    rows: int = 0


@dataclass
class Seen:
    """What a call did: its own processors and criteria step by step, and what generate built from its settings."""

    steps: dict[str, list[Steps]]
    built: dict[str, list[Any]]


def observe(call: Captured) -> Seen:
    """Make the call again and look at every processor and criterion in it."""
    seen: dict[str, list[Steps]] = {name: [Steps() for _ in parts] for name, parts in call.lists.items()}
    spies = {
        "logits_processor": [
            _processor_spy(part, steps)
            for part, steps in zip(copied(call.lists["logits_processor"]), seen["logits_processor"], strict=True)
        ],
        "stopping_criteria": [
            _criterion_spy(part, steps)
            for part, steps in zip(copied(call.lists["stopping_criteria"]), seen["stopping_criteria"], strict=True)
        ],
    }
    built: dict[str, list[Any]] = {}
    wraps = Wraps()
    for kind, method in (
        ("logits_processor", "_get_logits_processor"),
        ("stopping_criteria", "_get_stopping_criteria"),
    ):
        wraps.method(call.model, method, partial(_keeping, built, kind, spies[kind]))
    try:
        call.again(spies)
    finally:
        wraps.restore()
    return Seen(seen, built)


def _keeping(built: dict[str, list[Any]], kind: str, spies: list[Any], original: Function) -> Function:
    """A method that builds a list, which keeps what is in it besides our spies."""

    def method(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        built[kind] = [part for part in made if not any(part is spy for spy in spies)]
        return made

    return method


def _processor_spy(part: Any, steps: Steps) -> Any:
    """A processor of transformers that hands on to `part` and keeps what it did."""
    from transformers import LogitsProcessor

    class Spy(LogitsProcessor):  # type: ignore[misc] # transformers is not typed
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            before, best, kept = scores > -np.inf, scores.argmax(dim=-1), scores.clone()
            made = part(input_ids, scores)
            after = made > -np.inf
            steps.kept_values &= bool((made[after] == kept[after]).all())
            steps.rows += len(best)
            steps.chosen_forbidden += int((~after.gather(1, best[:, None])).sum())
            if len(steps.ids) < MOST_STEPS:
                steps.ids.append(input_ids.clone())
                steps.before.append(np.packbits(before.cpu().numpy(), axis=1))
                steps.after.append(np.packbits(after.cpu().numpy(), axis=1))
            return made

    return Spy()


def _criterion_spy(part: Any, steps: Steps) -> Any:
    """A criterion of transformers that hands on to `part` and keeps its verdicts."""
    from transformers import StoppingCriteria

    class Spy(StoppingCriteria):  # type: ignore[misc] # transformers is not typed
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            made = part(input_ids, scores, **kwargs)
            if len(steps.ids) < MOST_STEPS:
                steps.ids.append(input_ids.clone())
                steps.after.append(verdicts_of(made, len(input_ids)))
            return made

    return Spy()


def verdicts_of(made: Any, rows: int) -> list[bool]:
    """The verdict of each row; a criterion may give one for all."""
    found = np.atleast_1d(np.asarray(made.cpu() if hasattr(made, "cpu") else made)).astype(bool).ravel()
    verdicts: list[bool] = np.broadcast_to(found, (rows,)).tolist() if len(found) in (1, rows) else []
    return verdicts
