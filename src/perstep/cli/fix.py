"""`perstep fix`: run somebody's script once, then try drop-ins on the generate calls it made."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep.cli.output import print_tables, progress_shown, remark
from perstep.errors import InputError, PerstepError
from perstep.experiments.fix import Captures, Fix, diff, find_fixes, lines, tables
from perstep.experiments.options import parse_seconds
from perstep.experiments.watch_script import after_import, run_script
from perstep.experiments.watching import Watch
from perstep.report import Output
from perstep.runs import encode_json
from perstep.targets.transformers import require

_GENERATE_LIVES_IN = "transformers.generation.utils"


def fix(
    script: str,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    apply: Annotated[bool, Parameter(negative="")] = False,
    budget: str = "60s",
    output: Annotated[Output, Parameter(name=["-o", "--output"])] = "table",
    quiet: Annotated[bool, Parameter(name=["-q", "--quiet"], negative="")] = False,
) -> int:
    """What could replace the slow parts of the generate calls of a script, tried and measured.

    The script runs once, watched. Then the first call of each line that called generate is made again with drop-ins in
    place of its processors and criteria: the tokens must be the same, and the calls take turns until the change is
    resolved. The script itself is never changed. Options of perstep stand before SCRIPT; what stands after it is the
    script's.

    Args:
        script: A Python file.
        arguments: The script's own.
        apply: Print the change to the script as a unified diff on stdout, for `patch` or `git apply`, and the tables on
            stderr.
        budget: How long to measure for each line that calls generate, such as 30s or 2m.
        output: Form of the tables.
        quiet: No progress on stderr.
    """
    require()
    path = Path(script)
    if not path.is_file():
        raise InputError(f"no script {script!r}: give the path of a Python file")
    try:
        budget_s = parse_seconds(budget)
    except ValueError as error:
        raise InputError(f"--budget {budget}: {error}") from error
    captures, watcher = Captures(), Watch()

    def begin() -> None:
        captures.__enter__()
        watcher.__enter__()

    with after_import(_GENERATE_LIVES_IN, begin):
        code = run_script(path, arguments)
    watcher.__exit__(None, None, None)
    captures.__exit__(None, None, None)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed by the script, or by who reads it
            stream.flush()
    if code != 0 and not captures.calls:
        return code
    if not captures.calls:
        remark(f"perstep: {script} made no generate call of a transformers model; there is nothing to try")
        return 0
    ledgers = watcher.ledgers()
    fixes = []
    with progress_shown(quiet=quiet) as progress:
        for site, call in captures.calls.items():
            ledger = next((one for name, one in ledgers.items() if name.split(" (")[0] == site), None)
            fixes.append(find_fixes(call, ledger, budget_s=budget_s, progress=progress))
    _show(fixes, path, output, apply=apply)
    return 0


def _show(fixes: list[Fix], path: Path, output: Output, *, apply: bool) -> None:
    patch = _patch(fixes, path)
    if output == "json":
        sys.stdout.write(encode_json([one.findings for one in fixes]).decode())
        return
    for one in fixes:
        if apply:
            from perstep.cli.output import render_tables

            sys.stderr.write(render_tables(tables(one.findings), output))
        else:
            print_tables(tables(one.findings), output)
            if one.chosen:
                sys.stdout.write(
                    "\n" + "\n".join(["Write into the call:", *(f"  {line}" for line in lines(one))]) + "\n"
                )
    if apply and patch:
        sys.stdout.write(patch)
    elif patch is None and any(one.chosen for one in fixes):
        remark("perstep: the call is put together elsewhere, so there is no diff; write the lines by hand")


def _patch(fixes: list[Fix], path: Path) -> str | None:
    """The diff of the script; empty where nothing changes, None where it cannot be made."""
    edits = [one.edit for one in fixes if one.chosen and one.call.file.resolve() == path.resolve()]
    if not edits:
        return None if any(one.chosen for one in fixes) else ""
    try:
        return diff(path, edits)
    except (OSError, SyntaxError) as error:
        raise PerstepError(f"{path} cannot be read again for the diff: {error}") from error
