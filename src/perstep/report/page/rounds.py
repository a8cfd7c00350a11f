"""The rounds of a part as a page has them: by round, and as a distribution. More than fit are put into groups."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep.measure import RESIDUAL, LedgerSamples
from perstep.report.page.content import TwoRuns

MOST_POINTS = 400
"""Rounds that are drawn each by itself; more are put into this number of groups of neighbours."""
BINS = 40
"""Of a distribution. Its ends are those of the middle 99 %; what lies outside is counted."""
STEP, PLAIN = "step", "step, uninstrumented"

Packed = dict[str, Json]
"""What the page's script reads."""


def rounds_of(samples: LedgerSamples, *, raw: bool = False) -> dict[str, Packed]:
    """Part -> its rounds, for the parts, the residual and the step with and without instruments.

    Args:
        samples: a ledger's steps, [rounds, passes, positions].
        raw: every round by itself, however many.
    """
    columns = {**samples.parts, RESIDUAL: samples.residual_ns, STEP: samples.step_ns, PLAIN: samples.plain_ns}
    return {name: _packed(ns, raw=raw) for name, ns in columns.items() if ns.size}


def rounds_of_two(runs: TwoRuns, *, raw: bool = False) -> dict[str, Packed]:
    """Part -> the rounds of the new run, and `beside` those of its reference, in bins of one width from the same place.

    Args:
        runs: what the parts took.
        raw: every round by itself, however many.
    """
    packed = {}
    for part, both in runs.parts.items():
        ends = _ends(np.concatenate([ns.ravel() for ns in both]))
        new, ref = (
            {"name": name, **_packed(ns, raw=raw, ends=ends)} for name, ns in zip(runs.names, both, strict=True)
        )
        packed[part] = {**new, "beside": ref}
    return packed


def _packed(ns: NDArray[np.int64], *, raw: bool, ends: tuple[float, float] | None = None) -> Packed:
    by_round = ns.mean(axis=(1, 2))
    packed: Packed = {
        "rounds": len(by_round), "steps": int(ns.size), **_distribution(ns.ravel(), ends or _ends(ns)),
    }  # fmt: skip
    if raw or len(by_round) <= MOST_POINTS:
        return {**packed, "ns": _whole(by_round)}
    groups = np.array_split(by_round, MOST_POINTS)
    return {
        **packed,
        "ns": _whole([np.median(group) for group in groups]),
        "low": _whole([group.min() for group in groups]),
        "high": _whole([group.max() for group in groups]),
    }


def _ends(ns: NDArray[np.int64]) -> tuple[float, float]:
    """Where a distribution begins and ends."""
    low, high = (float(end) for end in np.percentile(ns, (0.5, 99.5)))
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _distribution(ns: NDArray[np.int64], ends: tuple[float, float]) -> Packed:
    """Number of steps in bins of equal width."""
    low, high = ends
    counts, _ = np.histogram(ns, bins=BINS, range=(low, high))
    return {
        "from": round(low, 1), "to": round(high, 1), "counts": counts.tolist(),
        "below": int((ns < low).sum()), "above": int((ns > high).sum()),
        "p50": float(np.median(ns)),
    }  # fmt: skip


def _whole(values: Iterable[float]) -> list[int]:
    return [round(float(value)) for value in values]
