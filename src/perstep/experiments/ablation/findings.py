"""What an ablation found: effects, the same parts timed in place, and where the two disagree.

A pure function of manifest and samples. The time saved by taking a part away and the time spent inside it are two
different questions; they agree unless a part makes others cost more or less. Law "measured and expected are different
columns": measured and derived stand in columns of their own.
"""

from collections.abc import Sequence
from math import inf

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.ablation.cells import ALL, NONE, Design, Effects, design, effects
from perstep.experiments.ablation.reasons import Elsewhere, Spent, agreement, elsewhere
from perstep.experiments.ablation.samples import ColdCell, Conditions, InPlace, Sample
from perstep.experiments.columns import require_rounds, why_unresolved
from perstep.experiments.conditions import typed
from perstep.machine import NoiseSummary, summarise_noise
from perstep.measure import RESIDUAL, Resolved
from perstep.runs import Manifest, refuse_unlike
from perstep.stats import (
    Effect,
    fit_cost,
    merge_until_independent,
    merged_interval,
    paired_change,
    share_interval,
)


class Growth(msgspec.Struct, kw_only=True):
    """How a part's cost in place depends on the tokens in the context.

    A burst that falls on one step counts in the part's mean and in no median at a single context. So all of these are
    multiplied by one factor, stated, which brings their mean over the steps to the part's time in place.

    Attributes:
        context: tokens in the context, ascending, each once.
        ns: median over rounds at each, where several steps have the same context their mean; times `scale_factor`.
        scale_factor: the part's time in place over the mean of those medians.
        ns_per_token: slope of a straight line, the median over rounds with its interval.
        fit: `linear`, `quadratic`, or empty where there are too few contexts to judge a fit.
        coefficients: of that fit, constant first, in nanoseconds.
        held_out_error: its largest relative error at contexts it did not see; None without a fit.
    """

    context: list[int]
    ns: list[float]
    scale_factor: float
    ns_per_token: Effect
    fit: str
    coefficients: list[float]
    held_out_error: float | None


class PartFindings(msgspec.Struct, kw_only=True):
    """A part, taken away and timed in place.

    Attributes:
        kind: `processor` or `criterion`.
        in_ledger: its name in a ledger.
        in_place: nanoseconds a step spent in it, all parts present: its share of the marked step, times that step.
        in_place_share: of the marked step.
        agreement: a sentence: whether this is the time saved by taking it away, and if not, why.
        agrees: whether it is; None where the intervals do not tell.
        syncs_per_step: waits for a device that it causes in a decode step (on a CPU: that it would cause).
        changed_choices: choices that are others without it, in the same contexts.
        growth: its cost against the context.
    """

    kind: str
    in_ledger: str
    in_place: Effect
    in_place_share: float
    agreement: str
    agrees: bool | None
    syncs_per_step: float
    changed_choices: int
    growth: Growth


class AblationFindings(msgspec.Struct, kw_only=True):
    """`results.json`.

    Attributes:
        effects: what the parts cost by taking them away; nanoseconds a step, a prefill counted as one.
        parts: each of them in place.
        elsewhere: other parts whose time in place differs with all and without any of the parts.
        overhead: of the marks: marked over unmarked calls with all parts, less 1.
        forwards_per_pass: that every cell makes.
        pass_ns: cell -> one pass over all calls: derived, nanoseconds a step times forwards.
        cold: cell -> its first pass; None without a compiler.
        choices: in one pass.
    """

    effects: Effects
    parts: dict[str, PartFindings]
    elsewhere: list[Elsewhere]
    overhead: Effect
    forwards_per_pass: int
    pass_ns: dict[str, float]
    cold: dict[str, ColdCell] | None
    choices: int
    noise: NoiseSummary
    notes: list[str]
    unresolved: str
    invalid: str


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> AblationFindings:
    """What the samples say.

    Raises:
        InputError: there are no samples, or they do not hold the same cells and parts.
    """
    c = typed(manifest, Conditions)
    plan, costs = _costs(c, samples)
    noise = summarise_noise(s.noise for s in samples)
    estimates = effects(plan, costs, noise.busy)
    spent = _spent(samples)
    others = elsewhere(spent[ALL], spent[NONE], set(c.in_ledger.values()))
    parts = {name: _part(name, c, estimates, spent[ALL], others) for name in plan.names}
    passes = c.turns_per_round / c.calls
    overhead = paired_change(
        np.array([s.ns[ALL] / passes for s in samples]),
        np.array([s.in_place[ALL].call_ns for s in samples], np.float64),
    )
    return AblationFindings(
        effects=estimates,
        parts=parts,
        elsewhere=others,
        overhead=Effect(overhead.estimate or 0.0, overhead.ci_low, overhead.ci_high),
        forwards_per_pass=c.forwards[ALL],
        pass_ns={label: cell.ns_per_step * c.steps_per_pass for label, cell in estimates.cells.items()},
        cold=c.cold,
        choices=c.choices,
        noise=noise,
        notes=_notes(c, estimates, others),
        unresolved=_unresolved(c.precision, estimates),
        invalid=_invalid(samples),
    )


