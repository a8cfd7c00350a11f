"""What grows along a call: the slope of each part over the decode steps, with its interval.

A machine that slows down makes everything grow. So a part is said to grow only where its ratio to the parts that do not
grow does so too.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.experiments.call_recorder import CallSteps
from perstep.measure import FORWARD, belongs
from perstep.report.format import duration, plural
from perstep.stats import half_slopes
from perstep.targets.transformers import Schedule
from perstep.targets.transformers.words import DECODE, DRAFT, LOGITS, STOP, STREAM

if TYPE_CHECKING:
    from perstep.watching.samples import Sample

SAID = 0.1
"""A part is said to grow where what it gains over the steps seen is at least this share of the mean step."""
USE_CACHE = " (use_cache=False)"
WHOLE = "every step takes in the whole text"
_WHOLE_TEXT = {
    LOGITS: "as a processor does that goes through the whole text at every step",
    STOP: "as a criterion does that decodes or goes through the whole text at every step",
    STREAM: "as a streamer does that renders the whole text again for every token",
}

Curves = list[tuple[NDArray[np.float64], NDArray[np.float64]]]


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """How a part's time grows from one decode step to the next.

    Attributes:
        part: its name.
        ns_per_step: what a step more adds.
        ci_low: lower end of its interval; all parts' hold together with 95 % confidence. None with too few steps.
        ci_high: its upper end.
        over_steps: the steps between the first and the last one seen in a call; the longest call's.
        grows: it grows by more than the machine's drift explains, and by a tenth of the mean step or more.
    """

    part: str
    ns_per_step: float
    ci_low: float | None
    ci_high: float | None
    over_steps: int
    grows: bool


def find_growth(samples: Sequence["Sample"], schedule: Schedule) -> list[Growth]:
    """The growth of each part over the decode steps of calls, all but the first step of each.

    Args:
        samples: of one line.
        schedule: which steps of a call were recorded.
    """
    pairs = [(sample, steps) for sample in samples if (steps := sample.kinds.get(DECODE)) is not None]
    pairs = [(sample, steps) for sample, steps in pairs if len(steps.residual_ns) > 1]
    calls = [steps for _, steps in pairs]
    at = [_positions(steps, _uncounted(schedule) if sample.made_by == "steps" else schedule) for sample, steps in pairs]
    names = dict.fromkeys(name for steps in calls for name in steps.parts)
    curves = {name: [(x, _column(steps, name)) for x, steps in zip(at, calls, strict=True)] for name in names}
    slopes = {name: fit for name in names if (fit := half_slopes(curves[name], comparisons=len(names)))}
    rising = [name for name, slope in slopes.items() if slope.low is not None and slope.low > 0]
    still = [name for name in names if name not in rising and any(y.any() for _, y in curves[name])]
    span = max((int(x[-1] - x[0]) for curve in curves.values() for x, _ in curve), default=0)
    step_ns = np.concatenate([steps.step_ns for steps in calls]).mean() if calls else 0.0

    def grows(name: str) -> bool:
        if name not in rising or slopes[name].estimate * span < SAID * step_ns:
            return False
        others = [other for other in still or names if other != name]
        return _outgrows(curves[name], [curves[other] for other in others], len(names))

    return [
        Growth(
            part=name,
            ns_per_step=slope.estimate,
            ci_low=slope.low,
            ci_high=slope.high,
            over_steps=span,
            grows=grows(name),
        )
        for name, slope in slopes.items()
    ]


def _uncounted(schedule: Schedule) -> Schedule:
    """Of the steps that a program names none is given to counting syncs."""
    return replace(schedule, count=False)


def _positions(steps: CallSteps, schedule: Schedule) -> NDArray[np.float64]:
    """The number of each marked step in its call, from 1. Which steps are timed is the same in every call."""
    timed = (number for number, mode in enumerate(schedule.modes(0)) if number and mode.timed)
    numbers = np.fromiter(timed, np.float64, len(steps.step_ns))
    return numbers[np.flatnonzero(steps.marked)]


def _column(steps: CallSteps, name: str) -> NDArray[np.float64]:
    return np.asarray(steps.parts.get(name, np.zeros(len(steps.residual_ns))), dtype=np.float64)


def _outgrows(curve: Curves, others: Sequence[Curves], comparisons: int) -> bool:
    """Whether the ratio of a part to the others together grows; True where these took no time to compare with."""
    sums = [sum((other[call][1] for other in others), np.zeros(len(x))) for call, (x, _) in enumerate(curve)]
    if not all(total.all() for total in sums):
        return True
    ratios = [(x, y / total) for (x, y), total in zip(curve, sums, strict=True)]
    slope = half_slopes(ratios, comparisons=comparisons)
    return slope is not None and slope.low is not None and slope.low > 0


def growth_sentences(growths: Sequence[Growth], *, whole: bool, made_by: str) -> list[str]:
    """A sentence for each part that grows, with the cause where that is known.

    Args:
        growths: of one line.
        whole: no cache was used.
        made_by: what made its calls.
    """
    step = "step" if any(growth.part == DRAFT for growth in growths) else "token"
    said = []
    for growth in growths:
        if not growth.grows or growth.ci_low is None or growth.ci_high is None:
            continue
        interval = f"[{duration(growth.ci_low)}, {duration(growth.ci_high)}]"
        cause = _cause(growth.part, whole=whole, made_by=made_by)
        said.append(
            f"{growth.part} grows by {duration(growth.ns_per_step)} a {step} {interval}, over"
            f" {plural(growth.over_steps, 'step')}{cause}."
        )
    return said


def _cause(part: str, *, whole: bool, made_by: str) -> str:
    if belongs(part, FORWARD):
        if whole:
            return f": no KV cache is used{USE_CACHE if made_by == 'generate' else ''}, {WHOLE}"
        return ", with the length of its context"
    after = _WHOLE_TEXT.get(part.split("/")[0])
    return f", {after}" if after else ""
