"""What every command that measures does with its options: run, print, compare, say where the run lies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep.cli.codes import NOT_RESOLVED
from perstep.cli.output import print_report, print_tables, progress_shown
from perstep.cli.streams import remark, write
from perstep.experiments import pipeline
from perstep.experiments.base import AnyPlan
from perstep.report import Output
from perstep.runs import (
    Manifest,
    check_baseline_name,
    encode_json,
    open_run,
    read_manifest,
    require_baseline,
    save_baseline,
)
from perstep.stored.between import StoredComparison, compare_runs, refuse_different_work
from perstep.stored.repeats import load_pair, reduce_run
from perstep.stored.show import comparison_tables


@dataclass(frozen=True, kw_only=True)
class RunTo:
    """Where a measurement goes; the fields are options of every command that measures."""

    output: Annotated[Output, Parameter(name=["-o", "--output"])] = "table"
    """Format of the result on stdout."""

    out: Path | None = None
    """Folder for the run. [default: the next number under .perstep/runs]"""

    resume: Annotated[bool, Parameter(negative="")] = False
    """Continue the run in --out."""

    force: Annotated[bool, Parameter(negative="")] = False
    """Replace the run in --out."""

    keep_text: Annotated[bool, Parameter(negative="")] = False
    """Store the text of a prompt. Without this a run has its hash alone."""

    baseline: str | None = None
    """Compare the run with this baseline when it is done."""

    save_baseline: str | None = None
    """Store the run as the baseline of this name; replace an older one of the same name."""

    tag: str | None = None
    """A word to find the run by: `perstep list --tag WORD`."""

    strict: Annotated[bool, Parameter(negative="")] = False
    """Exit with 3 if the result is not resolved."""

    quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="")] = False
    """Print no progress and no remarks."""


DEFAULT_RUN_TO = RunTo()


def run_experiment(name: str, plan: AnyPlan, to: RunTo) -> int:
    """Measure, print the findings on stdout and remarks on stderr; the exit code.

    Raises:
        InputError: the plan, the folder or the baseline is wrong.
        InvalidMeasurement: the findings are invalid; they are still printed and stored.
    """
    if to.save_baseline is not None:
        check_baseline_name(to.save_baseline)
    baseline = None if to.baseline is None else require_baseline(to.baseline)
    if baseline is not None:
        reduce_run(open_run(baseline))  # a damaged or invalid one is told before anything is measured

    def approve(manifest: Manifest) -> None:
        _warn_of_budget(manifest, quiet=to.quiet)
        if to.tag is not None:
            manifest.tag = to.tag
        if baseline is not None:
            refuse_different_work(read_manifest(baseline), manifest, allow=False)

    with progress_shown(quiet=to.quiet) as progress:
        report = pipeline.run(
            name,
            plan,
            progress=progress,
            out=to.out,
            resume=to.resume,
            force=to.force,
            keep_text=to.keep_text,
            approve=approve,
        )
    comparison = None if baseline is None or report.findings.invalid else _against(baseline, report.folder)
    _print(report, comparison, to.output)
    if not to.quiet:
        for warning in report.manifest.warnings:
            remark(f"warning: {warning}")
        remark(f"run: {report.folder}")
    pipeline.check(report)
    if to.save_baseline is not None:
        store_baseline(to.save_baseline, report.folder, quiet=to.quiet)
    if to.strict and report.findings.unresolved:
        remark(f"perstep: not resolved: {report.findings.unresolved}")
        return NOT_RESOLVED
    return 0


def store_baseline(name: str, run: Path, *, quiet: bool) -> None:
    """Store a run as the baseline of this name, and say where."""
    where = save_baseline(name, run)
    if not quiet:
        remark(f"baseline: {where}")


def _warn_of_budget(manifest: Manifest, *, quiet: bool) -> None:
    """Say before measuring what the budget cannot hold."""
    if manifest.conditions.get("too_short") and not quiet:
        remark(f"perstep: {manifest.conditions['too_short']}")


def _against(baseline: Path, run: Path) -> StoredComparison:
    pair = load_pair(baseline, run)
    return compare_runs(pair.ref, pair.new, pair.spread)


def _print(report: pipeline.Report, comparison: StoredComparison | None, output: Output) -> None:
    if comparison is None:
        print_report(report, output)
    elif output == "json":
        write(encode_json({"results": report.findings, "comparison": comparison}).decode())
    else:
        print_tables([*report.tables, *comparison_tables(comparison)], output)
