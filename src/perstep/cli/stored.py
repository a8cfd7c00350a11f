"""`perstep list`, `show` and `report`: commands over runs that are already on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep.cli.output import print_report, print_tables
from perstep.cli.streams import remark, write
from perstep.experiments import pipeline
from perstep.report import Column, Output, Table
from perstep.runs import RUNS, StoredRun, encode_json, list_baselines, open_run, read_runs

OutputOption = Annotated[Output, Parameter(name=["-o", "--output"])]


def list_(*, root: Path = RUNS, output: OutputOption = "table") -> int:
    """List the stored runs, oldest first.

    Args:
        root: Folder to search.
        output: Format of the result on stdout.
    """
    runs, wrong = read_runs(root)
    for why in wrong:
        remark(f"note: {why}")
    if output == "json":
        rows = [{"folder": str(run.folder), "status": run.status, **_facts(run.manifest)} for run in runs]
        write(encode_json(rows).decode())
        return 0
    if not runs and not wrong and output == "table":
        remark(f"no runs under {root}; `perstep ledger -m mini --fast` makes one")
        return 0
    values: dict[str, Callable[[StoredRun], str]] = {
        "run": lambda run: run.folder.name,
        "status": lambda run: run.status,
        "began": lambda run: run.manifest.started_at,
        "model": lambda run: str(run.manifest.model.get("name", "")),
        "result": lambda run: str(run.manifest.results_summary.get("headline", "")),
    }
    columns = [Column(name, value, name=name, words=True) for name, value in values.items()]
    print_tables([Table(f"runs under {root}", columns, runs)], output)
    if baselines := list_baselines():
        remark(f"baselines: {', '.join(baselines)}")
    return 0


def _facts(manifest: "object") -> dict[str, object]:
    names = ("experiment", "started_at", "finished_at", "model", "results_summary")
    return {name: getattr(manifest, name) for name in names}


def show(run: str, /, *, output: OutputOption = "table") -> int:
    """Show the results of a stored run; nothing is written.

    Args:
        run: A run's folder, its name, its number, or a baseline.
        output: Format of the result on stdout.
    """
    status = open_run(run).status
    report = pipeline.look(run)
    print_report(report, output)
    for note in report.notes:
        remark(f"note: {note}")
    if status != "complete":
        remark(f"note: the run is {status}; the figures are from the rounds that were finished")
    pipeline.check(report)
    return 0


def report(run: str, /, *, output: OutputOption = "table") -> int:
    """Rebuild every table and picture of a stored run from its samples.

    Args:
        run: A run's folder, its name, its number, or a baseline.
        output: Format of the result on stdout.
    """
    rebuilt = pipeline.rebuild(run)
    print_report(rebuilt, output)
    for note in rebuilt.notes:
        remark(f"note: {note}")
    remark(f"rebuilt: {', '.join(rebuilt.manifest.files)} in {rebuilt.folder}")
    pipeline.check(rebuilt)
    return 0
