"""The rounds of a part as a page has them: by round, and as a distribution. More than fit are put into groups."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep.measure import RESIDUAL, LedgerSamples

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


def _packed(ns: NDArray[np.int64], *, raw: bool) -> Packed:
    by_round = ns.mean(axis=(1, 2))
    packed: Packed = {"rounds": len(by_round), "steps": int(ns.size), **_distribution(ns.ravel())}
    if raw or len(by_round) <= MOST_POINTS:
        return {**packed, "ns": _whole(by_round)}
    groups = np.array_split(by_round, MOST_POINTS)
    return {
        **packed,
        "ns": _whole([np.median(group) for group in groups]),
        "low": _whole([group.min() for group in groups]),
        "high": _whole([group.max() for group in groups]),
    }


def _distribution(ns: NDArray[np.int64]) -> Packed:
    """Number of steps in bins of equal width."""
    low, high = (float(end) for end in np.percentile(ns, (0.5, 99.5)))
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(ns, bins=BINS, range=(low, high))
    return {
        "from": round(low, 1), "to": round(high, 1), "counts": counts.tolist(),
        "below": int((ns < low).sum()), "above": int((ns > high).sum()),
        "p50": float(np.median(ns)),
    }  # fmt: skip


def _whole(values: Iterable[float]) -> list[int]:
    return [round(float(value)) for value in values]
