"""What every processor and criterion did in a call, which is made again with something that watches them.

Masks are kept as bits, verdicts as they are, for a limited number of steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from perstep.fixing.capture import Captured, copied
from perstep.fixing.offer import CRITERIA
from perstep.targets.transformers._lists import part_names
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
    columns: int = 0  # of the logits
    scores: Any = None  # as a criterion was given them last


@dataclass
class Seen:
    """What a call did.

    Attributes:
        steps: its own processors and criteria, step by step, by argument.
        built: what generate built from settings besides, by argument.
        merged: those and the call's own in the order in which generate applies them, by argument.
        names: the part of the ledger that each is, by `id` (of the copy in `built`, of the original in the call).
        sampled: whether tokens were drawn.
        limit: of the text in tokens, by which generate stops; None without one.
        reasons: why nothing takes the place of a part, by its name in the ledger.
    """

    steps: dict[str, list[Steps]]
    built: dict[str, list[Any]]
    merged: dict[str, list[Any]]
    names: dict[int, str]
    sampled: bool
    limit: int | None
    reasons: dict[str, str] = field(default_factory=dict)

    def name_of(self, part: Any) -> str:
        """The part of the ledger that a processor or criterion is."""
        return self.names[id(part)]


def observe(call: Captured) -> Seen:
    """Make the call again and look at every processor and criterion in it."""
    seen: dict[str, list[Steps]] = {name: [Steps() for _ in parts] for name, parts in call.lists.items()}
    own = {name: copied(parts) for name, parts in call.lists.items()}
    lists: dict[str, list[Any]] = {}
    configs: list[Any] = []
    with Wraps() as wraps:
        for kind, method, spy in (
            ("logits_processor", "_get_logits_processor", _processor_spy),
            ("stopping_criteria", "_get_stopping_criteria", _criterion_spy),
        ):
            spies = {id(part): spy(part, steps) for part, steps in zip(own[kind], seen[kind], strict=True)}
            wraps.method(call.model, method, partial(_keeping, lists, configs, kind, spies))
        call.again(own)
    built: dict[str, list[Any]] = {}
    every: dict[str, list[Any]] = {}
    names: dict[int, str] = {}
    for kind, room in (("logits_processor", "logits"), ("stopping_criteria", "stop")):
        original = {id(copy): part for copy, part in zip(own[kind], call.lists[kind], strict=True)}
        merged = every[kind] = [original.get(id(part), part) for part in lists.get(kind, [])]
        built[kind] = [part for part in merged if not any(part is own for own in call.lists[kind])]
        names |= {id(part): name for part, name in zip(merged, part_names(room, merged), strict=True)}
        for part in call.lists[kind]:  # one that generate left out
            names.setdefault(id(part), f"{room}/{type(part).__name__}")
    limits = [part.max_length for part in built[CRITERIA] if type(part).__name__ == "MaxLengthCriteria"]
    sampled = any(config.do_sample for config in configs)
    return Seen(seen, built, every, names, sampled, min(limits, default=None))


def _keeping(
    lists: dict[str, list[Any]], configs: list[Any], kind: str, spies: dict[int, Any], original: Function
) -> Function:
    """A method that builds a list, which is kept with the configuration that it was built from.

    The spies take their places when generate has merged the call's own with its own, which it does by their classes.
    """

    def method(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        lists[kind] = list(made)
        made[:] = [spies.get(id(part), part) for part in made]
        configs.extend([kwargs["generation_config"]] if "generation_config" in kwargs else args[:1])
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
            if len(steps.ids) < MOST_STEPS:
                steps.rows += len(best)
                steps.columns = scores.shape[1]
                steps.chosen_forbidden += int((~after.gather(1, best[:, None])).sum())
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
                steps.scores = scores
                steps.ids.append(input_ids.clone())
                steps.after.append(verdicts_of(made, len(input_ids)))
            return made

    return Spy()


def verdicts_of(made: Any, rows: int) -> list[bool]:
    """The verdict of each row; a criterion may give one for all."""
    found = np.atleast_1d(np.asarray(made.cpu() if hasattr(made, "cpu") else made)).astype(bool).ravel()
    verdicts: list[bool] = np.broadcast_to(found, (rows,)).tolist() if len(found) in (1, rows) else []
    return verdicts
