"""The one way from a plan to a report, and from the samples to the same report again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perstep.errors import InputError, InvalidMeasurement, PerstepError
from perstep.experiments.base import AnyFindings, AnyPlan, AnySample, Experiment, Findings, HasLedger
from perstep.experiments.conditions import Model, left_out_layers, of_each_model, threads_limited, typed, warn_of_noise
from perstep.experiments.page import page_of
from perstep.experiments.registry import find
from perstep.experiments.session import measure_rounds
from perstep.experiments.sharing import hidden_names, hider, shared, without_private, without_source
from perstep.measure import Clock, HostClock, LedgerSamples, Progress
from perstep.report import Table
from perstep.report.format import plural
from perstep.report.page import REPORT, render_page
from perstep.runs import (
    MANIFEST,
    SAMPLES,
    Manifest,
    RunWriter,
    StoredRun,
    changed_manifest,
    check_out,
    encode_json,
    locked,
    next_folder,
    open_run,
    read_manifest,
    read_samples,
    remove_derived,
    replace_file,
    write_manifest,
)

RESULTS = "results.json"
README = "README.md"


@dataclass(frozen=True)
class Report:
    """A run and what it found."""

    folder: Path
    manifest: Manifest
    findings: Findings
    tables: list[Table]
    csv: str
    notes: list[str]


@dataclass(frozen=True)
class Loaded:
    """A stored run in memory, with its samples."""

    stored: StoredRun
    experiment: Experiment
    samples: list[AnySample]
    findings: Findings
    notes: list[str]


def run(
    name: str,
    plan: AnyPlan,
    *,
    progress: Progress,
    out: Path | None = None,
    resume: bool = False,
    force: bool = False,
    keep_text: bool = False,
    clock: Clock | None = None,
    approve: Callable[[Manifest], None] | None = None,
) -> Report:
    """Measure an experiment into a run folder and report it.

    Args:
        name: of the experiment.
        plan: its options.
        progress: told how far it is.
        out: the run's folder; the next number under `.perstep/runs` if None.
        resume: go on with the run in `out`.
        force: replace the run in `out`.
        keep_text: store a prompt as it is, not its hash.
        clock: the host's, unless a test passes its own.
        approve: shown the manifest before anything is written; what it raises ends the run.

    Raises:
        InputError: the plan or the folder is wrong; nothing has been written over.
        InvalidMeasurement: the state after measuring is not the one before.
    """
    experiment = find(name)
    clock = clock or HostClock()
    # Before the target is loaded, so that a bad --out is refused at once.
    check_out(name, out, force=force, resume=resume)
    samples: list[AnySample] = read_samples(out, experiment.Sample)[0] if resume and out is not None else []
    with threads_limited(plan.threads):
        session = experiment.prepare(plan, progress, clock)
        if samples and out is not None:
            session.go_on_from(read_manifest(out))
        if approve is not None:
            approve(session.manifest)
        folder = next_folder(name) if out is None else out
        resume_after = len(samples) if resume else None
        with RunWriter(folder, session.manifest, resume_after=resume_after, force=force, keep_text=keep_text) as writer:
            try:
                measure_rounds(session, samples, clock=clock, progress=progress, keep=writer.append)
                warn_of_noise(session.manifest, (sample.noise for sample in samples), plan.threads)
                progress(1.0, "report")
                findings = experiment.analyse(session.manifest, samples)
                return _derive(experiment, folder, session.manifest, samples, findings, [])
            except KeyboardInterrupt as error:
                kept = f"{plural(len(samples), 'round')} kept in {folder}"
                raise KeyboardInterrupt(f"interrupted; {kept}: go on with --out {folder} --resume") from error


def rebuild(name: str | Path) -> Report:
    """Make every derived file of a stored run again, from its manifest and samples alone.

    Raises:
        InputError: there is no such run, or its manifest or samples are damaged.
    """
    stored = open_run(name)
    with locked(stored.folder):
        loaded = load(stored)
        with _refused(stored, loaded.notes, "shown"):
            report = _derive(
                loaded.experiment, stored.folder, stored.manifest, loaded.samples, loaded.findings, loaded.notes
            )
        write_manifest(stored.folder, stored.manifest, sign=not changed_manifest(stored.folder))
    return report


def look(name: str | Path) -> Report:
    """What a stored run found, writing nothing.

    Raises:
        InputError: there is no such run, or its manifest or samples are damaged.
    """
    loaded = load(open_run(name))
    stored, findings = loaded.stored, loaded.findings
    with _refused(stored, loaded.notes, "shown"):
        tables = _tables(loaded.experiment, stored.manifest, findings)
        return Report(stored.folder, stored.manifest, findings, tables, loaded.experiment.csv(findings), loaded.notes)


def page(name: str | Path, *, share: bool = False, raw: bool = False) -> tuple[str, bytes]:
    """Another page of a stored run than its `report.html`, and the name of a file for it.

    Args:
        name: of the run.
        share: without the command line, paths, source lines and facts of git.
        raw: with every round by itself, however many there are.

    Raises:
        InputError: there is no such run, or its manifest or samples are damaged.
    """
    loaded = load(open_run(name))
    manifest, experiment, findings = loaded.stored.manifest, loaded.experiment, loaded.findings
    hide = None
    if share:
        hide = hider(hidden_names(manifest, findings, loaded.samples))
        manifest, findings = without_private(manifest), without_source(findings)
    with _refused(loaded.stored, loaded.notes, "shown"):
        tables = _tables(experiment, manifest, findings)
        document = page_of(experiment, manifest, findings, loaded.samples, tables)
        content = render_page(shared(document) if share else document, raw=raw, hide=hide)
    return f"{loaded.stored.folder.resolve().name}{'.share' * share}{'.raw' * raw}.html", content


def load(stored: StoredRun) -> Loaded:
    """A stored run with its samples and what they say; nothing is written.

    Raises:
        InputError: its manifest or samples are damaged.
        InvalidMeasurement: its parts do not add up.
    """
    experiment = find(stored.manifest.experiment)
    samples, notes = _read(stored, experiment)
    with _refused(stored, notes, "analysed"):
        return Loaded(stored, experiment, samples, experiment.analyse(stored.manifest, samples), notes)


def ledgers_of(loaded: Loaded, rounds: int | None = None) -> Mapping[str, LedgerSamples]:
    """The samples of a run that has a ledger, by kind of step: what is compared and exported.

    Args:
        loaded: the run.
        rounds: number of first rounds to take; all if None.

    Raises:
        InputError: its experiment has no ledger of parts.
        InvalidMeasurement: its numbers are invalid, so they are not returned.
    """
    folder, experiment = loaded.stored.folder, loaded.experiment
    if not isinstance(experiment, HasLedger):
        name = loaded.stored.manifest.experiment
        raise InputError(f"{folder} is a `{name}` run, which has no ledger of parts; give a `ledger` run")
    if loaded.findings.invalid:
        raise InvalidMeasurement(f"{folder} is invalid: {loaded.findings.invalid}")
    return experiment.ledger_samples(loaded.samples[:rounds])


def _read(stored: StoredRun, experiment: Experiment) -> tuple[list[AnySample], list[str]]:
    """The samples of a run whose manifest holds all that its experiment says, and what is not as the run wrote it."""
    path = str(stored.folder / MANIFEST)
    for model, manifest in of_each_model(stored.manifest, path).items():
        for kind in (experiment.Conditions, experiment.Workload, getattr(experiment, "Model", Model)):
            typed(manifest, kind, f"{path}, of {model}," if model else path)
    samples: list[AnySample]
    samples, notes = read_samples(stored.folder, experiment.Sample)
    if changed := changed_manifest(stored.folder):
        notes.append(f"{changed}; the figures are of what it holds now")
    return samples, notes


@contextmanager
def _refused(stored: StoredRun, notes: Sequence[str], what: str) -> Iterator[None]:
    """What fails here went well when the run was measured: bad input if one of its files is not what it was then.

    If both are, the error is a fault of perstep and passes. So do errors of the disk and of missing packages, which are
    not of the run's files.
    """
    try:
        yield
    except (PerstepError, MemoryError, OSError, ImportError):
        raise
    except Exception as error:
        changed = [note.partition(";")[0] for note in notes]
        if not stored.manifest.samples_sha256:
            unknown = f"nothing tells whether somebody changed {SAMPLES}, because the run was killed"
            changed.append(f"{unknown}; if nobody did, please report it")
        if not changed:
            raise
        why = f"{type(error).__name__}: {str(error)[:100]}"
        raise InputError(
            f"{stored.folder} cannot be {what} ({why}): {', and '.join(changed)}; restore the file, or measure again"
        ) from error


def _derive(
    experiment: Experiment,
    folder: Path,
    manifest: Manifest,
    samples: list[AnySample],
    findings: AnyFindings,
    notes: list[str],
) -> Report:
    """Write everything that follows from the findings of a run, and what the manifest says of them."""
    manifest.noise = msgspec.to_builtins(findings.noise)
    tables = _tables(experiment, manifest, findings)
    page = page_of(experiment, manifest, findings, samples, tables)
    files = {RESULTS: encode_json(findings), **experiment.files(manifest, findings), REPORT: render_page(page)}
    said = left_out_layers(manifest)
    if said and README in files:
        heading, _, text = files[README].decode().partition("\n")
        files[README] = "\n\n".join([heading, *(f"**{sentence}**" for sentence in said), text.lstrip("\n")]).encode()
    for file_name, content in files.items():
        replace_file(folder / file_name, content)
    remove_derived(folder, set(manifest.files) - files.keys())
    manifest.files = sorted(files)
    manifest.results_summary = experiment.summary(findings)
    if said and "" in of_each_model(manifest):  # of several each is named already
        name = typed(manifest, Model).name
        manifest.results_summary["headline"] = f"{name}: {manifest.results_summary['headline']}"
    return Report(folder, manifest, findings, tables, experiment.csv(findings), notes)


def _tables(experiment: Experiment, manifest: Manifest, findings: AnyFindings) -> list[Table]:
    """What an experiment shows; below the first table, of which models only some layers were measured."""
    tables = experiment.tables(manifest, findings)
    if tables:
        tables[0].notes.extend(left_out_layers(manifest))
    return tables


def check(report: Report) -> None:
    """Raise InvalidMeasurement if the findings are invalid."""
    if report.findings.invalid:
        raise InvalidMeasurement(f"{report.findings.invalid}; the run is kept in {report.folder}")
