"""First calls are shown separately: a sentence gives the times of a line's first call, and no row includes them.

A call is a first one if no call before it from the same line and model held one of its parts: the first call of all,
and the first with another processor. It is left out of a ledger whole where other calls hold each of its parts, so that
nothing is hidden; otherwise its first decode step is. With nothing but first calls there is nothing else to show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from perstep.experiments.call_recorder import CallSteps
from perstep.report.format import duration, plural
from perstep.targets.transformers.words import DECODE, PREFILL

if TYPE_CHECKING:
    from perstep.watching.samples import Sample

SAID = 3
"""Number of first calls of a line that are described."""


@dataclass(frozen=True)
class Chosen:
    """A call whose steps of one kind are in the ledger, but for a number of the first."""

    sample: "Sample"
    skip: int
    is_first: bool

    def taken(self, steps: CallSteps) -> CallSteps:
        """The columns of the steps that are in the ledger, of the host or the device."""
        if not self.skip:
            return steps
        marked = int(steps.marked[: self.skip].sum())
        left = 1 - marked / max(len(steps.residual_ns), 1)
        return CallSteps(
            steps.step_ns[self.skip :],
            {name: ns[marked:] for name, ns in steps.parts.items()},
            steps.residual_ns[marked:],
            {name: round(count * left) for name, count in steps.marks.items()},
            marked=steps.marked[self.skip :],
        )


class FirstCall(msgspec.Struct, frozen=True, kw_only=True):
    """The times of a first call, which is shown separately.

    Attributes:
        number: of the call, counted from 1 over those of its line.
        parts: seen for the first time in it; none are named for the line's first call, in which all are.
        prefill_ns: of its prefill; None where that is in the ledger.
        part: of that, the part with most of the recorded time, if it was looked into.
        part_ns: the time of that part.
        decode_steps: decode steps of it that are in no row.
        decode_ns: what they took on average; None where there are none.
    """

    number: int
    parts: list[str]
    prefill_ns: int | None
    part: str
    part_ns: int
    decode_steps: int
    decode_ns: float | None


def choose(kind: str, samples: Sequence["Sample"]) -> list[Chosen]:
    """The calls whose steps of a kind make up the ledger."""
    indices = [i for i, sample in enumerate(samples) if kind in sample.kinds and len(sample.kinds[kind].step_ns)]
    marked = {i: set(samples[i].kinds[kind].parts) for i in indices if len(samples[i].kinds[kind].residual_ns)}
    first = _new_parts(samples)
    settled = [parts for i, parts in marked.items() if i not in first]
    if settled:
        usual = set[str]().union(*settled)
        indices = [i for i in indices if i not in first or not marked.get(i, set()) <= usual]
    elif marked:  # marked steps of first calls alone: the others' plain ones beside them would be another thing
        indices = [i for i in indices if i in first]
    return [Chosen(samples[i], _skip(kind, samples[i], is_first=i in first), i in first) for i in indices]


def find_first_calls(samples: Sequence["Sample"]) -> list[FirstCall]:
    """The times of the first calls of one line."""
    decode = {id(chosen.sample): chosen.skip for chosen in choose(DECODE, samples)}
    prefills = {id(chosen.sample) for chosen in choose(PREFILL, samples)}
    first_calls = []
    for number, new in _new_parts(samples).items():
        sample = samples[number]
        prefill = None if id(sample) in prefills else sample.kinds.get(PREFILL)
        left_out: list[int] = sample.kinds[DECODE].step_ns.tolist() if DECODE in sample.kinds else []
        left_out = left_out[: decode.get(id(sample), len(left_out))]
        part, part_ns = _most(prefill)
        if prefill is None and not left_out:
            continue
        first_calls.append(
            FirstCall(
                number=number + 1,
                parts=new,
                prefill_ns=None if prefill is None else int(prefill.step_ns.sum()),
                part=part,
                part_ns=part_ns,
                decode_steps=len(left_out),
                decode_ns=sum(left_out) / len(left_out) if left_out else None,
            )
        )
    return first_calls


def first_call_sentences(calls: Sequence[FirstCall]) -> list[str]:
    """A sentence a call, and how many more there are."""
    said = [_sentence(call) for call in calls[:SAID]]
    if len(calls) > SAID:
        said.append(f"{plural(len(calls) - SAID, 'more call')} with a new part are shown separately too.")
    return said


def _sentence(call: FirstCall) -> str:
    who = f"Call {call.number}, the first with {', '.join(call.parts)}," if call.parts else "The first call"
    facts = []
    if call.prefill_ns is not None:
        inside = f" ({call.part} {duration(call.part_ns)} of it)" if call.part else ""
        facts.append(f"its prefill took {duration(call.prefill_ns)}{inside}")
    if call.decode_ns is not None:
        which = "first decode step" if call.decode_steps == 1 else plural(call.decode_steps, "decode step")
        average = "" if call.decode_steps == 1 else " on average"
        facts.append(f"its {which} took {duration(call.decode_ns)}{average}")
    return f"{who} is shown separately, because it includes warm-up: {', '.join(facts)}."


def _new_parts(samples: Sequence["Sample"]) -> dict[int, list[str]]:
    """First calls -> the parts that are new in them; none for the first of a line and model."""
    seen: dict[tuple[str, str], set[str]] = {}
    by_call: dict[int, list[str]] = {}
    for i, sample in enumerate(samples):
        earlier = seen.setdefault((sample.site, sample.model), set())
        names = dict.fromkeys(name for steps in sample.kinds.values() for name in steps.parts)
        new = [name for name in names if name not in earlier]
        if new:
            by_call[i] = new if earlier else []
        earlier.update(names)
    return by_call


def _skip(kind: str, sample: "Sample", *, is_first: bool) -> int:
    """1 where the first decode step of a first call can be left out: each part in it is in another marked step."""
    if kind != DECODE or not is_first:
        return 0
    steps = sample.kinds[kind]
    marked = int(steps.marked[0])
    if len(steps.residual_ns) <= marked:
        return 0
    hidden = marked and any(ns[0] > 0 and not ns[1:].any() for ns in steps.parts.values())
    return 0 if hidden else 1


def _most(steps: CallSteps | None) -> tuple[str, int]:
    totals = {} if steps is None else {name: int(ns.sum()) for name, ns in steps.parts.items()}
    most = max(totals, key=totals.__getitem__, default="")
    return (most, totals[most]) if most and totals[most] else ("", 0)
