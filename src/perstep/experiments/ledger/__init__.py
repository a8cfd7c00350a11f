"""`ledger`: what each part of a decode step costs.

Two arms replay one recorded trace of tokens in balanced rounds: uninstrumented steps, which give the step's time,
and instrumented ones, whose parts + residual = step. Prefill and decode have ledgers of their own.
"""

from perstep.experiments.ledger.findings import LedgerFindings, analyse
from perstep.experiments.ledger.plan import Plan
from perstep.experiments.ledger.samples import Conditions, Pass, Sample, Workload, ledger_samples
from perstep.experiments.ledger.session import prepare
from perstep.experiments.ledger.show import content, csv, files, summary, tables

__all__ = [
    "Conditions",
    "LedgerFindings",
    "Pass",
    "Plan",
    "Sample",
    "Workload",
    "analyse",
    "content",
    "csv",
    "files",
    "ledger_samples",
    "prepare",
    "summary",
    "tables",
]
