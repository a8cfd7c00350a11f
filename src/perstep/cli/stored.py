"""`perstep list`, `show` and `report`: commands over runs that are already on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep.cli.output import print_report, print_tables
from perstep.cli.streams import remark, write
from perstep.errors import InputError
from perstep.experiments import pipeline
from perstep.report import Column, Output, Table
from perstep.report.format import plural
from perstep.report.page import REPORT, render_page
from perstep.report.table import ABSENT, to_records
from perstep.runs import RUNS, Status, StoredRun, encode_json, list_baselines, open_run, read_runs, write_to

OutputOption = Annotated[Output, Parameter(name=["-o", "--output"])]


_SHORT = 15
"""Number of runs that `list` shows without --all."""
_BRIEF = 60
"""Characters of a result that it shows without --all."""


def list_(
    *,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    tag: str | None = None,
    root: Path = RUNS,
    output: OutputOption = "table",
) -> int:
    """List the stored runs, oldest first: the newest ones briefly, or all of them whole.

    Args:
        all_: List all runs, with whole results.
        tag: List the runs of this tag alone, which --tag gave them when they were measured.
        root: Folder to search.
        output: Format of the result on stdout. CSV and JSON have all runs, with whole results.
    """
    runs, wrong = read_runs(root)
    runs = [run for run in runs if tag is None or run.manifest.tag == tag]
    for why in wrong:
        remark(f"note: {why}")
    if output == "json":
        rows = [{"folder": str(run.folder), "status": run.status, **_facts(run.manifest)} for run in runs]
        write(encode_json(rows).decode())
        return 0
    if not runs and not wrong and output == "table":
        of = "" if tag is None else f" with the tag {tag!r}"
        remark(f"no runs under {root}{of}; `perstep ledger -m mini --fast` makes one")
        return 0
    brief = not all_ and output in ("table", "md")
    left_out = max(len(runs) - _SHORT, 0) if brief else 0
    notes = [f"{plural(left_out, 'older run')} left out; --all lists them."] if left_out else []
    print_tables([Table(f"runs under {root}", _columns(brief=brief), runs[left_out:], notes)], output)
    if baselines := list_baselines():
        remark(f"baselines: {', '.join(baselines)}")
    return 0


def _columns(*, brief: bool) -> list[Column[StoredRun]]:
    """What a row says of a run; briefly: the status of unfinished runs alone, dates to the minute, short results."""

    def status(run: StoredRun) -> str:
        return ABSENT if brief and run.status == Status.COMPLETE else run.status

    def began(run: StoredRun) -> str:
        return run.manifest.started_at[:16].replace("T", " ") if brief else run.manifest.started_at

    def result(run: StoredRun) -> str:
        said = str(run.manifest.results_summary.get("headline", ""))
        return f"{said[: _BRIEF - 1]}…" if brief and len(said) > _BRIEF else said

    values: dict[str, Callable[[StoredRun], str]] = {
        "run": lambda run: run.folder.name,
        "status": status,
        "began": began,
        "model": lambda run: str(run.manifest.model.get("name", "")),
        "tag": lambda run: run.manifest.tag or ABSENT,
        "result": result,
    }
    optional = {"status", "tag"} if brief else {"tag"}
    return [Column(n, value, name=n, words=True, optional=n in optional) for n, value in values.items()]


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


def report(
    run: str,
    /,
    *,
    open_: Annotated[bool, Parameter(name="--open", negative="")] = False,
    share: Annotated[bool, Parameter(negative="")] = False,
    raw: Annotated[bool, Parameter(negative="")] = False,
    history: Annotated[bool, Parameter(negative="")] = False,
    html: Path | None = None,
    output: OutputOption = "table",
) -> int:
    """Rebuild every table, picture and page of a stored run from its samples.

    Args:
        run: A run's folder, its name, its number, or a baseline.
        open_: Open the page in a browser.
        share: Write a page for people outside: without the command line, paths, source lines and facts of git.
        raw: Write a page with every round by itself, however many there are.
        history: Show the stored runs of the same work on the same machine by date, each against the one before.
        html: File for the page of --share, --raw or --history. [default: the run's name, in the working folder]
        output: Format of the result on stdout.
    """
    if history:
        if share or raw:
            raise InputError("--history excludes --share and --raw; give one of them")
        return _history(run, html, output, opened=open_)
    if share or raw:
        name, content = pipeline.page(run, share=share, raw=raw)
        return _write_page(html or Path(name), content, opened=open_)
    if html is not None:
        raise InputError(f"--html needs --share, --raw or --history; the page of a run is {REPORT} in its folder")
    rebuilt = pipeline.rebuild(run)
    print_report(rebuilt, output)
    for note in rebuilt.notes:
        remark(f"note: {note}")
    remark(f"rebuilt: {', '.join(rebuilt.manifest.files)} in {rebuilt.folder}")
    if open_:
        _open(rebuilt.folder / REPORT)
    pipeline.check(rebuilt)
    return 0


def _history(run: str, html: Path | None, output: Output, *, opened: bool) -> int:
    from perstep.stored.history import history_of, history_table
    from perstep.stored.page import history_page

    history = history_of(run)
    if output == "json":
        write(encode_json(to_records(history_table(history).columns, history.rows)).decode())
    else:
        print_tables([history_table(history)], output)
    if html is None and not opened:
        return 0
    return _write_page(html or Path(f"{history.name}.history.html"), render_page(history_page(history)), opened=opened)


def _write_page(path: Path, content: bytes, *, opened: bool) -> int:
    write_to(path, content)
    remark(f"page: {path}")
    if opened:
        _open(path)
    return 0


def _open(path: Path) -> None:
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        remark(f"note: no browser could be opened; open {path}")
