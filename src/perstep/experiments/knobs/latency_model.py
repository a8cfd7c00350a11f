"""Linear models of a stage's latency: against one knob, and over all four, judged on what they did not see.

Least squares weighted by 1 / latency, because timing noise is relative. The held-out error is that of each
configuration predicted from all the others; R^2 stands beside and decides nothing (law 10). Terms that the data
cannot tell apart are left out, so that a model never claims a knob that was not turned.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.stats import fit_cost, merge_until_independent, merged_interval

_ENOUGH_BESIDE = 2
"""Points that a fit needs beside its terms before leaving one out says anything."""


class Measured(Protocol):
    """What the model is fitted to: one configuration and the estimates of its stages in milliseconds."""

    num_active_blocks: int
    num_input_text_tokens: int | float
    num_vision_tokens: int
    num_output_tokens: int
    top_k: int | None
    experts_implementation: str | None
    prefill_ms: float | None
    vision_ms: float | None
    decode_ms: float | None


class StageFit(msgspec.Struct, kw_only=True):
    """cost = intercept + slope x knob, for one stage.

    Attributes:
        intercept_ms: what does not change with the knob; null with fewer than two values of it, as the next four.
        slope_ms: for one more of the knob.
        r_squared: of all points, unweighted.
        fixed_share: the intercept over the fitted cost at the largest knob: Amdahl's fixed share.
        fixed_share_ci_low: 95 % interval of it, from a line in each round; null with too few rounds.
        max_deviation: largest relative distance of a point from the line.
        heldout_error: largest relative error when each point is predicted from the others; null below four points.
        beyond_error: largest relative error above half of the range, predicted from below it; null where the points
            are too few.
        curved: whether a quadratic term predicts held-out points clearly better; null likewise.
        points: configurations behind it.
        reason: why something is null, or empty.
    """

    intercept_ms: float | None = None
    slope_ms: float | None = None
    r_squared: float | None = None
    fixed_share: float | None = None
    fixed_share_ci_low: float | None = None
    fixed_share_ci_high: float | None = None
    max_deviation: float | None = None
    heldout_error: float | None = None
    beyond_error: float | None = None
    curved: bool | None = None
    points: int = 0
    reason: str = ""


class StageModel(msgspec.Struct, kw_only=True):
    """One stage over the four knobs: the sum of coefficient x term, in milliseconds.

    Attributes:
        terms: term -> coefficient. `blocks x tokens` is the product of two.
        heldout_error: largest relative error of a configuration predicted from the others; null where too few.
        heldout_error_median: the middle one of those errors.
        points: configurations behind it.
        reason: why there is no model or no error, or empty.
    """

    terms: dict[str, float]
    heldout_error: float | None
    heldout_error_median: float | None
    points: int
    reason: str = ""


class LatencyModel(msgspec.Struct, kw_only=True):
    """What each stage costs for a setting of the knobs; `knobs` are those that were turned."""

    stages: dict[str, StageModel]
    knobs: list[str]

    def predict(self, stage: str, row: Measured) -> float:
        """A stage's latency in milliseconds for the knobs of a configuration.

        Raises:
            InputError: there is no model of that stage.
        """
        if stage not in self.stages or not self.stages[stage].terms:
            raise InputError(f"no model of {stage!r}; there is one of {', '.join(self.stages)}")
        values = _terms(stage, row)
        return float(sum(coefficient * values[name] for name, coefficient in self.stages[stage].terms.items()))


def fit_stage(
    knob: Sequence[float], cost_ms: Sequence[float], rounds_ms: NDArray[np.float64] | None = None
) -> StageFit:
    """A stage's latency against one knob.

    Args:
        knob: [points] its values.
        cost_ms: [points] the stage at each, above 0.
        rounds_ms: [rounds, points] the same in each round, for the interval of the fixed share.
    """
    x, y = np.asarray(knob, np.float64), np.asarray(cost_ms, np.float64)
    if len(np.unique(x)) < 2:
        return StageFit(points=len(x), reason="a line needs two values of the knob")
    design = np.stack([np.ones_like(x), x], axis=1)
    intercept, slope = _least_squares(design, y).tolist()
    fitted = intercept + slope * x
    spread = float(((y - y.mean()) ** 2).sum())
    heldout = _leave_one_out(design, y)
    low, high = (None, None) if rounds_ms is None else _fixed_share_interval(design, y, rounds_ms)
    made = StageFit(
        intercept_ms=intercept,
        slope_ms=slope,
        r_squared=1 - float(((y - fitted) ** 2).sum()) / spread if spread > 0 else 1.0,
        fixed_share=intercept / (intercept + slope * float(x.max())),
        fixed_share_ci_low=low,
        fixed_share_ci_high=high,
        max_deviation=float(np.abs(fitted / y - 1).max()),
        heldout_error=None if heldout is None else float(heldout.max()),
        points=len(x),
        reason="" if heldout is not None else f"{len(x)} points are too few to hold one out",
    )
    try:
        judged = fit_cost(x, y)
    except InputError as error:
        made.reason = made.reason or f"no error beyond the range: {error}"
        return made
    made.beyond_error, made.curved = float(judged.linear.beyond_error), judged.chosen is judged.quadratic
    return made


def fit_latency_model(rows: Sequence[Measured]) -> LatencyModel:
    """A model of each stage over the knobs that differ among the configurations of one or several runs.

    Args:
        rows: configurations of one model on one machine.
    """
    stages = {}
    for stage, attribute in (("prefill", "prefill_ms"), ("vision", "vision_ms"), ("decode_per_forward", "decode_ms")):
        known = [row for row in rows if getattr(row, attribute) and (stage != "vision" or row.num_vision_tokens)]
        if known:
            costs = np.array([getattr(row, attribute) for row in known], np.float64)
            stages[stage] = _fit(stage, known, costs)
    turned: dict[str, set[int | float | None]] = {
        "blocks": {row.num_active_blocks for row in rows},
        "top_k": {row.top_k for row in rows},
        "input_text_tokens": {row.num_input_text_tokens for row in rows},
        "vision_tokens": {row.num_vision_tokens for row in rows},
        "output_tokens": {row.num_output_tokens for row in rows},
    }
    return LatencyModel(stages=stages, knobs=[name for name, values in turned.items() if len(values) > 1])


def _terms(stage: str, row: Measured) -> dict[str, float]:
    """The terms of a stage in the order in which they are tried."""
    blocks = float(row.num_active_blocks)
    tokens = float(row.num_input_text_tokens + row.num_vision_tokens)
    if stage == "vision":
        return {"1": 1.0, "vision_tokens": float(row.num_vision_tokens)}
    if stage == "decode_per_forward":  # the mean length of what its forwards attend to
        tokens += row.num_output_tokens / 2
    experts = {f"top_k, {row.experts_implementation}": blocks * (row.top_k or 0)} if row.top_k else {}
    return {"1": 1.0, "blocks": blocks, "tokens": tokens, "blocks x tokens": blocks * tokens, **experts}


def _fit(stage: str, rows: Sequence[Measured], costs: NDArray[np.float64]) -> StageModel:
    values = [_terms(stage, row) for row in rows]
    names: list[str] = []
    for name in dict.fromkeys(name for terms in values for name in terms):
        columns = _design(values, [*names, name])
        if columns.any(axis=0).all() and _rank(columns) > len(names):
            names.append(name)
    if len(rows) < len(names):
        return StageModel(terms={}, heldout_error=None, heldout_error_median=None, points=len(rows), reason="too few")
    design = _design(values, names)
    heldout = _leave_one_out(design, costs)
    coefficients = _least_squares(design, costs)
    return StageModel(
        terms=dict(zip(names, coefficients.tolist(), strict=True)),
        heldout_error=None if heldout is None else float(heldout.max()),
        heldout_error_median=None if heldout is None else float(np.median(heldout)),
        points=len(rows),
        reason="" if heldout is not None else f"{len(rows)} configurations are too few to hold one out",
    )


def _design(values: Sequence[dict[str, float]], names: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[terms.get(name, 0.0) for name in names] for terms in values], np.float64)


def _rank(columns: NDArray[np.float64]) -> int:
    """Of columns none of which is all zeros, brought to one size."""
    scale = np.abs(columns).max(axis=0)
    return int(np.linalg.matrix_rank(columns / np.where(scale > 0, scale, 1.0)))


def _least_squares(design: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = np.abs(design).max(axis=0)
    solved = np.linalg.lstsq(design / scale / y[:, None], np.ones(len(y)), rcond=None)[0]
    return np.asarray(solved / scale, np.float64)


def _fixed_share_interval(
    design: NDArray[np.float64], y: NDArray[np.float64], rounds_ms: NDArray[np.float64]
) -> tuple[float | None, float | None]:
    """A line in each round: its configurations were measured within seconds, so that drift cancels."""
    scaled = design / y[:, None]
    solved = np.linalg.lstsq(scaled, (rounds_ms / y).T, rcond=None)[0]
    shares = solved[0] / (solved[0] + solved[1] * design[:, 1].max())
    merged = merge_until_independent(shares[:, None], lambda t: t[:, 0])
    found = merged_interval(merged)
    return (None, None) if found is None else (float(found.low), float(found.high))


def _leave_one_out(design: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Relative error of each point predicted from the others; None where they are too few."""
    points, terms = design.shape
    if points < terms + _ENOUGH_BESIDE:
        return None
    errors = np.empty(points)
    for left_out in range(points):
        others = np.arange(points) != left_out
        if _rank(design[others]) < terms:
            return None
        predicted = design[left_out] @ _least_squares(design[others], y[others])
        errors[left_out] = abs(predicted / y[left_out] - 1)
    return errors
