"""What every command that measures does with its options: run, print, say where the run lies."""

from pathlib import Path
from typing import Any

from perstep.cli.output import print_report, progress_shown, remark
from perstep.experiments import pipeline
from perstep.report import Output

NOT_RESOLVED = 3


def run_experiment(
    name: str,
    plan: Any,
    *,
    output: Output,
    out: Path | None,
    resume: bool,
    force: bool,
    strict: bool,
    quiet: bool,
) -> int:
    """Measure, print the findings on stdout and remarks on stderr; the exit code.

    Raises:
        InputError: the plan or the folder is wrong.
        InvalidMeasurement: the findings must not be believed; they are printed and kept all the same.
    """
    with progress_shown(quiet=quiet) as progress:
        report = pipeline.run(name, plan, progress=progress, out=out, resume=resume, force=force)
    print_report(report, output)
    if not quiet:
        for warning in report.manifest.warnings:
            remark(f"warning: {warning}")
        remark(f"run: {report.folder}")
    pipeline.check(report)
    if strict and report.findings.unresolved:
        remark(f"perstep: not resolved: {report.findings.unresolved}")
        return NOT_RESOLVED
    return 0
