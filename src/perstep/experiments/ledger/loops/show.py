"""Decode loops as a table and CSV."""

from operator import attrgetter

from perstep.experiments.ledger.loops.measure import LoopArm, LoopFindings
from perstep.experiments.ledger.loops.options import LOOPS
from perstep.report import Column, Table, to_csv
from perstep.report.change import change_columns
from perstep.report.format import plural, time_unit
from perstep.report.table import ABSENT, Unit, time_column


def table(loops: LoopFindings) -> Table:
    """One row a loop."""
    title = (
        f"decode loops: {loops.model}, batch {loops.batch}, prompt {loops.prompt_tokens}, "
        f"{plural(loops.new_tokens, 'new token')}, {loops.device}; {plural(loops.rounds, 'round')} of warm calls"
    )
    token = time_unit(arm.ns_per_token for arm in loops.arms)
    call = time_unit(arm.first_ns for arm in loops.arms)
    return Table(title, _columns(token, call), loops.arms, notes=_notes(loops))


def csv(loops: LoopFindings) -> str:
    """The same, in nanoseconds."""
    return to_csv(_columns(("ns", 1.0), ("ns", 1.0)), loops.arms)


def _columns(token: Unit, call: Unit) -> list[Column[LoopArm]]:
    return [
        Column("loop", lambda arm: arm.name, name="loop", words=True),
        time_column("first call", lambda arm: arm.first_ns, call, name="first_ns"),
        time_column("once", lambda arm: ABSENT if arm.once_ns is None else arm.once_ns, call, name="once_ns"),
        time_column("warm", lambda arm: arm.ns_per_token, token, per="/token", name="ns_per_token", digits=4),
        *change_columns(attrgetter("call"), 1),
        Column("pays after", _pays, name="pays_after_tokens", words=True),
        Column("way", lambda arm: arm.way or ABSENT, name="way", words=True),
    ]


def _pays(arm: LoopArm) -> str:
    if arm.once_ns is None:
        return ABSENT
    if not arm.call.resolved:
        return "not resolved"
    if arm.pays_after is None:
        return "never"
    high = "never" if arm.pays_high is None else f"{arm.pays_high:,}"
    return f"{plural(arm.pays_after, 'token')} [{arm.pays_low or 0:,}, {high}]"


def _notes(loops: LoopFindings) -> list[str]:
    reference = loops.arms[0].name
    notes = [f"{arm.name}: {LOOPS[arm.name]}." for arm in loops.arms]
    notes.append(
        f"once: a loop's first call less a warm one, less the same of {reference}. A token's time is a whole warm call "
        "over its new tokens, prefill included; so pays after counts tokens in calls of this shape."
    )
    for arm in loops.arms[1:]:
        if arm.same_tokens < loops.new_tokens:
            same = plural(arm.same_tokens, "token")
            notes.append(f"{arm.name} chose other tokens than {reference} after {same} of {loops.new_tokens:,}.")
    notes += [f"fast.decode was not captured: {arm.why}." for arm in loops.arms if arm.why]
    positions = loops.prompt_tokens + loops.new_tokens
    notes += [
        f"fast.decode's cache has {plural(arm.slots, 'slot')} for {plural(positions, 'position')}, and attention reads "
        f"all of them in every step; fast.Decode(slots={positions}) has no more than this call needs."
        for arm in loops.arms
        if arm.slots > positions
    ]
    notes += [f"{name} was left out: {why}." for name, why in loops.left_out.items()]
    return [*notes, *loops.notes]
