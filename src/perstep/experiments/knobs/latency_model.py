"""Linear models of a stage's latency: against one knob, and over all four, judged on what they did not see.

Least squares weighted by 1 / latency, because timing noise is relative. The held-out error is that of each
configuration predicted from all the others; R^2 stands beside and decides nothing (law "fits are judged on held-out
points"). Terms that the data cannot tell apart are left out, so that a model never claims a knob that was not turned.
Against depth a line may have one change of slope (`stats/segments.py`), where weights no longer stay in a cache between
two forwards.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._words import plural, short
from perstep.errors import InputError
from perstep.stats import beyond_knee, find_knee, fit_cost, merge_until_independent, merged_interval

_CLEARLY_BETTER = 0.5
"""Few points ask more of a quadratic term than `stats.fit_cost`: to halve the held-out error, of which chance can take
a tenth ..."""
_GOOD_ENOUGH = 0.01
"""... and that a line misses by more than this."""

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


class StageKnee(msgspec.Struct, kw_only=True):
    """Where the slope of a stage changes, as `stats.find_knee` has it.

    Attributes:
        at: value of the knob.
        ci_low: 95 % interval of it: the places that fit about as well.
        slope_beyond_ms: for one more of the knob above it.
        line_r_squared: of the line that it stands in place of.
        line_heldout_error: of that line.
        bic_gain: by how much BIC prefers the change of slope; 10 are asked for.
        beyond_from: knob above which the points of `beyond_error` lie; null where it is null.
    """

    at: float
    ci_low: float
    ci_high: float
    slope_beyond_ms: float
    line_r_squared: float
    line_heldout_error: float
    bic_gain: float
    beyond_from: float | None


class StageCurve(msgspec.Struct, kw_only=True):
    """cost = c0 + c1 x knob + c2 x knob^2, where that predicts held-out points clearly better than a line.

    Attributes:
        coefficients_ms: c0, c1 and c2.
        heldout_error: largest relative error when each point is predicted from the others; null below five points.
    """

    coefficients_ms: list[float]
    heldout_error: float | None


class StageFit(msgspec.Struct, kw_only=True):
    """cost = intercept + slope x knob, for one stage; above a knee its slope counts.

    Attributes:
        intercept_ms: what does not change with the knob; null with fewer than two values of it, as the next four.
        slope_ms: for one more of the knob.
        r_squared: of all points, unweighted.
        fixed_share: the intercept over the fitted cost at the largest knob: Amdahl's fixed share. With a knee it is
            the least that it can be: beyond, what does not shrink with the knob is dearer than below.
        fixed_share_ci_low: 95 % interval of it, from a fit in each round; null with too few rounds.
        max_deviation: largest relative distance of a point from the fit.
        heldout_error: largest relative error when each point is predicted from the others; null below four points.
        beyond_error: largest relative error above half of the range, or above the third point after a knee, predicted
            from the points below; null where they are too few.
        curved: whether a quadratic term predicts held-out points clearly better; null below five points, and with a
            knee.
        curve: with that term, where it does; what stands above remains that of the line.
        knee: where the slope changes; null where a line does, and where none was sought.
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
    curve: StageCurve | None = None
    knee: StageKnee | None = None
    points: int = 0
    reason: str = ""

    def at(self, knob: float) -> float:
        """The fitted cost in milliseconds at a value of the knob; there must be a fit."""
        assert self.intercept_ms is not None  # noqa: S101
        assert self.slope_ms is not None  # noqa: S101
        bend = 0.0 if self.knee is None else (self.knee.slope_beyond_ms - self.slope_ms) * max(knob - self.knee.at, 0.0)
        return self.intercept_ms + self.slope_ms * knob + bend


