"""What the samples of `mask` say: a pure function of manifest and samples.

The step without a mask is the mean over positions of the medians over rounds, without marks. An engine's ratio to it
is the median of the rounds' paired ratios, and its step is the step without a mask times that ratio, so that times and
ratios say the same. Its parts are their shares of the step with marks, times that step. Arms and cells that are not
in every round are left out and listed.
"""

from collections.abc import Mapping, Sequence
from math import inf

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._words import short
from perstep.errors import InputError, how_to_install
from perstep.experiments.columns import require_rounds, stack_passes, too_few, why_unresolved
from perstep.experiments.conditions import typed
from perstep.experiments.mask.arms import EXACT, NO_MASK
from perstep.experiments.mask.building import Build
from perstep.experiments.mask.curves import PREDICTED_AT, AboutPoint, Prediction
from perstep.experiments.mask.device import ArmOnDevice
from perstep.experiments.mask.device_bounds import MaskBound, mask_bound
from perstep.experiments.mask.roofline import AboutCell, RooflinePoint, place, without_exceeded, works
from perstep.experiments.mask.samples import ArmRound, Conditions, LeftOut, Sample, Workload
from perstep.machine import NoiseSummary, SweepCeilings, summarise_noise, sweep_ceilings
from perstep.measure import RESIDUAL, Ledger, LedgerSamples, Resolved, build_ledger
from perstep.report.change import RelativeChange
from perstep.runs import Manifest
from perstep.stats import (
    Change,
    fit_cost,
    local_exponents,
    paired_change,
    percentile,
    share_interval,
    step_estimate,
    withhold,
)


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


def find_curves(
    points: Mapping[str, AboutPoint], predictions: Sequence[Prediction], samples: Sequence[Sample]
) -> list[Curve]:
    """A curve for each engine and complexity, of the points that every round holds."""
    costs: dict[tuple[str, int], dict[int, float]] = {}
    lookups: dict[tuple[str, int], list[float]] = {}
    for key, about in points.items():
        if all(key in sample.curves for sample in samples):
            cost = step_estimate(np.array([sample.curves[key] for sample in samples]))
            which = (about.engine, about.complexity)
            costs.setdefault(which, {})[about.size] = cost
            if about.lookups is not None:
                lookups.setdefault(which, []).append(about.lookups)
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


PLACED = ((NO_MASK, "lm_head"), ("naive", "mask.fill"), ("naive", "mask.apply"), ("table", "mask.apply"))
"""The arms and parts whose operations and bytes are counted."""


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """Fills of one arm in microseconds a step (all rows of the batch), in place between forwards and hot.

    Attributes:
        in_place_us: the part `mask.fill` of the step.
        in_place_p50_us: median over all steps with marks.
        in_place_p99_us: None with fewer than 1,000 steps.
        hot_us: the same work with nothing of the model between it: `in_place_us` over the ratio.
        in_place_over_hot: the median of the rounds' paired ratios.
        over_hot_low: lower end of its interval, or None.
        over_hot_high: upper end, or None.
    """

    in_place_us: float
    in_place_p50_us: float
    in_place_p99_us: float | None
    hot_us: float
    in_place_over_hot: float
    over_hot_low: float | None
    over_hot_high: float | None


class Arm(RelativeChange, frozen=True, kw_only=True):
    """One arm of a cell, and how its step differs from the one without a mask.

    Attributes:
        engine: its name; `no mask` for none.
        per_step_ms: the step without marks; under a mask the step without one, times `ratio`.
        tokens_per_s: of the whole batch.
        mask_share: of the instrumented step that is fill, accept and apply.
        mask_share_low: lower end of its interval, or None.
        mask_share_high: upper end, or None.
        fill: None for no mask.
        differing_choices: a pass, against the definition of the mask.
        ledger: parts + residual = step; its step without marks is `per_step_ms`.
        on_device: what the device does in a step, in profiled steps before the rounds; UNSET on the cpu.
        device_bound: the least time of the mask's kernels; UNSET without one.
    """

    engine: str
    per_step_ms: float
    tokens_per_s: float
    mask_share: float
    mask_share_low: float | None
    mask_share_high: float | None
    fill: Fill | None
    differing_choices: float
    ledger: Ledger
    on_device: ArmOnDevice | msgspec.UnsetType = msgspec.UNSET
    device_bound: MaskBound | msgspec.UnsetType = msgspec.UNSET

    @property
    def ratio(self) -> float | None:
        """Its step over the one without a mask; None for that itself."""
        return None if self.change is None else 1 + self.change

    @property
    def ratio_ends(self) -> tuple[float | None, float | None]:
        """The ends of the ratio's interval; None where there are too few rounds for one."""
        return None if self.ci_low is None else 1 + self.ci_low, None if self.ci_high is None else 1 + self.ci_high

    def part_ns(self, part: str) -> float:
        """What a part takes of the step without marks, by its share of the one with marks; 0 where it does not occur.

        Args:
            part: a part of the ledger, or `residual`.
        """
        if part == RESIDUAL:
            return self.ledger.residual_share * self.per_step_ms * 1e6
        return self.ledger.parts[part].share * self.per_step_ms * 1e6 if part in self.ledger.parts else 0.0


class CellFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One cell: what was counted about it, and its arms, no mask first."""

    key: str
    vocab: str
    vocab_size: int
    batch: int
    complexity: int
    states: int | None
    allowed_mean: float | None
    allowed_median: float | None
    arms: list[Arm]

    def arm(self, engine: str) -> Arm | None:
        """The arm of this name."""
        return next((arm for arm in self.arms if arm.engine == engine), None)

    @property
    def free(self) -> Arm:
        """The arm without a mask."""
        return self.arms[0]


class MaskFindings(msgspec.Struct):
    """`results.json`. The first fields are those of one arm: the naive one on the model's own vocabulary.

    Where that was not measured they are those of the first engine of the first cell; `engine` names it.
    """

    vocab_size: int
    per_step_ms_no_mask: float
    per_step_ms_with_mask: float
    ratio: float | None
    engine: str
    ratio_low: float | None
    ratio_high: float | None
    cells: list[CellFinding]
    builds: list[Build]
    curves: list[Curve]
    roofline: list[RooflinePoint]
    ceilings: SweepCeilings | None
    left_out: list[LeftOut]
    notes: list[str]
    rounds: int
    noise: NoiseSummary
    unresolved: str
    invalid: str


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> MaskFindings:
    """The findings.

    Raises:
        InputError: there are no samples, or rounds that do not hold the same steps.
        InvalidMeasurement: a step's parts do not add up to it.
    """
    grid = _held(samples)
    conditions, workload = typed(manifest, Conditions), typed(manifest, Workload)
    about = conditions.cells
    noise = summarise_noise(sample.noise for sample in samples)
    cells = [
        _on_device(_cell(key, about[key], arms, conditions.mark_ns, noise.busy), conditions)
        for key, arms in grid.items()
        if key in about
    ]
    if not cells:
        raise InputError("no cell is in every round; measure again")
    flat, arm = _seed_fields(cells, about)
    taken = [sample for sample in samples if sample.ceilings]
    ceilings = sweep_ceilings([sample.ceilings for sample in taken], [sample.noise for sample in taken])
    lost = [
        LeftOut(about[key].vocab, about[key].batch, about[key].complexity, name, "not in every round")
        for sample in samples
        for key, arms in sample.cells.items()
        for name in arms
        if key in about and name not in grid.get(key, {})
    ]
    return MaskFindings(
        vocab_size=flat.vocab_size,
        per_step_ms_no_mask=flat.free.per_step_ms,
        per_step_ms_with_mask=arm.per_step_ms,
        ratio=arm.ratio,
        engine=arm.engine,
        ratio_low=arm.ratio_ends[0],
        ratio_high=arm.ratio_ends[1],
        cells=cells,
        builds=conditions.builds,
        curves=find_curves(conditions.curves, conditions.predictions, samples),
        roofline=without_exceeded(
            [point for cell in cells for point in _places(cell, about[cell.key], ceilings, workload.dtype)]
        ),
        ceilings=ceilings,
        left_out=[*conditions.left_out, *dict.fromkeys(lost)],
        notes=_notes(conditions, cells),
        rounds=len(samples),
        noise=noise,
        unresolved=_unresolved(cells, samples, conditions.precision),
        invalid="; ".join(_why_invalid(cell) for cell in cells if _why_invalid(cell)),
    )


def _seed_fields(cells: Sequence[CellFinding], about: Mapping[str, AboutCell]) -> tuple[CellFinding, Arm]:
    """The cell and the arm that the first fields of `results.json` are of."""
    naive = ((cell, cell.arm("naive")) for cell in cells if about[cell.key].own)
    return next(((cell, arm) for cell, arm in naive if arm is not None), (cells[0], cells[0].arms[1]))


def _held(samples: Sequence[Sample]) -> dict[str, dict[str, list[ArmRound]]]:
    """Cell -> arm -> its rounds, for what every round holds."""
    require_rounds(samples)
    grid = {
        key: {
            arm: [sample.cells[key][arm] for sample in samples]
            for arm in arms
            if all(arm in sample.cells.get(key, {}) for sample in samples)
        }
        for key, arms in samples[0].cells.items()
    }
    return {key: arms for key, arms in grid.items() if NO_MASK in arms and len(arms) > 1}


def changes_of(arms: Mapping[str, Sequence[ArmRound]], busy: str = "") -> dict[str, Change]:
    """Each engine's step against the one without a mask, Bonferroni over the engines of the cell.

    Args:
        arms: name -> its rounds.
        busy: why wall time gives no verdict; empty where it does.
    """
    totals = {name: _totals(rounds) for name, rounds in arms.items()}
    others = [name for name in arms if name != NO_MASK]
    return {
        name: withhold(paired_change(totals[NO_MASK], totals[name], comparisons=len(others)), busy) for name in others
    }


def _totals(rounds: Sequence[ArmRound]) -> NDArray[np.float64]:
    return np.array([each.plain_ns.mean() for each in rounds])


def resolved_by(samples: Sequence[Sample]) -> Resolved:
    """How narrow the intervals of the ratios are, each as a share of its ratio."""
    changes = [change for arms in _held(samples).values() for change in changes_of(arms).values()]
    widths = [change.half_width / (1 + (change.estimate or 0.0)) for change in changes]
    return Resolved(max(widths, default=inf), min((change.merged_rounds for change in changes), default=0))


def _cell(key: str, about: AboutCell, arms: Mapping[str, list[ArmRound]], mark_ns: float, busy: str) -> CellFinding:
    ledgers = {name: build_ledger("decode", ledger_samples(rounds), mark_ns=mark_ns) for name, rounds in arms.items()}
    if any("mask.fill" not in ledgers[name].parts for name in arms if name != NO_MASK):
        raise InputError(f"a masked arm of {key} has no part mask.fill; restore the file, or measure again")
    changes = changes_of(arms, busy)
    free = ledgers[NO_MASK]
    rows = [_arm(NO_MASK, arms[NO_MASK], free, None, about.batch, len(changes))]
    rows += [
        _arm(name, arms[name], _paired(ledgers[name], free, change), change, about.batch, len(changes))
        for name, change in changes.items()
    ]
    return CellFinding(
        key=key,
        vocab=about.vocab,
        vocab_size=about.vocab_size,
        batch=about.batch,
        complexity=about.complexity,
        states=about.states,
        allowed_mean=about.allowed_mean,
        allowed_median=about.allowed_median,
        arms=rows,
    )


def _on_device(cell: CellFinding, conditions: Conditions) -> CellFinding:
    """The same with what the device does for each arm, and the bound of its mask, where one was used."""
    seen = conditions.on_device.get(cell.key, {})
    about, ceilings = conditions.cells[cell.key], conditions.device_ceilings
    arms = []
    for arm in cell.arms:
        if arm.engine in seen:
            there = seen[arm.engine]
            bound = mask_bound(there, about, ceilings) or msgspec.UNSET
            arms.append(msgspec.structs.replace(arm, on_device=there, device_bound=bound))
        else:
            arms.append(arm)
    return msgspec.structs.replace(cell, arms=arms)


def _paired(ledger: Ledger, free: Ledger, change: Change) -> Ledger:
    """The ledger of a masked arm with the step without marks as the pairs have it: the unmasked one times the ratio."""
    assert free.plain_step_ns is not None  # noqa: S101 - every round has steps without marks
    low, ns, high = (
        None if end is None else free.plain_step_ns * (1 + end)
        for end in (change.ci_low, change.estimate, change.ci_high)
    )
    return msgspec.structs.replace(ledger, plain_step_ns=ns, plain_step_ci_low=low, plain_step_ci_high=high)


def _arm(
    name: str, rounds: Sequence[ArmRound], ledger: Ledger, change: Change | None, batch: int, comparisons: int
) -> Arm:
    assert ledger.plain_step_ns is not None  # noqa: S101 - every round has steps without marks
    low, high = _mask_share_ends(rounds, ledger, comparisons)
    arm = Arm.of(
        change,
        engine=name,
        per_step_ms=ledger.plain_step_ns / 1e6,
        tokens_per_s=batch * 1e9 / ledger.plain_step_ns,
        mask_share=ledger.tree["mask"].share if "mask" in ledger.tree else 0.0,
        mask_share_low=low,
        mask_share_high=high,
        fill=None,
        differing_choices=sum(each.differing for each in rounds) / (2 * len(rounds)),
        ledger=ledger,
    )
    return arm if name == NO_MASK else msgspec.structs.replace(arm, fill=_fill(rounds, arm, comparisons))


def _mask_share_ends(rounds: Sequence[ArmRound], ledger: Ledger, comparisons: int) -> tuple[float | None, float | None]:
    """The interval of the share of all parts of the mask, paired with the step inside each round."""
    if "mask" not in ledger.tree:
        return None, None
    masked = [sum(ns.sum() for part, ns in each.parts.items() if part.startswith("mask.")) for each in rounds]
    steps = [each.step_ns.sum() for each in rounds]
    interval = share_interval(masked, steps, estimate=ledger.tree["mask"].share, comparisons=comparisons)
    return (interval.low, interval.high) if interval else (None, None)


def ledger_samples(rounds: Sequence[ArmRound]) -> LedgerSamples:
    """An arm's rounds as arrays, [rounds, 1 pass, positions].

    Raises:
        InputError: rounds that do not hold the same steps and parts.
    """
    return stack_passes([[each.plain_ns] for each in rounds], [[each] for each in rounds], "steps and parts")


def _fill(rounds: Sequence[ArmRound], arm: Arm, comparisons: int) -> Fill:
    in_place = np.array([each.parts["mask.fill"] for each in rounds])
    hot = np.array([each.hot_fill_ns.mean() for each in rounds])
    change = paired_change(hot, in_place.mean(axis=1), comparisons=comparisons)
    ratio, low, high = (None if end is None else 1 + end for end in (change.estimate, change.ci_low, change.ci_high))
    in_place_us = arm.part_ns("mask.fill") / 1e3
    p99 = percentile(in_place.ravel(), 99)
    return Fill(
        in_place_us=in_place_us,
        in_place_p50_us=arm.ledger.parts["mask.fill"].p50_ns / 1e3,
        in_place_p99_us=None if p99.value is None else p99.value / 1e3,
        hot_us=in_place_us / ratio if ratio else 0.0,
        in_place_over_hot=ratio or 0.0,
        over_hot_low=low,
        over_hot_high=high,
    )


def _places(cell: CellFinding, about: AboutCell, ceilings: SweepCeilings | None, dtype: str) -> list[RooflinePoint]:
    """The head and the masks of the naive walk and the table on the roofline, for batches of one on the cpu."""
    if cell.batch != 1 or cell.free.on_device is not msgspec.UNSET:
        return []
    counted = works(about)
    points = []
    for engine, part in PLACED:
        arm = cell.arm(engine)
        ns = arm.part_ns(part) if arm else 0.0
        if ns and part in counted:
            points.append(place(cell.key, engine, part, ns=ns, work=counted[part], ceilings=ceilings, dtype=dtype))
    return points


def _notes(conditions: Conditions, cells: Sequence[CellFinding]) -> list[str]:
    notes = []
    if conditions.only_own:
        notes.append(
            f"Only the model's own vocabulary: larger ones need the grammar extra; {how_to_install('grammar')}."
        )
    if any(not about.own for about in conditions.cells.values()):
        notes.append(
            "Heads over other vocabularies than the model's own have random rows: the cost of the product does not "
            "depend on their values, and the texts are fixed."
        )
    differing = sorted({arm.engine for cell in cells for arm in cell.arms if arm.differing_choices} - set(EXACT))
    notes += [
        f"{name} would have chosen other tokens at some steps: its masks differ from the definition "
        "(see docs/automata.md)."
        for name in differing
        if name != NO_MASK
    ]
    return notes


def _why_invalid(cell: CellFinding) -> str:
    """A ledger of rounds too few for an interval is not resolved rather than invalid: one burst would decide."""
    settled = [arm for arm in cell.arms if arm.ledger.overhead_ci_low is not None]
    reasons = [f"{arm.engine}: {arm.ledger.invalid}" for arm in settled if arm.ledger.invalid]
    reasons += [
        f"{arm.engine} chose tokens that the definition does not ({short(arm.differing_choices)} a pass)"
        for arm in cell.arms
        if arm.differing_choices and arm.engine in (*EXACT, NO_MASK)
    ]
    return f"{cell.key}: {'; '.join(reasons)}" if reasons else ""


def _unresolved(cells: Sequence[CellFinding], samples: Sequence[Sample], precision: float | None) -> str:
    without = [f"{arm.engine} at {cell.key}" for cell in cells for arm in cell.arms[1:] if arm.ci_low is None]
    shown = ", ".join(without[:3]) + (f" and {len(without) - 3} more" if len(without) > 3 else "")
    missing = f"no interval for {shown}: {too_few(len(samples))}" if without else ""
    return why_unresolved(missing, resolved_by(samples).half_width, precision)
