"""`perstep ledger`: the main job; and the same tables from another tool's trace."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep.cli.experiment import DEFAULT_RUN_TO, RunTo, run_experiment
from perstep.cli.output import print_tables, progress_shown, render_tables
from perstep.cli.streams import remark, write
from perstep.errors import InputError
from perstep.experiments.ledger import Plan
from perstep.experiments.ledger.trace.findings import TraceFindings, trace_findings
from perstep.experiments.ledger.trace.options import TraceOptions, check
from perstep.experiments.ledger.trace.show import csv, tables
from perstep.report import Table
from perstep.runs import encode_json, replace_file

_DEFAULT = Plan()
_NO_TRACE = TraceOptions()


def ledger(
    plan: Annotated[Plan, Parameter(name="*")] = _DEFAULT,
    stored: Annotated[TraceOptions, Parameter(name="*")] = _NO_TRACE,
    to: Annotated[RunTo, Parameter(name="*")] = DEFAULT_RUN_TO,
) -> int:
    """What each part of a decode step costs.

    Prefill and decode have separate ledgers. In each, parts + residual = step, exactly. The table also shows the
    uninstrumented step and the instrumentation overhead.
    """
    check(stored, [(plan, _DEFAULT), (to, DEFAULT_RUN_TO)])
    if stored.trace is None:
        return run_experiment("ledger", plan, to)
    return _stored(stored.trace, stored, plan, to)


def _stored(trace: Path, options: TraceOptions, plan: Plan, to: RunTo) -> int:
    """Print what a trace says; it is written to a folder only if one is named."""
    if plan.device_detail == "stream":
        raise InputError("--device-detail stream does not go with --trace, which has kernels; give parts or kernels")
    if to.out is not None and to.out.exists() and (not to.out.is_dir() or any(to.out.iterdir())):
        raise InputError(f"--out {to.out} is not an empty folder; choose another one")
    with progress_shown(quiet=to.quiet) as progress:
        findings = trace_findings(
            trace, step=options.step, parts=options.parts, progress=lambda share: progress(share, "reading the trace")
        )
    shown = tables(findings, kernels=plan.device_detail == "kernels")
    if to.output == "json":
        write(encode_json(findings).decode())
    elif to.output == "csv":
        write(csv(findings))
    else:
        print_tables(shown, to.output)
    if to.out is not None:
        _write(to.out, findings, shown)
        if not to.quiet:
            remark(f"written: {to.out}")
    return 0


def _write(out: Path, findings: TraceFindings, shown: list[Table]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "results.json", encode_json(findings))
    replace_file(out / "trace.csv", csv(findings).encode())
    replace_file(out / "README.md", render_tables(shown, "md").encode())
