"""`perstep fix`: run somebody's script once, then try drop-ins on the generate calls it made."""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep.cli.output import progress_shown, render_tables
from perstep.cli.streams import STDERR, remark, write
from perstep.cli.watch import GENERATE_LIVES_IN, existing_script, flush_streams
from perstep.errors import InputError
from perstep.experiments import pipeline
from perstep.experiments.options import parse_seconds
from perstep.fixing import Captures, FixFindings, fix_calls, lines
from perstep.report import Output
from perstep.runs import check_out, encode_json
from perstep.targets.transformers import require
from perstep.watching.script import INTERRUPTED, after_import, run_script
from perstep.watching.session import Watch


def fix(
    script: str,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    apply: Annotated[bool, Parameter(negative="")] = False,
    budget: str = "60s",
    output: Annotated[Output, Parameter(name=["-o", "--output"])] = "table",
    out: Path | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    keep_text: Annotated[bool, Parameter(negative="")] = False,
    tag: str | None = None,
    quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="")] = False,
) -> int:
    """Try drop-ins for the slow parts of a script's generate calls, and measure them.

    The script runs once and is watched. Then the first call of each line that called generate is repeated with drop-ins
    for its processors, its criteria and the decode loop. The tokens must be the same, and the calls are interleaved
    until the budget is spent. No file of yours is changed. Put perstep's options before SCRIPT; everything after SCRIPT
    is passed to the script.

    Args:
        script: A Python file.
        arguments: Passed to the script.
        apply: Print the change to the source as a unified diff on stdout, for `patch -p1` or `git apply`, and the
            tables on stderr.
        budget: How long to measure for each line that calls generate, such as 30s or 2m.
        output: Format of the tables.
        out: Folder for the run. [default: the next number under .perstep/runs]
        force: Replace the run in --out.
        keep_text: Store the script's arguments. Without this a run has their hashes alone.
        tag: A word to find the run by: `perstep list --tag WORD`.
        quiet: Print no progress and no remarks.
    """
    require()
    path, budget_s = existing_script(script), _seconds(budget)
    check_out("fix", out, force=force, resume=False)
    begun_in, process = Path.cwd(), os.getpid()
    captures, watcher = Captures(), Watch()
    code = _run(path, arguments, captures, watcher)
    if os.getpid() != process or code == INTERRUPTED:
        return code  # a child that the script forked, or somebody who wants no more
    flush_streams()
    say = (lambda _text: None) if quiet else remark
    if not captures.calls:
        say(f"perstep: {script} finished no generate call of a transformers model, so there is nothing to try")
        return code
    for remarked in _before(script, code, misplaced="--apply" in arguments and not apply):
        say(remarked)
    plan = {"script": script, "arguments": list(arguments), "budget": budget_s}
    with chdir(begun_in), progress_shown(quiet=quiet) as progress:
        report = fix_calls(
            captures.calls, watcher, plan, budget_s=budget_s, progress=progress, out=out, force=force,
            keep_text=keep_text, tag=tag,
        )  # fmt: skip
    _show(report, output, apply=apply)
    for line in (*(f"warning: {warning}" for warning in report.manifest.warnings), f"run: {report.folder}"):
        say(line)
    pipeline.check(report)
    return code


def _run(path: Path, arguments: Sequence[str], captures: Captures, watcher: Watch) -> int:
    """Run the script, its calls captured and watched from where transformers is imported; its exit code."""

    def begin() -> None:
        captures.__enter__()
        watcher.__enter__()

    with after_import(GENERATE_LIVES_IN, begin):
        code = run_script(path, arguments)
    watcher.__exit__(None, None, None)
    captures.__exit__(None, None, None)
    return code


def _before(script: str, code: int, *, misplaced: bool) -> Iterator[str]:
    """What somebody should know before the trials."""
    if code != 0:
        yield f"perstep: {script} ended with exit code {code}; the calls that it made before are tried"
    if misplaced:
        yield f"perstep: --apply behind {script} was passed to the script; for the diff: perstep fix --apply {script}"


def _seconds(budget: str) -> float:
    try:
        return parse_seconds(budget)
    except ValueError as error:
        raise InputError(f"--budget {budget}: {error}") from error


def _show(report: pipeline.Report, output: Output, *, apply: bool) -> None:
    """The findings on stdout; with `apply` the diff there, and the findings on stderr."""
    findings: FixFindings = report.findings  # type: ignore[assignment] # an experiment's own findings
    if output == "json":
        shown = encode_json(findings).decode()
    elif output == "csv":
        shown = report.csv
    else:
        shown = render_tables(report.tables, output)
        said = [text for site in findings.sites if (text := lines(site))]
        shown += "".join(f"\n{text}" for text in (_fenced(said) if output == "md" else said))
    (STDERR.write if apply else write)(shown)
    if apply:
        write(findings.diff)
        if findings.diff_folder:
            where = shlex.quote(findings.diff_folder)
            remark(f"perstep: the files of the diff are in another folder; apply it with patch -p1 -d {where}")
        if not findings.diff:
            remark("perstep: no diff: no line is recommended, or the lines must be added by hand")


def _fenced(texts: list[str]) -> list[str]:
    """The lines to write as code blocks of Markdown."""
    fenced = []
    for text in texts:
        heading, *code = text.strip("\n").split("\n")
        fenced.append(
            "\n".join([heading, "", "```python", *(line.strip() for line in code if line.strip()), "```", ""])
        )
    return fenced