def resolved(c: Conditions, samples: Sequence[Sample]) -> Resolved:
    """The widest interval of the time that a part saves, as a share of the step with all parts."""
    plan, costs = _costs(c, samples)
    estimates = effects(plan, costs)
    return Resolved(_half_width(estimates), estimates.rounds // estimates.merged_by)


def _half_width(estimates: Effects) -> float:
    step_ns = estimates.cells[ALL].ns_per_step
    widths = [_width(part.leave_one_out) for part in estimates.parts.values()]
    return max(widths) / 2 / step_ns


def _width(effect: Effect) -> float:
    return inf if effect.ci_low is None or effect.ci_high is None else effect.ci_high - effect.ci_low


def _costs(c: Conditions, samples: Sequence[Sample]) -> tuple[Design, dict[str, NDArray[np.float64]]]:
    """By cell, [rounds] nanoseconds a step."""
    require_rounds(samples)
    plan = design(list(c.parts))
    steps = c.turns_per_round / c.calls * c.steps_per_pass
    for cell in plan.cells:
        if any(cell not in s.ns for s in samples):
            raise InputError(f"a round lacks the cell {cell!r}; restore the file, or measure again")
    return plan, {cell: np.array([s.ns[cell] for s in samples], np.float64) / steps for cell in plan.cells}


def _spent(samples: Sequence[Sample]) -> dict[str, Spent]:
    """By marked cell, the time spent in each part: [rounds, steps]."""
    for cell in (ALL, NONE):
        marked = (s.in_place.get(cell) for s in samples)
        refuse_unlike(({} if one is None else {"steps": one.step_ns, **one.parts} for one in marked), "parts and steps")
    return {cell: _stack([s.in_place[cell] for s in samples]) for cell in (ALL, NONE)}


def _stack(passes: Sequence[InPlace]) -> Spent:
    step_ns = np.stack([p.step_ns for p in passes])
    parts = {name: np.stack([p.parts[name] for p in passes]) for name in passes[0].parts}
    return Spent(step_ns, {**parts, RESIDUAL: step_ns - sum(parts.values(), start=np.zeros_like(step_ns))})


def _part(
    name: str,
    c: Conditions,
    estimates: Effects,
    spent: Spent,
    others: list[Elsewhere],
) -> PartFindings:
    part = c.in_ledger[name]
    if part not in spent.parts:
        raise InputError(f"no marked call entered {part}, which is where {name} should be; measure again")
    # Whole rounds, as the cells are: a disturbed step counts here as it does there, so that the two can be compared.
    part_ns, steps_ns = spent.parts[part].mean(axis=1), spent.step_ns.mean(axis=1)
    share, step_ns = float(np.median(part_ns / steps_ns)), float(np.median(steps_ns))
    interval = share_interval(part_ns, steps_ns, estimate=share, comparisons=len(c.parts))
    in_place = Effect(
        share * step_ns,
        None if interval is None else interval.low * step_ns,
        None if interval is None else interval.high * step_ns,
    )
    syncs = c.syncs_per_step.get(part, 0.0)
    without = design(list(c.parts)).without(name)
    agrees, sentence = agreement(
        name,
        estimates.parts[name].leave_one_out,
        in_place,
        step_ns=estimates.cells[ALL].ns_per_step,
        syncs=syncs if c.device != "cpu" else 0.0,
        cold=c.cold,
        without=without,
        others=others,
    )
    return PartFindings(
        kind=c.parts[name],
        in_ledger=part,
        in_place=in_place,
        in_place_share=share,
        agreement=sentence,
        agrees=agrees,
        syncs_per_step=syncs,
        changed_choices=c.changed_choices[without],
        growth=_growth(np.asarray(c.context), spent.parts[part].astype(np.float64), in_place.estimate),
    )


def _growth(context: NDArray[np.int64], x: NDArray[np.float64], in_place_ns: float) -> Growth:
    """A part's cost against the context, from [rounds, steps], and what it takes in place a step."""
    sizes, index, steps = np.unique(context, return_inverse=True, return_counts=True)
    by_size = np.stack([x[:, index == i].mean(axis=1) for i in range(len(sizes))], axis=1)
    mean_ns = float(np.average(np.median(by_size, axis=0), weights=steps))
    scale_factor = in_place_ns / mean_ns if mean_ns else 1.0
    by_size *= scale_factor
    middle = np.median(by_size, axis=0)
    slope = Effect(0.0, None, None)
    if len(sizes) > 1:
        merged = merge_until_independent(by_size, lambda costs: _slopes(sizes, costs))
        interval = merged_interval(merged)
        low, high = (None, None) if interval is None else (interval.low, interval.high)
        slope = Effect(float(np.median(_slopes(sizes, by_size))), low, high)
    try:
        fit = fit_cost(sizes, middle)
    except InputError:  # too few contexts below half the largest
        return Growth(
            context=sizes.tolist(),
            ns=middle.tolist(),
            scale_factor=scale_factor,
            ns_per_token=slope,
            fit="",
            coefficients=[],
            held_out_error=None,
        )
    chosen = fit.chosen
    return Growth(
        context=sizes.tolist(),
        ns=middle.tolist(),
        scale_factor=scale_factor,
        ns_per_token=slope,
        fit="quadratic" if len(chosen.coefficients) == 3 else "linear",
        coefficients=list(chosen.coefficients),
        held_out_error=max(chosen.interleaved_error, chosen.beyond_error),
    )


def _slopes(sizes: NDArray[np.int64], costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The slope of each row of costs [rounds, sizes]: the median over pairs half of the sizes apart.

    One disturbed step does not turn it, as it would a line of least squares.

    Source: Theil, A rank-invariant method of linear and polynomial regression analysis (1950), the incomplete method.
    """
    apart = (len(sizes) + 1) // 2
    rise: NDArray[np.float64] = costs[:, apart:] - costs[:, :-apart]
    return np.asarray(np.median(rise / (sizes[apart:] - sizes[:-apart]), axis=1), dtype=np.float64)


def _notes(c: Conditions, estimates: Effects, others: list[Elsewhere]) -> list[str]:
    notes = []
    changed = {cell: count for cell, count in c.changed_choices.items() if count}
    if changed:
        worst = max(changed, key=changed.__getitem__)
        notes.append(
            f"In the same contexts `{worst}` would have made {changed[worst]} of {plural(c.choices, 'choice')} "
            "differently from the call with all parts; the trace was forced in every cell, so all made the same "
            "forwards. A part whose cost depends on the values of the scores (a nucleus) may cost more or less "
            "without the trace."
        )
    notes += [f"{other.sentence()}." for other in others]
    if not estimates.interaction and len(c.parts) > 1:
        notes.append(
            "With more than four parts, each was left out and added alone; a share is given only where both agree."
        )
    if c.compiled_again_when_warm:
        notes.append(
            f"During the warm rounds {plural(c.compiled_again_when_warm, 'frame was', 'frames were')} compiled again."
        )
    if not c.warm_up.steady:
        notes.append(f"The warm-up ended without reaching a steady state: {c.warm_up.reason}.")
    return [*notes, *c.notes]


def _unresolved(asked: float | None, estimates: Effects) -> str:
    half = _half_width(estimates)
    missing = f"no intervals: {estimates.reason}" if half == inf else ""
    return why_unresolved(missing, half, asked)


def _invalid(samples: Sequence[Sample]) -> str:
    cells = [cell for cell in samples[0].unsteady if any(s.unsteady[cell] for s in samples)]
    if not cells:
        return ""
    count = sum(s.unsteady[cells[0]] for s in samples)
    return (
        f"`{cells[0]}` made {plural(count, 'choice')} that it did not make before in the same contexts: a part keeps "
        "state between calls, or the model is not deterministic"
    )
