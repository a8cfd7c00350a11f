"""`ops`: what each operator of a layer costs at several lengths, and what a cached mask could win.

Operators are timed in their places in a whole step, whose parts add up, and alone; the masks (rebuilt, cached, fused)
and parts made free are arms of the same rounds. Shares are of the step at that very length, and nothing else.
"""

from collections.abc import Mapping

from perstep.experiments.ops.analysis import analyse
from perstep.experiments.ops.findings import OpsFindings
from perstep.experiments.ops.pictures import ops_png, scaling_csv, scaling_png
from perstep.experiments.ops.plan import Plan
from perstep.experiments.ops.samples import Sample, ledger_samples
from perstep.experiments.ops.session import prepare
from perstep.experiments.ops.shown import csv, sentences, subject, summary, tables
from perstep.report.words import render
from perstep.runs import Manifest

__all__ = ["Plan", "Sample", "analyse", "csv", "files", "ledger_samples", "prepare", "summary", "tables"]


def files(manifest: Manifest, findings: OpsFindings) -> Mapping[str, bytes]:
    """`ops.png`, `scaling.png`, their CSVs, and `README.md`."""
    title = subject(manifest)
    made = {
        "ops.png": ops_png(findings, title),
        "ops.csv": csv(findings).encode(),
        "README.md": render(
            "ops.md",
            manifest=manifest,
            findings=findings,
            tables=tables(manifest, findings),
            words={length.seq: sentences(length) for length in findings.lengths},
        ),
    }
    if findings.scaling:
        made |= {"scaling.png": scaling_png(findings, title), "scaling.csv": scaling_csv(findings).encode()}
    return made
