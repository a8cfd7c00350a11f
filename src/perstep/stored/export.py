"""A stored run as the source of an export: samples, ledgers and manifest together."""

from pathlib import Path

from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments.base import HasLedger, HasTimeline
from perstep.experiments.conditions import OfLedger, typed
from perstep.experiments.pipeline import ledgers_of, load
from perstep.measure import build_ledger
from perstep.report.export import Source
from perstep.runs import open_run


def source_of(name: str | Path, *, rounds: int | None = None) -> tuple[Source, list[str]]:
    """What is exported of a run, and sentences about what was repaired while it was read.

    Args:
        name: a folder, a run's name or number, or a baseline.
        rounds: number of first rounds to take; all if None.

    Raises:
        InputError: there is no such run, it is damaged or has no steps to export, or `rounds` is below 1.
        InvalidMeasurement: its numbers are invalid, so they are not exported.
    """
    if rounds is not None and rounds < 1:
        raise InputError(f"--rounds {rounds}: at least 1 round is exported")
    stored = open_run(name)
    loaded = load(stored)
    experiment, durations = loaded.experiment, None
    if isinstance(experiment, HasTimeline):
        if loaded.findings.invalid:
            raise InvalidMeasurement(f"{stored.folder} is invalid: {loaded.findings.invalid}")
        durations = list(experiment.timeline(stored.manifest, loaded.samples[:rounds]))
    samples = ledgers_of(loaded, rounds) if durations is None or isinstance(experiment, HasLedger) else {}
    mark_ns = typed(stored.manifest, OfLedger).mark_ns if samples else 0.0
    source = Source(
        name=stored.folder.resolve().name,
        manifest=stored.manifest,
        rounds=loaded.samples[:rounds],
        rounds_measured=len(loaded.samples),
        samples=samples,
        ledgers={kind: build_ledger(kind, kind_samples, mark_ns=mark_ns) for kind, kind_samples in samples.items()},
        durations=durations,
    )
    return source, loaded.notes
