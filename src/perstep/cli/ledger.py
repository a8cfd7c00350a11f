"""`perstep ledger`: the main job; and the same tables from another tool's trace."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep.cli.experiment import DEFAULT_RUN_TO, RunTo, run_experiment
from perstep.cli.output import print_tables, progress_shown, render_tables
from perstep.cli.streams import remark, write
from perstep.errors import InputError
from perstep.experiments.ledger import Plan
from perstep.experiments.ledger.loops.measure import LoopFindings, measure_loops
from perstep.experiments.ledger.loops.options import LoopOptions, check_run_to, chosen
from perstep.experiments.ledger.loops.show import csv as loop_csv
from perstep.experiments.ledger.loops.show import table as loop_table
from perstep.experiments.ledger.trace.findings import TraceFindings, read_trace
from perstep.experiments.ledger.trace.options import TraceOptions, check
from perstep.experiments.ledger.trace.page import trace_page
from perstep.experiments.ledger.trace.show import csv, tables
from perstep.measure import HostClock
from perstep.report import Table
from perstep.report.page import REPORT, render_page
from perstep.runs import encode_json, replace_file, write_to

_DEFAULT = Plan()
_NO_TRACE = TraceOptions()
_NO_LOOP = LoopOptions()


def ledger(
    plan: Annotated[Plan, Parameter(name="*")] = _DEFAULT,
    stored: Annotated[TraceOptions, Parameter(name="*")] = _NO_TRACE,
    loops: Annotated[LoopOptions, Parameter(name="*")] = _NO_LOOP,
    to: Annotated[RunTo, Parameter(name="*")] = DEFAULT_RUN_TO,
) -> int:
    """What each part of a decode step costs.

    Prefill and decode have separate ledgers. In each, parts + residual = step, exactly. The table also shows the
    uninstrumented step and the instrumentation overhead. --loop compares whole decode loops instead.
    """
    check(stored, [(plan, _DEFAULT), (loops, _NO_LOOP), (to, DEFAULT_RUN_TO)])
    if loops.loop is not None:
        return _loops(chosen(loops, plan), plan, to)
    if stored.trace is None:
        return run_experiment("ledger", plan, to)
    return _stored(stored.trace, stored, plan, to)


def _stored(trace: Path, options: TraceOptions, plan: Plan, to: RunTo) -> int:
    """Print what a trace says; it is written to a folder only if one is named."""
    if plan.device_detail == "stream":
        raise InputError("--device-detail stream does not go with --trace, which has kernels; give parts or kernels")
    _refuse_used(to)
    with progress_shown(quiet=to.quiet) as progress:
        read = read_trace(
            trace, step=options.step, parts=options.parts, progress=lambda share: progress(share, "reading the trace")
        )
    findings = read.findings
    files = {"trace.csv": csv(findings).encode()}
    if to.out is not None or options.html is not None:
        files[REPORT] = render_page(trace_page(read, options.command))
    code = _show(findings, tables(findings, kernels=plan.device_detail == "kernels"), files, to)
    if options.html is not None:
        write_to(options.html, files[REPORT])
        if not to.quiet:
            remark(f"page: {options.html}")
    return code


def _loops(names: list[str], plan: Plan, to: RunTo) -> int:
    """Print how decode loops compare; it is written to a folder only if one is named."""
    check_run_to(to)
    _refuse_used(to)
    with progress_shown(quiet=to.quiet) as progress:
        findings = measure_loops(names, plan, progress, HostClock())
    return _show(findings, [loop_table(findings)], {"loops.csv": loop_csv(findings).encode()}, to)


def _refuse_used(to: RunTo) -> None:
    if to.out is not None and to.out.exists() and (not to.out.is_dir() or any(to.out.iterdir())):
        raise InputError(f"--out {to.out} is not an empty folder; choose another one")


def _show(findings: TraceFindings | LoopFindings, shown: list[Table], files: dict[str, bytes], to: RunTo) -> int:
    """Print findings, and write them with these files, of which the first is the CSV, if a folder is named."""
    if to.output == "json":
        write(encode_json(findings).decode())
    elif to.output == "csv":
        write(next(iter(files.values())).decode())
    else:
        print_tables(shown, to.output)
    if to.out is not None:
        to.out.mkdir(parents=True, exist_ok=True)
        replace_file(to.out / "results.json", encode_json(findings))
        for name, content in files.items():
            replace_file(to.out / name, content)
        replace_file(to.out / "README.md", render_tables(shown, "md").encode())
        if not to.quiet:
            remark(f"written: {to.out}")
    return 0
