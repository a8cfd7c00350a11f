"""What `torch.compile` compiled in watched calls: how often, in which steps, what it took, and why again."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from perstep.report.format import duration, plural

if TYPE_CHECKING:
    from perstep.watching.samples import Sample

STEPS_SAID = 6
"""Number of steps that are listed one by one."""
BREAKS_SAID = 3
"""Number of lines with graph breaks that are named."""


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """The compilations of one function.

    Attributes:
        function: with the line where it begins.
        times: it was compiled, the first one included.
        steps: in which steps: 0 is the prefill; those of all calls together, each number once.
        ns: what they took together, by dynamo's own account.
        reasons: why it was compiled again, in dynamo's words -> how often; sizes that differ count as one reason.
        gave_up: the limit was reached: it is compiled no more.
    """

    function: str
    times: int
    steps: list[int]
    ns: int
    reasons: list[str]
    gave_up: bool


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """A line where compiled code falls back to Python: how often while compiling, and dynamo's reason."""

    count: int
    reason: str


def find_compiled(samples: Sequence["Sample"]) -> list[Compiled]:
    """What was compiled, by function, in the order of the first compilations."""
    functions = dict.fromkeys(one.function for sample in samples for one in sample.compilations)
    compiled = []
    for function in functions:
        of_function = [one for sample in samples for one in sample.compilations if one.function == function]
        done = [one for one in of_function if not one.gave_up]
        compiled.append(
            Compiled(
                function=function,
                times=len(done),
                steps=sorted({one.step for one in done}),
                ns=sum(one.ns for one in of_function),
                reasons=[one.reason for one in of_function if one.reason],
                gave_up=any(one.gave_up for one in of_function),
            )
        )
    return compiled


def find_breaks(samples: Sequence["Sample"]) -> dict[str, Break]:
    """The lines with graph breaks."""
    breaks: dict[str, Break] = {}
    for one in (one for sample in samples for one in sample.breaks):
        before = breaks.get(one.place)
        breaks[one.place] = Break(count=1 + (before.count if before else 0), reason=one.reason)
    return breaks


def compiled_sentences(compiled: Sequence[Compiled], breaks: Mapping[str, Break]) -> list[str]:
    """A sentence a function that was compiled more than once or took time, and one on graph breaks."""
    said = []
    for one in compiled:
        why = f" Why last: {one.reasons[-1]}." if one.reasons else ""
        limit = " The limit of recompilations was reached: from then on it runs uncompiled." if one.gave_up else ""
        times = plural(one.times, "time")
        said.append(
            f"torch.compile compiled {one.function} {times}, in {_steps(one.steps)}: {duration(one.ns)}.{why}{limit}"
        )
    if breaks:
        places = sorted(breaks.items(), key=lambda item: -item[1].count)
        named = "; ".join(f"{place} ({one.reason})" for place, one in places[:BREAKS_SAID])
        more = f"; and {plural(len(places) - BREAKS_SAID, 'other line')}" if len(places) > BREAKS_SAID else ""
        said.append(f"Compiled code falls back to Python (graph break) at {named}{more}.")
    return said


def _steps(steps: Sequence[int]) -> str:
    """The prefill and decode steps by number.

    >>> _steps([0, 1, 2, 3]), _steps([4, 7]), _steps([0])
    ('the prefill and decode steps 1 to 3', 'decode steps 4, 7', 'the prefill')
    """
    decode = [step for step in steps if step]
    said = ["the prefill"] if 0 in steps else []
    if len(decode) > 1 and decode[-1] - decode[0] == len(decode) - 1:
        said.append(f"decode steps {decode[0]} to {decode[-1]}")
    elif decode:
        listed = ", ".join(str(step) for step in decode[:STEPS_SAID]) + (
            " and more" if len(decode) > STEPS_SAID else ""
        )
        said.append(f"decode {'step' if len(decode) == 1 else 'steps'} {listed}")
    return " and ".join(said) or "no step"
