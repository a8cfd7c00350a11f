"""The one way from a plan to a report, and from the samples to the same report again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perstep.errors import InvalidMeasurement
from perstep.experiments.base import Experiment, Findings, Session
from perstep.experiments.conditions import threads_limited
from perstep.experiments.registry import find
from perstep.measure import Clock, HostClock, Progress, collector_off, run_rounds
from perstep.report import Table
from perstep.runs import (
    Manifest,
    RunWriter,
    choose_folder,
    encode_json,
    open_run,
    read_manifest,
    read_samples,
    replace_file,
)

RESULTS = "results.json"


@dataclass(frozen=True)
class Report:
    """A run and what it found."""

    folder: Path
    manifest: Manifest
    findings: Findings
    tables: list[Table]
    notes: list[str]


def run(
    name: str,
    plan: Any,
    *,
    progress: Progress,
    out: Path | None = None,
    resume: bool = False,
    force: bool = False,
    clock: Clock | None = None,
) -> Report:
    """Measure an experiment into a run folder and report it.

    Args:
        name: of the experiment.
        plan: its options.
        progress: told how far it is.
        out: the run's folder; the next number under `.perstep/runs` if None.
        resume: go on with the run in `out`.
        force: replace the run in `out`.
        clock: the host's, unless a test passes its own.

    Raises:
        InputError: the plan or the folder is wrong; nothing has been written over.
        InvalidMeasurement: the state after measuring is not the one before.
    """
    experiment = find(name)
    clock = clock or HostClock()
    # Before the target is loaded, so that a bad --out is refused at once.
    folder = choose_folder(name, out, force=force, resume=resume)
    with threads_limited(plan.threads):
        session = experiment.prepare(plan, progress, clock)
        with RunWriter(folder, session.manifest, resume=resume) as writer:
            return _measure(experiment, session, writer, progress, clock)


def _measure(experiment: Experiment, session: Session, writer: RunWriter, progress: Progress, clock: Clock) -> Report:
    samples: list[Any] = []
    if writer.rounds_done:
        samples, _ = _read(writer.folder, experiment)

    def keep(sample: Any) -> None:
        writer.append(sample)
        samples.append(sample)

    with collector_off():
        ended_by = run_rounds(
            session.measure_round,
            keep,
            lambda: session.resolved(samples),
            effort=session.effort,
            clock=clock,
            first_round=writer.rounds_done,
            progress=progress,
        )
    session.manifest.conditions["ended_by"] = ended_by
    session.finish()
    progress(1.0, "report")
    return _derive(experiment, writer.folder, session.manifest, samples, [])


def rebuild(name: str | Path) -> Report:
    """Make every derived file of a stored run again, from its manifest and samples alone.

    Raises:
        InputError: there is no such run, or its samples are damaged.
    """
    stored = open_run(name)
    experiment = find(stored.manifest.experiment)
    samples, notes = _read(stored.folder, experiment)
    manifest = read_manifest(stored.folder)
    report = _derive(experiment, stored.folder, manifest, samples, notes)
    replace_file(stored.folder / "manifest.json", encode_json(manifest))
    return report


def look(name: str | Path) -> Report:
    """What a stored run found, writing nothing.

    Raises:
        InputError: there is no such run, or its samples are damaged.
    """
    stored = open_run(name)
    experiment = find(stored.manifest.experiment)
    samples, notes = _read(stored.folder, experiment)
    findings = experiment.analyse(stored.manifest, samples)
    return Report(stored.folder, stored.manifest, findings, experiment.tables(stored.manifest, findings), notes)


def _read(folder: Path, experiment: Experiment) -> tuple[list[Any], list[str]]:
    return read_samples(folder, experiment.Sample)


def _derive(experiment: Experiment, folder: Path, manifest: Manifest, samples: list[Any], notes: list[str]) -> Report:
    findings = experiment.analyse(manifest, samples)
    files = {RESULTS: encode_json(findings), **experiment.files(manifest, findings)}
    for file_name, content in files.items():
        replace_file(folder / file_name, content)
    manifest.files = sorted(files)
    manifest.results_summary = experiment.summary(findings)
    return Report(folder, manifest, findings, experiment.tables(manifest, findings), notes)


def check(report: Report) -> None:
    """Raise InvalidMeasurement if the findings must not be believed."""
    if report.findings.invalid:
        raise InvalidMeasurement(f"{report.findings.invalid}; the run is kept in {report.folder}")
