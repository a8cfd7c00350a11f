"""github-action-benchmark's `customSmallerIsBetter`: a list of name, unit, value, range, extra.

The action compares values of one name over commits and knows no unit, so the unit is always nanoseconds. The value is
the estimate per step (law "medians do not add"), the range half its 95 % interval from this run's own rounds: the
action does not read it, and what runs differ by is not in it. `perstep gate` is the judge that does.
"""

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep.measure import RESIDUAL, Ledger
from perstep.measure.names import STEP, part_name
from perstep.report.export.source import Source
from perstep.report.format import percent, plural
from perstep.report.ledger import overhead_words
from perstep.stats.order import median_interval


def to_github_action(source: Source) -> Iterator[bytes]:
    """The run as a list of benchmarks, the headline first."""
    entries = [entry for kind, ledger in source.ledgers.items() for entry in _entries(kind, ledger, source)]
    if not source.ledgers:
        entries = [_of_rounds(name, ns, source) for name, (ns, _) in source.round_means_ns().items()]
    yield msgspec.json.format(msgspec.json.encode(entries), indent=2) + b"\n"


def _entries(kind: str, ledger: Ledger, source: Source) -> Iterator[Mapping[str, Json]]:
    rounds = plural(ledger.rounds, "round")
    low, high = ledger.plain_step_ci_low, ledger.plain_step_ci_high
    if ledger.plain_step_ns is not None:
        extra = f"{rounds}, without instruments; {overhead_words(ledger)}"
        yield _entry(source, kind, STEP, ledger.plain_step_ns, low, high, extra)
    for name, part in ledger.parts.items():
        extra = f"{rounds}, {percent(part.share)} of the instrumented step"
        yield _entry(source, kind, name, part.ns_per_step, part.ci_low, part.ci_high, extra)
    extra = f"{rounds}, {percent(ledger.residual_share)} of the instrumented step"
    yield _entry(source, kind, RESIDUAL, ledger.residual_ns, None, None, extra)


def _of_rounds(name: str, ns: NDArray[np.float64], source: Source) -> dict[str, Json]:
    """What has no ledger: the median of its rounds with its interval."""
    extra = f"{plural(len(ns), 'round')}, the median of their means"
    interval = median_interval(ns)
    entry = {"name": f"{source.subject}: {name}", "unit": "ns", "value": float(np.median(ns)), "extra": extra}
    if interval is not None:
        entry["range"] = f"± {(interval.high - interval.low) / 2:.0f}"
    return entry


def _entry(
    source: Source, kind: str, part: str, ns: float, low: float | None, high: float | None, extra: str
) -> dict[str, Json]:
    entry = {"name": f"{source.subject}: {part_name(kind, part)}", "unit": "ns", "value": ns, "extra": extra}
    if low is not None and high is not None:
        entry["range"] = f"± {(high - low) / 2:.0f}"
    return entry