class StageModel(msgspec.Struct, kw_only=True):
    """One stage over the four knobs: the sum of coefficient x term, in milliseconds.

    Attributes:
        terms: term -> coefficient. `blocks x tokens` is the product of two, `blocks beyond 6` what of the blocks lies
            above that, and nothing below.
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
    knee: float | None = None
    """Of the term `blocks beyond`, where there is one."""


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
        values = _terms(stage, row, self.stages[stage].knee)
        return float(sum(coefficient * values[name] for name, coefficient in self.stages[stage].terms.items()))


def fit_stage(
    knob: Sequence[float],
    cost_ms: Sequence[float],
    rounds_ms: NDArray[np.float64] | None = None,
    *,
    may_bend: bool = False,
) -> StageFit:
    """A stage's latency against one knob.

    Args:
        knob: [points] its values.
        cost_ms: [points] the stage at each, above 0.
        rounds_ms: [rounds, points] the same in each round, for the interval of the fixed share.
        may_bend: whether a change of slope is sought; not where cost may be a curve, which would be taken for one.
    """
    x, y = np.asarray(knob, np.float64), np.asarray(cost_ms, np.float64)
    if len(np.unique(x)) < 2:
        return StageFit(points=len(x), reason="a line needs two values of the knob")
    line = np.stack([np.ones_like(x), x], axis=1)
    knee = find_knee(x, y) if may_bend else None
    design = line if knee is None else np.append(line, np.maximum(x - knee.at, 0.0)[:, None], axis=1)
    solved = _least_squares(design, y)
    fitted = design @ solved
    heldout = _leave_one_out(line, y)
    low, high = (None, None) if rounds_ms is None else _fixed_share_interval(design, y, rounds_ms)
    fit = StageFit(
        intercept_ms=float(solved[0]),
        slope_ms=float(solved[1]),
        r_squared=_r_squared(fitted, y),
        fixed_share=float(solved[0] / fitted[x.argmax()]),
        fixed_share_ci_low=low,
        fixed_share_ci_high=high,
        max_deviation=float(np.abs(fitted / y - 1).max()),
        heldout_error=None if heldout is None else float(heldout.max()),
        points=len(x),
        reason="" if heldout is not None else f"{plural(len(x), 'point is', 'points are')} too few to hold one out",
    )
    if knee is not None:
        beyond = beyond_knee(x, y, knee)
        fit.heldout_error = knee.heldout_error
        fit.beyond_error = None if beyond is None else beyond[1]
        fit.reason = "" if beyond is not None else "no error beyond the range: too few points above the knee"
        fit.knee = StageKnee(
            at=knee.at,
            ci_low=knee.ci_low,
            ci_high=knee.ci_high,
            slope_beyond_ms=float(solved[1] + solved[2]),
            line_r_squared=_r_squared(line @ _least_squares(line, y), y),
            line_heldout_error=knee.line_heldout_error,
            bic_gain=knee.bic_gain,
            beyond_from=None if beyond is None else beyond[0],
        )
        return fit
    try:
        judged = fit_cost(x, y)
        fit.beyond_error, fit.curved = float(judged.linear.beyond_error), judged.chosen is judged.quadratic
    except InputError as error:
        fit.reason = fit.reason or f"no error beyond the range: {error}"
    _judge_curve(fit, np.append(line, x[:, None] ** 2, axis=1), y)
    return fit


def _judge_curve(fit: StageFit, design: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """Note a quadratic term that does better; where no octave could be held out, by leaving out point after point."""
    errors = _leave_one_out(design, y)
    worst = None if errors is None else float(errors.max())
    if fit.curved is None and worst is not None and fit.heldout_error is not None:
        fit.curved = worst < _CLEARLY_BETTER * fit.heldout_error and fit.heldout_error > _GOOD_ENOUGH
    if fit.curved:
        fit.curve = StageCurve(coefficients_ms=_least_squares(design, y).tolist(), heldout_error=worst)


def _r_squared(fitted: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    spread = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - fitted) ** 2).sum()) / spread if spread > 0 else 1.0


def fit_latency_model(rows: Sequence[Measured]) -> LatencyModel:
    """A model of each stage over the knobs that differ among the configurations of one or several runs.

    Args:
        rows: configurations of one model on one machine; no stage is modelled where they differ in none of the knobs.
    """
    turned: dict[str, set[int | float | None]] = {
        "blocks": {row.num_active_blocks for row in rows},
        "top_k": {row.top_k for row in rows},
        "input_text_tokens": {row.num_input_text_tokens for row in rows},
        "vision_tokens": {row.num_vision_tokens for row in rows},
        "output_tokens": {row.num_output_tokens for row in rows},
    }
    knobs = [name for name, values in turned.items() if len(values) > 1]
    if len(rows) > 1 and not knobs and len({row.experts_implementation for row in rows}) == 1:
        return LatencyModel(stages={}, knobs=[])  # another knob was turned, and none of the terms is its own
    stages = {}
    for stage, attribute in (("prefill", "prefill_ms"), ("vision", "vision_ms"), ("decode_per_forward", "decode_ms")):
        measured = [row for row in rows if getattr(row, attribute) and (stage != "vision" or row.num_vision_tokens)]
        if measured:
            costs = np.array([getattr(row, attribute) for row in measured], np.float64)
            stages[stage] = _fit(stage, measured, costs)
    return LatencyModel(stages=stages, knobs=knobs)


def _terms(stage: str, row: Measured, knee: float | None = None) -> dict[str, float]:
    """The terms of a stage in the order in which they are tried."""
    blocks = float(row.num_active_blocks)
    tokens = float(row.num_input_text_tokens + row.num_vision_tokens)
    if stage == "vision":
        return {"1": 1.0, "vision_tokens": float(row.num_vision_tokens)}
    if stage == "decode_per_forward":  # the mean length of what its forwards attend to
        tokens += row.num_output_tokens / 2
    experts = {f"top_k, {row.experts_implementation}": blocks * (row.top_k or 0)} if row.top_k else {}
    bend = {} if knee is None else {f"blocks beyond {short(knee)}": max(blocks - knee, 0.0)}
    return {"1": 1.0, "blocks": blocks, **bend, "tokens": tokens, "blocks x tokens": blocks * tokens, **experts}


def _knee(stage: str, rows: Sequence[Measured], costs: NDArray[np.float64]) -> float | None:
    """Where the slope against blocks changes: in the largest group of rows that differ in nothing else."""
    if stage == "vision":
        return None
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, row in enumerate(rows):
        others = (row.num_input_text_tokens, row.num_vision_tokens, row.num_output_tokens, row.top_k)
        groups.setdefault((*others, row.experts_implementation), []).append(index)
    largest = max(groups.values(), key=len)
    knee = find_knee([rows[index].num_active_blocks for index in largest], costs[largest])
    return None if knee is None else knee.at


def _fit(stage: str, rows: Sequence[Measured], costs: NDArray[np.float64]) -> StageModel:
    knee = _knee(stage, rows, costs)
    values = [_terms(stage, row, knee) for row in rows]
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
        reason=""
        if heldout is not None
        else f"{plural(len(rows), 'configuration is', 'configurations are')} too few to hold one out",
        knee=knee,
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
    """A fit in each round: its configurations were measured within seconds, so that drift cancels."""
    scaled = design / y[:, None]
    solved = np.linalg.lstsq(scaled, (rounds_ms / y).T, rcond=None)[0]
    shares = solved[0] / (design[design[:, 1].argmax()] @ solved)
    merged = merge_until_independent(shares[:, None], lambda t: t[:, 0])
    interval = merged_interval(merged)
    return (None, None) if interval is None else (float(interval.low), float(interval.high))


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
