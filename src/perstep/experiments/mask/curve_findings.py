"""Fills against the vocabulary's size, fitted, and judged at sizes that the fit did not see (law 10)."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from perstep.experiments.mask.curves import PREDICTED_AT, Prediction
from perstep.experiments.mask.samples import Sample
from perstep.runs import Manifest
from perstep.stats import fit_cost, local_exponents, step_estimate


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Fills of one engine against the vocabulary's size, hot.

    Attributes:
        engine: its name.
        complexity: of the schema.
        sizes: ascending.
        fill_us: at each.
        fitted: whether the fit saw it.
        lookups: of the naive walk, counted, on average at the places of the text; empty for other engines.
        terms: constant, linear and perhaps quadratic term of the chosen fit, in nanoseconds.
        slope_ns_per_token: of the linear fit.
        interleaved_error: largest relative error at held-out sizes between the fitted ones.
        beyond_error: at the octave beyond.
        exponent: median of those between neighbouring sizes: 0 constant, 1 linear.
        predicted_us: at 50,000, before anything beyond 32,768 was measured.
        measured_us: at 50,000.
        prediction_error: (measured - predicted) / measured.
    """

    engine: str
    complexity: int
    sizes: list[int]
    fill_us: list[float]
    fitted: list[bool]
    lookups: list[float]
    terms: list[float]
    slope_ns_per_token: float
    interleaved_error: float
    beyond_error: float
    exponent: float
    predicted_us: float | None
    measured_us: float | None
    prediction_error: float | None


def find_curves(manifest: Manifest, samples: Sequence[Sample]) -> list[Curve]:
    """A curve for each engine and complexity, of the points that every round holds."""
    predictions = msgspec.convert(manifest.conditions["predictions"], list[Prediction])
    points = manifest.conditions["curves"]
    costs: dict[tuple[str, int], dict[int, float]] = {}
    lookups: dict[tuple[str, int], list[float]] = {}
    for key, about in points.items():
        if all(key in sample.curves for sample in samples):
            cost = step_estimate(np.array([sample.curves[key] for sample in samples]))
            which = (about["engine"], about["complexity"])
            costs.setdefault(which, {})[about["size"]] = cost
            if about["lookups"] is not None:
                lookups.setdefault(which, []).append(about["lookups"])
    return [_curve(*which, by_size, lookups.get(which, []), predictions) for which, by_size in costs.items()]


def _curve(
    engine: str,
    complexity: int,
    by_size: Mapping[int, float],
    lookups: list[float],
    predictions: Sequence[Prediction],
) -> Curve:
    sizes = sorted(by_size)
    ns = [by_size[size] for size in sizes]
    fit = fit_cost(sizes, ns)
    predicted = next((p.fill_ns for p in predictions if (p.engine, p.complexity) == (engine, complexity)), None)
    measured = by_size.get(PREDICTED_AT)
    both = predicted is not None and measured is not None
    return Curve(
        engine=engine,
        complexity=complexity,
        sizes=sizes,
        fill_us=[value / 1e3 for value in ns],
        fitted=[size in fit.fitted_x for size in sizes],
        lookups=lookups,
        terms=list(fit.chosen.coefficients),
        slope_ns_per_token=fit.linear.coefficients[1],
        interleaved_error=fit.chosen.interleaved_error,
        beyond_error=fit.chosen.beyond_error,
        exponent=float(np.median(local_exponents(sizes, ns))),
        predicted_us=None if predicted is None else predicted / 1e3,
        measured_us=None if measured is None else measured / 1e3,
        prediction_error=(measured - predicted) / measured if both else None,  # type: ignore[operator]
    )
