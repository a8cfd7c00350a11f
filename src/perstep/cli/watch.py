"""`perstep watch`: the generate calls and decode loops of somebody's script, which runs unchanged.

The script's stdout, stderr and exit code are its own; the ledgers come after its end, on stderr, and
whatever goes wrong with them is a remark there.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, suppress
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from perstep._json import Json
from perstep.cli.output import render_tables
from perstep.cli.streams import STDERR, remark
from perstep.errors import InputError, PerstepError
from perstep.experiments.options import at_least
from perstep.report import Output
from perstep.runs import check_out, encode_json
from perstep.targets.transformers import require
from perstep.watching.inside import LinesOf
from perstep.watching.script import after_import, leave_threads, run_script
from perstep.watching.session import Watch, describe_calls, store

GENERATE_LIVES_IN = "transformers.generation.utils"
"""transformers' home of GenerationMixin: when the script has imported it, and not before, its calls are watched."""
LOOPS_NEED = "torch"
"""The package whose modules loops written by hand call."""


def watch(
    script: str,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    detail: Literal["phases", "modules", "layers"] = "phases",
    every: int = 1,
    syncs: bool = True,
    inside: str | None = None,
    output: Annotated[Output, Parameter(name=["-o", "--output"])] = "table",
    out: Path | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    keep_text: Annotated[bool, Parameter(negative="")] = False,
    tag: str | None = None,
    quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="")] = False,
) -> int:
    """What each part of a step costs in the generate calls and decode loops of a script.

    The script runs unchanged. Watched are every generate call of any transformers model in it, loops written by hand
    around any torch module, and steps that it names by perstep.step(). Output and exit code are those of the script.
    After its end, a ledger for each line that called generate or a model follows on stderr. Put perstep's options
    before SCRIPT; everything after SCRIPT is passed to the script.

    Args:
        script: A Python file.
        arguments: Passed to the script.
        detail: How far to look inside the forward: as a whole, by type of module, or by layer.
        every: Record one block of four decode steps in every N blocks, for long jobs.
        syncs: Count how often the host waits for the device, by part, in a few steps that are not timed.
        inside: A processor or criterion, named as in the ledger (logits/Mine), to show by its own source lines, with
            syncs and uploads a line. Then one block in two at most is recorded; the lines are timed in the others.
        output: Format of the ledgers on stderr.
        out: Folder for the run. [default: the next number under .perstep/runs]
        force: Replace the run in --out.
        keep_text: Store the script's arguments. Without this a run has their hashes alone.
        tag: A word to find the run by: `perstep list --tag WORD`.
        quiet: Print no ledger and no remarks on stderr; they are stored in the run.
    """
    require()
    at_least(1, every=every)
    path = existing_script(script)
    check_out("watch", out, force=force, resume=False)
    begun_in, process, forks = Path.cwd(), os.getpid(), _Forks()
    every = every if inside is None else max(every, 2)
    watcher = Watch(detail=detail, every=every, syncs=syncs, loops=True)
    lines = None if inside is None else LinesOf(inside, watcher.is_recording, watcher.clock)
    watcher.watch_steps()
    with after_import(LOOPS_NEED, watcher.watch_loops), after_import(GENERATE_LIVES_IN, watcher.watch_generate):
        code = _run(path, arguments, lines)
    watcher.__exit__(None, None, None)
    if os.getpid() != process:
        return code  # a child that the script forked and that came to its end here: the ledgers are its parent's
    flush_streams()
    say = (lambda _text: None) if quiet else remark
    for sentence in _said_of(script, watcher, forks, lines):
        say(f"perstep: {sentence}")
    plan = {"script": script, "arguments": list(arguments), "detail": detail, "every": every, "syncs": syncs}
    if watcher.samples:
        with chdir(begun_in):
            _report(watcher, plan, None if quiet else output, out, force=force, keep_text=keep_text, tag=tag)
    return leave_threads(code)


def _said_of(script: str, watcher: Watch, forks: "_Forks", lines: LinesOf | None) -> Iterator[str]:
    """What could not be watched, in sentences; what was seen inside a part is kept with the last call."""
    if forks.count:
        times = "once" if forks.count == 1 else f"{forks.count} times"
        yield f"the script forked {times}; generate calls in child processes were not watched"
    if not watcher.samples:
        nothing = f"{script} made no generate call and called no model in a loop; there is nothing to show"
        yield from watcher.left_out or [nothing]
    elif lines is not None:
        watcher.samples[-1].inside = lines.found()
        if watcher.samples[-1].inside is None:
            yield f"{lines.part} was not called in a step that is not recorded; ask for more tokens, or see its name"


def _run(path: Path, arguments: Sequence[str], lines: LinesOf | None) -> int:
    """Run the script; a part is looked into from where transformers is imported."""
    if lines is None:
        return run_script(path, arguments)
    try:
        with after_import(GENERATE_LIVES_IN, lines.__enter__):
            return run_script(path, arguments)
    finally:
        lines.__exit__(None, None, None)


def _report(
    watcher: Watch,
    plan: dict[str, Json],
    output: Output | None,
    out: Path | None,
    *,
    force: bool,
    keep_text: bool,
    tag: str | None,
) -> None:
    """Keep the run, if a call was watched; the ledgers on stderr in this form, or nothing there if None."""
    if not watcher.samples:
        return
    try:
        manifest = describe_calls(watcher, plan)
        if tag is not None:
            manifest.tag = tag
        warnings = [f"warning: {warning}" for warning in manifest.warnings] if output else []
        if output == "table":  # who reads the figures has read what disturbed them
            _say(warnings)
        if output and output != "json":
            STDERR.write(render_tables(watcher.tables(), output, sys.stderr))
        report = store(watcher, manifest, out=out, force=force, keep_text=keep_text)
        if output == "json":
            STDERR.write(encode_json(report.findings).decode())
        if output and output != "table":  # a program's JSON begins at once
            _say(warnings)
        if output:
            _say([f"run: {report.folder}"])
    except PerstepError as error:
        remark(f"perstep: {' '.join(str(error).split())}")


def _say(lines: list[str]) -> None:
    for line in lines:
        remark(line)


def existing_script(script: str) -> Path:
    """The path of a script.

    Raises:
        InputError: there is no such file.
    """
    path = Path(script)
    if not path.is_file():
        raise InputError(f"no script {script!r}: give the path of a Python file")
    return path


def flush_streams() -> None:
    """Let out what the script wrote; it, or who reads it, may have closed a stream."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


class _Forks:
    """How often this process was forked by Python since this was made."""

    def __init__(self) -> None:
        self.count = 0
        os.register_at_fork(after_in_parent=self._more)

    def _more(self) -> None:
        self.count += 1


def shield(tokens: Sequence[str]) -> list[str]:
    """Put `--` before the script, so that what follows it is not taken for options of perstep.

    >>> shield(["watch", "--every", "2", "run.py", "--every", "3"])
    ['watch', '--every', '2', '--', 'run.py', '--every', '3']
    """
    alone = {
        "--apply", "--traceback", "-q", "--quiet", "--force", "--keep-text", "--syncs", "--no-syncs", "-h", "--help",
        "--version",
    }  # fmt: skip
    index = 1
    while index < len(tokens) and tokens[index].startswith("-") and tokens[index] != "--":
        index += 1 if tokens[index] in alone or "=" in tokens[index] else 2
    if index >= len(tokens) or tokens[index] == "--":
        return list(tokens)
    return [*tokens[:index], "--", *tokens[index:]]
