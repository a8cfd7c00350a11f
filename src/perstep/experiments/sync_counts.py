"""Syncs per step, counted in steps that are not timed, beside the ledger of the steps that are.

A sync is a read of a tensor's value by the host: on a device the host waits there until all queued work is
done; on a CPU nothing waits, and what is counted is what would wait. Which part caused it is known, what it
cost is not: the wait lies in the part, together with the work that it waited for. An upload, for which the host
waits too, is counted beside the syncs.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import UNSET, UnsetType

from perstep._words import short
from perstep.measure import RESIDUAL, Ledger
from perstep.report.format import plural
from perstep.targets.transformers import Syncs
from perstep.targets.transformers.syncs import DRIVER_SYNC, UPLOAD

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
        uploads: copies from the host to the device by place, likewise; None where they were not counted (before 0.2).
    """

    steps: int
    parts: dict[str, int]
    sites: list[SyncSite] = []
    uploads: list[SyncSite] | None = None


def sync_counts(syncs: Syncs) -> SyncCounts:
    """What was counted, each sync once: what the driver reported where it did, else the reads."""
    per_part = {part: round((syncs.part_per_step(part) or 0.0) * syncs.steps) for part in syncs.parts}
    driver = any(DRIVER_SYNC in counts for counts in syncs.parts.values())
    reads = {at: count for at, count in syncs.sites.items() if at[1] != UPLOAD and (at[1] == DRIVER_SYNC) == driver}
    uploads = {at: count for at, count in syncs.sites.items() if at[1] == UPLOAD}
    return SyncCounts(syncs.steps, per_part, _sites(_listed(reads)), _sites(_listed(uploads)))


def _listed(counted: Mapping[tuple[str, str, str], int]) -> list[SyncSite]:
    return [SyncSite(part, place, count) for (part, _, place), count in counted.items()]


def _sites(counted: Iterable[SyncSite]) -> list[SyncSite]:
    """One a part and place, the most frequent first."""
    places: dict[tuple[str, str], int] = {}
    for site in counted:
        places[site.part, site.place] = places.get((site.part, site.place), 0) + site.count
    sites = [SyncSite(part, place, count) for (part, place), count in places.items()]
    return sorted(sites, key=lambda site: -site.count)


def merge_counts(counted: list[SyncCounts]) -> SyncCounts | None:
    """The counts of several calls together; None where no step was counted."""
    steps = sum(counts.steps for counts in counted)
    if not steps:
        return None
    parts: dict[str, int] = {}
    for counts in counted:
        for part, count in counts.parts.items():
            parts[part] = parts.get(part, 0) + count
    by_call = [counts.uploads for counts in counted if counts.uploads is not None]
    return SyncCounts(
        steps,
        parts,
        _sites(site for counts in counted for site in counts.sites),
        _sites(site for uploads in by_call for site in uploads) if len(by_call) == len(counted) else None,
    )


def with_syncs(ledger: Ledger, counts: SyncCounts | None, *, device: str) -> Ledger:
    """The ledger with its syncs per step, in all and by part, and a note on how they were counted.

    Args:
        ledger: of the timed steps.
        counts: of the counted ones; None leaves the ledger as it is.
        device: of the model, as torch spells it.
    """
    if counts is None or not counts.steps:
        return ledger
    uploads = _uploads_per_step(counts)
    parts = {
        name: msgspec.structs.replace(
            part,
            syncs_per_step=counts.parts.get(name, 0) / counts.steps,
            uploads_per_step=UNSET if uploads is UNSET else uploads.get(name, 0.0),
        )
        for name, part in ledger.parts.items()
    }
    total = sum(counts.parts.values()) / counts.steps
    return msgspec.structs.replace(
        ledger,
        parts=parts,
        syncs_per_step=total,
        uploads_per_step=UNSET if uploads is UNSET else sum(uploads.values()),
        notes=[*ledger.notes, *_notes(counts, total, device)],
    )


def _uploads_per_step(counts: SyncCounts) -> dict[str, float] | UnsetType:
    if counts.uploads is None:
        return UNSET
    uploads: dict[str, float] = {}
    for site in counts.uploads:
        uploads[site.part] = uploads.get(site.part, 0.0) + site.count / counts.steps
    return uploads


def _notes(counts: SyncCounts, total: float, device: str) -> list[str]:
    what = "the host waits for the device" if device != "cpu" else "the host would wait on a device"
    own = plural(counts.steps, "step of its own, which was", "steps of their own, which were")
    notes = [f"Syncs ({what}): {short(total, 3)} a step, counted in {own} not timed."]
    notes += _places("Syncs", counts.sites, counts.steps)
    if counts.uploads:
        uploads = sum(site.count for site in counts.uploads) / counts.steps
        notes.append(
            f"Uploads (the host copies to the device and waits): {short(uploads, 3)} a step, beside the syncs."
        )
        notes += _places("Uploads", counts.uploads, counts.steps)
    return notes


def _places(what: str, sites: list[SyncSite], steps: int) -> list[str]:
    if not sites:
        return []
    more = len(sites) - SITES_SAID
    others = f"; and {plural(more, 'other place')}" if more > 0 else ""
    return [f"{what} come from {'; '.join(_named(site, steps) for site in sites[:SITES_SAID])}{others}."]


def _named(site: SyncSite, steps: int) -> str:
    where = "no part" if site.part == RESIDUAL else site.part
    return f"{site.place} ({where}, {short(site.count / steps, 3)} a step)"
