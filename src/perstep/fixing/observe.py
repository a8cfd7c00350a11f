"""What every processor and criterion did in a call, which is made again with something that watches them.

Masks are kept as bits, verdicts as they are, for a limited number of steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perstep.fixing.capture import Captured, Part, copied
from perstep.fixing.offer import CRITERIA, PROCESSORS
from perstep.targets.transformers import Function, Value, Wraps, part_names
from perstep.targets.transformers.protocols import GenerationConfig

if TYPE_CHECKING:
    import torch

MOST_STEPS = 256
"""Number of steps of a call that are recorded."""


@dataclass
class Steps:
    """What one processor or criterion was given and made of it, step by step."""

    ids: "list[torch.Tensor]" = field(default_factory=list)
    before: list[NDArray[np.uint8]] = field(default_factory=list)  # packed bits of finite logits
    after: list[Value] = field(default_factory=list)  # packed bits, or verdicts
    kept_values: bool = True
    chosen_forbidden: int = 0  # rows in which the likeliest token was forbidden
    rows: int = 0
    columns: int = 0  # of the logits
    scores: "tuple[torch.Tensor, ...] | None" = None  # as a criterion was given them last


@dataclass
class Seen:
    """What a call did.

    Attributes:
        steps: its own processors and criteria, step by step, by argument.
        built: what generate built from settings besides, by argument.
        merged: those and the call's own in the order in which generate applies them, by argument.
        names: the part of the ledger that each is, by `id` (of the copy in `built`, of the original in the call).
        sampled: whether tokens were drawn.
        beams: of each prompt.
        limit: of the text in tokens, by which generate stops; None without one.
        reasons: why nothing takes the place of a part, by its name in the ledger.
    """

    steps: dict[str, list[Steps]]
    built: dict[str, list[Part]]
    merged: dict[str, list[Part]]
    names: dict[int, str]
    sampled: bool
    limit: int | None
    beams: int = 1
    reasons: dict[str, str] = field(default_factory=dict)

    def name_of(self, part: Part) -> str:
        """The part of the ledger that a processor or criterion is."""
        return self.names[id(part)]


def observe(call: Captured) -> Seen:
    """Make the call again and look at every processor and criterion in it."""
    seen: dict[str, list[Steps]] = {name: [Steps() for _ in parts] for name, parts in call.lists.items()}
    own = {name: copied(parts) for name, parts in call.lists.items()}
    lists: dict[str, list[Part]] = {}
    configs: list[GenerationConfig] = []
    with Wraps() as wraps:
        for kind, method, keep in (
            (PROCESSORS, "_get_logits_processor", keep_mask),
            (CRITERIA, "_get_stopping_criteria", _keep_verdicts),
        ):
            steps_of = zip(own[kind], seen[kind], strict=True)
            spies = {id(part): listener(kind, part, partial(keep, steps)) for part, steps in steps_of}
            wraps.method(call.model, method, partial(_keeping, lists, configs, kind, spies))
        call.again(own)
    built: dict[str, list[Part]] = {}
    every: dict[str, list[Part]] = {}
    names: dict[int, str] = {}
    for kind, room in ((PROCESSORS, "logits"), (CRITERIA, "stop")):
        original = {id(copy): part for copy, part in zip(own[kind], call.lists[kind], strict=True)}
        merged = every[kind] = [original.get(id(part), part) for part in lists.get(kind, [])]
        built[kind] = [part for part in merged if not any(part is own for own in call.lists[kind])]
        names |= {id(part): name for part, name in zip(merged, part_names(room, merged), strict=True)}
        for part in call.lists[kind]:  # one that generate left out
            names.setdefault(id(part), f"{room}/{type(part).__name__}")
    limits = [part.max_length for part in built[CRITERIA] if type(part).__name__ == "MaxLengthCriteria"]
    sampled = any(config.do_sample for config in configs)
    beams = max((config.num_beams or 1 for config in configs), default=1)
    return Seen(seen, built, every, names, sampled, min(limits, default=None), beams)


def _keeping(
    lists: dict[str, list[Part]],
    configs: list[GenerationConfig],
    kind: str,
    spies: dict[int, object],
    original: Function,
) -> Function:
    """A method that builds a list, which is kept with the configuration that it was built from.

    The spies take their places when generate has merged the call's own with its own, which it does by their classes.
    """

    def method(*args: Value, **kwargs: Value) -> Value:
        returned = original(*args, **kwargs)
        lists[kind] = list(returned)
        returned[:] = [spies.get(id(part), part) for part in returned]
        configs.extend([kwargs["generation_config"]] if "generation_config" in kwargs else args[:1])
        return returned

    return method


def keep_mask(steps: Steps, input_ids: "torch.Tensor", given: "torch.Tensor", masked: "torch.Tensor") -> None:
    """What a processor made of scores."""
    best, after = given.argmax(dim=-1), masked > -np.inf
    steps.kept_values &= bool((masked[after] == given[after]).all())
    if len(steps.ids) < MOST_STEPS:
        steps.rows += len(best)
        steps.columns = given.shape[1]
        steps.chosen_forbidden += int((~after.gather(1, best[:, None])).sum())
        steps.ids.append(input_ids.clone())
        steps.before.append(np.packbits((given > -np.inf).cpu().numpy(), axis=1))
        steps.after.append(np.packbits(after.cpu().numpy(), axis=1))


def _keep_verdicts(steps: Steps, input_ids: "torch.Tensor", scores: Value, verdict: Value) -> None:
    """What a criterion said."""
    if len(steps.ids) < MOST_STEPS:
        steps.scores = scores
        steps.ids.append(input_ids.clone())
        steps.after.append(verdicts_of(verdict, len(input_ids)))


def listener(kind: str, part: Part, keep: Callable[[Value, Value, Value], None]) -> Part:
    """A processor or criterion of transformers that hands on to `part`.

    Args:
        kind: `logits_processor` or `stopping_criteria`.
        part: what it stands for.
        keep: takes ids, scores and what `part` made of them; of a processor the scores are a copy, made before.
    """
    from transformers import LogitsProcessor, StoppingCriteria

    class Processor(LogitsProcessor):  # type: ignore[misc] # transformers is not typed
        def __call__(self, input_ids: Value, scores: Value) -> Value:
            given = scores.clone()
            changed = part(input_ids, scores)
            keep(input_ids, given, changed)
            return changed

    class Criterion(StoppingCriteria):  # type: ignore[misc] # transformers is not typed
        def __call__(self, input_ids: Value, scores: Value, **kwargs: Value) -> Value:
            verdict = part(input_ids, scores, **kwargs)
            keep(input_ids, scores, verdict)
            return verdict

    return Processor() if kind == PROCESSORS else Criterion()


def verdicts_of(verdict: Value, rows: int) -> list[bool]:
    """The verdict of each row; a criterion may give one for all."""
    flags = np.atleast_1d(np.asarray(verdict.cpu() if hasattr(verdict, "cpu") else verdict)).astype(bool).ravel()
    verdicts: list[bool] = np.broadcast_to(flags, (rows,)).tolist() if len(flags) in (1, rows) else []
    return verdicts
