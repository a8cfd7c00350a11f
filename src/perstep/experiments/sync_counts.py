"""Syncs per step, counted in steps that are not timed, beside the ledger of the steps that are.

A sync is a read of a tensor's value by the host: on a device the host waits there until all queued work is
done; on a CPU nothing waits, and what is counted is what would wait. Which part caused it is known, what it
cost is not: the wait lies in the part, together with the work that it waited for.
"""

import msgspec

from perstep._words import short
from perstep.measure import RESIDUAL, Ledger
from perstep.report.format import plural
from perstep.targets.transformers import Syncs
from perstep.targets.transformers.syncs import DRIVER_SYNC

SITES_SAID = 3
"""Number of places in the source that are named below a table."""


class SyncSite(msgspec.Struct, frozen=True):
    """Where syncs come from: the part, and the nearest line outside of torch."""

    part: str
    place: str
    count: int


class SyncCounts(msgspec.Struct, frozen=True):
    """The syncs of some steps of one kind.

    Attributes:
        steps: how many steps were counted; none of them was timed.
        parts: part -> syncs over all of them; `residual` for those unattributed.
        sites: the same by place, the most frequent first.
    """

    steps: int
    parts: dict[str, int]
    sites: list[SyncSite] = []


def sync_counts(syncs: Syncs) -> SyncCounts:
    """What was counted, each sync once: what the driver reported where it did, else the reads."""
    per_part = {part: round((syncs.part_per_step(part) or 0.0) * syncs.steps) for part in syncs.parts}
    driver = any(DRIVER_SYNC in counts for counts in syncs.parts.values())
    places: dict[tuple[str, str], int] = {}
    for (part, kind, place), count in syncs.sites.most_common():
        if (kind == DRIVER_SYNC) == driver:
            places[part, place] = places.get((part, place), 0) + count
    sites = [SyncSite(part, place, count) for (part, place), count in places.items()]
    return SyncCounts(syncs.steps, per_part, sorted(sites, key=lambda site: -site.count))


def merge_counts(counted: list[SyncCounts]) -> SyncCounts | None:
    """The counts of several calls together; None where no step was counted."""
    steps = sum(counts.steps for counts in counted)
    if not steps:
        return None
    parts: dict[str, int] = {}
    places: dict[tuple[str, str], int] = {}
    for counts in counted:
        for part, count in counts.parts.items():
            parts[part] = parts.get(part, 0) + count
        for site in counts.sites:
            places[site.part, site.place] = places.get((site.part, site.place), 0) + site.count
    sites = [SyncSite(part, place, count) for (part, place), count in places.items()]
    return SyncCounts(steps, parts, sorted(sites, key=lambda site: -site.count))


def with_syncs(ledger: Ledger, counts: SyncCounts | None, *, device: str) -> Ledger:
    """The ledger with its syncs per step, in all and by part, and a note on how they were counted.

    Args:
        ledger: of the timed steps.
        counts: of the counted ones; None leaves the ledger as it is.
        device: of the model, as torch spells it.
    """
    if counts is None or not counts.steps:
        return ledger
    parts = {
        name: msgspec.structs.replace(part, syncs_per_step=counts.parts.get(name, 0) / counts.steps)
        for name, part in ledger.parts.items()
    }
    total = sum(counts.parts.values()) / counts.steps
    return msgspec.structs.replace(
        ledger, parts=parts, syncs_per_step=total, notes=[*ledger.notes, *_notes(counts, total, device)]
    )


def _notes(counts: SyncCounts, total: float, device: str) -> list[str]:
    what = "the host waits for the device" if device != "cpu" else "the host would wait on a device"
    own = plural(counts.steps, "step of its own, which was", "steps of their own, which were")
    notes = [f"Syncs ({what}): {short(total, 3)} a step, counted in {own} not timed."]
    if counts.sites:
        named = [_named(site, counts.steps) for site in counts.sites[:SITES_SAID]]
        more = len(counts.sites) - len(named)
        others = f"; and {plural(more, 'other place')}" if more else ""
        notes.append(f"Syncs come from {'; '.join(named)}{others}.")
    return notes


def _named(site: SyncSite, steps: int) -> str:
    where = "no part" if site.part == RESIDUAL else site.part
    return f"{site.place} ({where}, {short(site.count / steps, 3)} a step)"
