"""`perstep compare`: two stored runs, or commands, callables or builds that take turns (`--live`)."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep.cli.codes import NOT_RESOLVED
from perstep.cli.experiment import DEFAULT_RUN_TO, RunTo, store_baseline
from perstep.cli.output import print_tables
from perstep.cli.streams import remark, write
from perstep.errors import InputError
from perstep.experiments.options import RunOptions, Share
from perstep.report import Output
from perstep.report.page import render_page
from perstep.runs import check_baseline_name, encode_json, write_to
from perstep.stored.between import StoredComparison, compare_runs
from perstep.stored.page import comparison_page
from perstep.stored.repeats import load_pair
from perstep.stored.show import comparison_csv, comparison_tables

_DEFAULT_OPTIONS = RunOptions()


def compare(
    *runs: str,
    live: Annotated[bool, Parameter(negative="")] = False,
    python: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    check: Annotated[bool, Parameter(negative="")] = False,
    allow_different: Annotated[bool, Parameter(negative="")] = False,
    threshold: Annotated[Share, Parameter(show_default=False)] = 0.01,
    options: Annotated[RunOptions, Parameter(name="*", group="How to measure (with --live)")] = _DEFAULT_OPTIONS,
    html: Path | None = None,
    to: Annotated[RunTo, Parameter(name="*", group="Where the result goes")] = DEFAULT_RUN_TO,
) -> int:
    """Compare runs part by part: is one faster or slower than the other?

    `perstep compare REF NEW` reads two runs (a folder, a name, a number) or baselines. Stored runs were not
    interleaved, so every interval includes the difference between runs of the same code on this machine. If that is not
    known, there is no verdict.

    `perstep compare --live 'CMD A' 'CMD B'` times commands, or Python callables as module:function, interleaved.
    `perstep compare --live --python A --python B SCRIPT` times one script under several interpreters.

    Args:
        runs: REF and NEW: runs (a folder, a name, a number) or baselines. With --live: commands, or Python callables as
            module:function, the reference first.
        live: Time commands or callables now, interleaved.
        python: With --live: an interpreter for the script; give this option twice or more.
        check: With --live: first call every callable once, and refuse to time them if their results differ.
        allow_different: Compare stored runs that did not do the same work; the differences are printed.
        threshold: A change whose interval lies within ± this is called the same. [default: 1%]
        html: Write the comparison of two stored runs as a page into this file.
    """
    if live:
        if html is not None:
            raise InputError("--html is for two stored runs; a --live comparison has report.html in its run's folder")
        from perstep.cli.live import compare_live

        return compare_live(runs, options, to, pythons=python, check=check, threshold=threshold)
    if python or check or options != _DEFAULT_OPTIONS or to.out is not None or to.resume or to.force:
        raise InputError(
            "--python, --check, --out and the options for measuring need --live; stored runs are only read"
        )
    return _compare_stored(runs, to, threshold=threshold, allow_different=allow_different, html=html)


def _compare_stored(
    runs: tuple[str, ...], to: RunTo, *, threshold: float, allow_different: bool, html: Path | None
) -> int:
    given = runs if to.baseline is None else (to.baseline, *runs)
    if len(given) != 2:
        names = ", ".join(given) or "nothing"
        raise InputError(f"compare takes two runs, REF and NEW; {names} was given (`perstep list` shows the runs)")
    if to.save_baseline is not None:
        check_baseline_name(to.save_baseline)
    pair = load_pair(*given, allow_different=allow_different)
    comparison = compare_runs(pair.ref, pair.new, pair.spread, threshold=threshold, allow_different=allow_different)
    _print(comparison, to.output)
    if html is not None:
        write_to(html, render_page(comparison_page(comparison, pair)))
        if not to.quiet:
            remark(f"page: {html}")
    if to.save_baseline is not None:
        store_baseline(to.save_baseline, pair.new_folder, quiet=to.quiet)
    if to.strict and comparison.unresolved:
        remark(f"perstep: not resolved: {comparison.unresolved}")
        return NOT_RESOLVED
    return 0


def _print(comparison: StoredComparison, output: Output) -> None:
    if output == "json":
        write(encode_json(comparison).decode())
    elif output == "csv":
        write(comparison_csv(comparison))
    else:
        print_tables(comparison_tables(comparison), output)
