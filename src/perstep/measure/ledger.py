"""The ledger: named parts that add up to the measured step.

Totals are integers over all instrumented steps and add up exactly (law "parts add up"). A row shows time per step: each
position of the trace has its median over rounds, and a row is the mean of these medians over positions. Medians do not
add, so one scale factor multiplies all rows to make them add up to the step (law "medians do not add").

The step to quote is the uninstrumented one, measured in the same rounds. `overhead` is the instrumented over the
uninstrumented step, less 1 (law "the observer is measured"). Both steps are normalised by the speed of the same
uninstrumented passes, so their ratio is 1 + the overhead, or a note says that it is not. Notes and `largest` state what
the rounds resolve, and say so where they do not resolve it.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import inf

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._shown import Shown
from perstep.errors import InvalidMeasurement
from perstep.measure.clock import Clock
from perstep.measure.pieces import RoundTotals, round_totals
from perstep.measure.recorder import Recorder
from perstep.measure.rounds import Resolved
from perstep.stats import (
    LedgerEstimate,
    ShareInterval,
    ledger_estimate,
    paired_change,
    paired_step_estimates,
    rounds_needed,
    share_interval,
)

MARKS_MATTER = 0.05
"""A part is flagged if its marks make up more than this share of it."""
OVERHEAD_SAID = 1.05
"""Above this factor a note says that the marks slowed the step down."""
MEDIANS_MAY_EXCEED = 0.01
"""The rows' medians together may exceed the step's median by this share of it; beyond that the ledger is invalid."""
SCALE_SAID = 1.05
"""A note states the scale factor above this value."""
RESIDUAL_SAID = 0.05
"""Above this share of the step the first note states the residual."""
OVERHEAD_INVALID = 1.5
"""Above this factor the ledger is invalid, unless its interval includes 1."""
STEPS_DIFFER = 0.005
"""The ratio of the two steps shown has an error of its own. Where it lies outside the interval of the rounds' by at
most this much, the interval is widened to include it. Beyond that a note says that the two steps differ."""
FORWARD = ("embed", "norm", "attn", "kv.append", "mixer", "mlp", "moe", "lm_head", "encoder", "vision", "forward")
"""The parts of the model's forward: a part's first word, or its name without the layer."""
COST_UNKNOWN = "What the marks cost is not resolved: the rounds are too few, or autocorrelated; measure longer."
NOT_TO_BE_COMPARED = "The two steps shown are not to be compared."


@dataclass(frozen=True)
class LedgerSamples:
    """The measured steps of one kind: integers in nanoseconds, [rounds, passes of the arm in a round, positions].

    Attributes:
        plain_ns: uninstrumented steps.
        step_ns: instrumented steps.
        parts: part -> its exclusive time in each instrumented step.
        residual_ns: the unattributed time in each instrumented step.
        marks_per_step: part -> how often it is entered in a step.
        pieces: 0 where the first axis counts rounds. Where marked and plain steps took turns inside calls, a pass is
            two calls in which each position is marked once and plain once; if there are few, each pass is cut into so
            many pieces of an even number of consecutive positions, and each piece is a round (`in_pieces`).
    """

    plain_ns: NDArray[np.int64]
    step_ns: NDArray[np.int64]
    parts: dict[str, NDArray[np.int64]]
    residual_ns: NDArray[np.int64]
    marks_per_step: dict[str, float]
    pieces: int = 0


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A named interval of a step, exclusive of every other.

    Attributes:
        ns_total: over all instrumented steps, exact.
        ns_per_step: mean over positions of the medians over rounds, times the scale factor (`Ledger.scale_factor`).
        p50_ns: median over all instrumented steps.
        share: `ns_per_step / step_ns` of this ledger.
        ci_low: lower end of the interval of `ns_per_step`. It is that of the part's share of its own step, paired
            within the round so that drift of the machine cancels. None when there are too few rounds.
        ci_high: its upper end.
        marks_per_step: how often the part is entered in a step.
        marks_share: the cost of the marks inside the part, as a share of it.
        syncs_per_step: how often the part made the host wait for the device in a step; None where that was not counted.
        uploads_per_step: copies to the device that the host waited for; UNSET where they were not counted.
    """

    ns_total: int
    ns_per_step: float
    p50_ns: float
    share: float
    ci_low: float | None
    ci_high: float | None
    marks_per_step: float
    marks_share: float
    syncs_per_step: float | None = None
    uploads_per_step: float | msgspec.UnsetType = msgspec.UNSET

    @property
    def ns(self) -> float:
        """Short for `ns_per_step`."""
        return self.ns_per_step


class Sum(msgspec.Struct, frozen=True, kw_only=True):
    """A sum of parts, such as `attn` or `forward`. Its interval is computed like that of a part."""

    ns_total: int
    ns_per_step: float
    share: float
    ci_low: float | None = None
    ci_high: float | None = None

    @property
    def ns(self) -> float:
        """Short for `ns_per_step`."""
        return self.ns_per_step


class Ledger(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """Parts + residual = step, for one kind of step.

    Attributes:
        kind: `prefill` or `decode`.
        forwards: executed forwards of this kind in one pass over the trace, or in all watched calls together.
        steps: number of instrumented steps in the totals.
        rounds: balanced rounds, the unit of replication; in watched calls, groups with as many marked as plain steps.
        merged_rounds: independent values that the intervals use: autocorrelated rounds were merged.
        step_ns_total: sum over all instrumented steps.
        residual_ns_total: unattributed time in them.
        plain_step_ns: the uninstrumented step, the one to quote; None where a watched call had none.
        plain_step_ci_low: lower end of its interval, or None.
        plain_step_ci_high: upper end of its interval, or None.
        step_ns: the instrumented step, of which the parts are shares.
        residual_ns: the unattributed time per step, estimated like a part.
        residual_share: its share of the instrumented step.
        overhead: instrumentation overhead, `step_ns / plain_step_ns - 1`: 0.029 is 2.9 %. If its interval excludes that
            ratio, the median of the rounds, with a note. None without rounds.
        overhead_ci_low: lower end of the interval of the rounds' paired ratios minus 1, widened to it; or None.
        overhead_ci_high: its upper end, or None.
        parts: by name, in the order of the step.
        tree: sums of parts by first word; the parts of the forward are also in the sum `forward`.
        invalid: why the ledger is invalid, such as an overhead above 50 % whose interval excludes 0; or empty.
        notes: warnings, as sentences.
        syncs_per_step: host syncs per step: how often the host waited for the device; None if not counted.
        uploads_per_step: copies to the device that the host waited for; UNSET, and not stored, if not counted.
        scale_factor: all rows were multiplied by this factor, so they add up to the step.
        largest: the part with the largest estimate, then the parts not resolved as smaller; one name is resolved.
        largest_outside: the same among the parts outside the forward.
    """

    kind: str
    forwards: int
    steps: int
    rounds: int
    merged_rounds: int
    step_ns_total: int
    residual_ns_total: int
    plain_step_ns: float | None
    plain_step_ci_low: float | None
    plain_step_ci_high: float | None
    step_ns: float
    residual_ns: float
    residual_share: float
    overhead: float | None
    overhead_ci_low: float | None
    overhead_ci_high: float | None
    parts: dict[str, Part]
    tree: dict[str, Sum]
    invalid: str = ""
    notes: list[str] = []
    syncs_per_step: float | None = None
    uploads_per_step: float | msgspec.UnsetType = msgspec.UNSET
    scale_factor: float = 1.0
    largest: list[str] = []
    largest_outside: list[str] = []

    def resolved(self) -> Resolved:
        """The half-width of the widest interval shown, as a fraction of the step; inf while any interval is missing."""
        intervals = [(self.overhead_ci_low, self.overhead_ci_high, 1.0)]
        intervals += [(part.ci_low, part.ci_high, self.step_ns) for part in self.parts.values()]
        widths = [inf if low is None or high is None else (high - low) / 2 / unit for low, high, unit in intervals]
        return Resolved(max(widths), self.merged_rounds)


def build_ledger(kind: str, samples: LedgerSamples, *, mark_ns: float) -> Ledger:
    """The ledger of one kind of step.

    Args:
        kind: `prefill` or `decode`.
        samples: at least one round.
        mark_ns: the cost of one mark, from `measure_mark_ns`.

    Raises:
        InvalidMeasurement: parts and residual do not add up to the step, one is negative, or a step took no time.
    """
    check_sums(kind, samples)
    shares = ledger_estimate(_rows(samples.step_ns), {name: _rows(ns) for name, ns in samples.parts.items()})
    plain_ns, step_ns = paired_step_estimates(*_side_by_side(samples))
    ledger = close_ledger(
        kind,
        samples,
        estimate=shares.at(step_ns),
        plain_ns=plain_ns,
        rounds=round_totals(samples.plain_ns, samples.step_ns, samples.parts, samples.pieces),
        mark_ns=mark_ns,
        forwards=samples.step_ns.shape[2],
    )
    if ledger.overhead is None:
        raise InvalidMeasurement(
            f"the instrumentation overhead of the {kind} step is unknown: no round has both kinds of step"
        )
    return ledger


def close_ledger(
    kind: str,
    samples: LedgerSamples,
    *,
    estimate: LedgerEstimate,
    plain_ns: float | None,
    rounds: RoundTotals,
    mark_ns: float,
    forwards: int,
) -> Ledger:
    """Complete a ledger from given estimates: add totals, intervals, sums, notes and reasons why it is invalid.

    Args:
        kind: `prefill` or `decode`.
        samples: all steps, for the totals; of any shape.
        estimate: the step and its parts, scaled so that they add up.
        plain_ns: the uninstrumented step, or None if there was none; it is given where there is a round.
        rounds: the input of the intervals; without rounds these are None.
        mark_ns: the cost of one mark.
        forwards: number of executed forwards.
    """
    intervals = {
        name: _interval(ns, rounds, estimate.share(name), len(samples.parts)) for name, ns in rounds.parts_ns.items()
    }
    parts = {name: _part(name, samples, estimate, interval, mark_ns) for name, interval in intervals.items()}
    alone = replace(rounds, step_ns=np.ones(len(rounds.plain_ns)))
    plain = None if plain_ns is None else _interval(rounds.plain_ns, alone, plain_ns, 1)
    overhead = _overhead(rounds, estimate.step_ns, plain_ns)
    residual_share = estimate.residual_ns / estimate.step_ns
    words = f"{residual_share:.1%} of the {kind} step is unattributed: no part covers it."
    unattributed = [words] if residual_share > RESIDUAL_SAID else []
    merged = [overhead.merged_rounds]
    merged += [i.rounds // i.merged_by for i in intervals.values() if i is not None]
    return Ledger(
        kind=kind,
        forwards=forwards,
        steps=samples.step_ns.size,
        rounds=len(rounds.step_ns),
        merged_rounds=min(merged),
        step_ns_total=int(samples.step_ns.sum()),
        residual_ns_total=int(samples.residual_ns.sum()),
        plain_step_ns=plain_ns,
        plain_step_ci_low=plain.low if plain else None,
        plain_step_ci_high=plain.high if plain else None,
        step_ns=estimate.step_ns,
        residual_ns=estimate.residual_ns,
        residual_share=residual_share,
        overhead=None if overhead.ratio is None else overhead.ratio - 1,
        overhead_ci_low=None if overhead.low is None else overhead.low - 1,
        overhead_ci_high=None if overhead.high is None else overhead.high - 1,
        parts=parts,
        tree=_tree(parts, rounds, estimate.step_ns),
        invalid=_why_invalid(overhead, estimate),
        notes=[*unattributed, *overhead.notes(), *_notes(parts, estimate.scale_factor)],
        scale_factor=estimate.scale_factor,
        largest=_largest(parts, rounds),
        largest_outside=_largest({name: p for name, p in parts.items() if not belongs(name, FORWARD)}, rounds),
    )


def _largest(parts: dict[str, Part], rounds: RoundTotals) -> list[str]:
    """The part with the largest estimate, then the parts that the rounds do not resolve as smaller."""
    ranked = sorted(parts, key=lambda name: -parts[name].ns_per_step)
    if not ranked:
        return []
    low, in_rounds, others = parts[ranked[0]].ci_low, rounds.parts_ns[ranked[0]], ranked[1:]

    def is_smaller(name: str) -> bool:
        high = parts[name].ci_high
        if low is not None and high is not None and high < low:
            return True
        return _is_smaller_in_rounds(rounds.parts_ns[name], in_rounds, len(others))

    return [ranked[0], *(name for name in others if not is_smaller(name))]


def _is_smaller_in_rounds(part_ns: NDArray[np.float64], top_ns: NDArray[np.float64], comparisons: int) -> bool:
    """Whether the interval of a part's paired ratio to the largest part lies below 1.

    Autocorrelated rounds may have no interval. Then the part must be smaller in every round, and the rounds must be as
    many as an interval needs.
    """
    if len(part_ns) < rounds_needed(comparisons):
        return False
    change = paired_change(top_ns, part_ns, comparisons=comparisons)
    return bool((part_ns < top_ns).all()) if change.ci_high is None else change.ci_high < 0


@dataclass(frozen=True)
class _Overhead:
    """What the marks cost: the ratio of the instrumented to the uninstrumented step.

    Attributes:
        ratio: `shown`, or the median of the rounds' ratios where their interval does not hold it; None if unknown.
        low: lower end of the interval of the rounds' ratios, or None.
        high: its upper end.
        merged_rounds: independent values behind the interval.
        shown: the ratio of the two steps that the ledger shows; None where it shows only one.
    """

    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    merged_rounds: int = 0
    shown: float | None = None

    @property
    def is_sure(self) -> bool:
        """Whether the interval shows that the marks made the step longer."""
        return self.low is not None and self.low > 1

    def notes(self) -> list[str]:
        """The notes about the marks. Without an interval no factor is named."""
        if self.ratio is None or self.low is None or self.high is None:
            return [COST_UNKNOWN if self.shown is None else f"{COST_UNKNOWN} {NOT_TO_BE_COMPARED}"]
        said = []
        if self.ratio > OVERHEAD_SAID:
            what = (
                f"The instruments made the step {self.ratio:.3f} times as long"
                if self.is_sure
                else f"Instrumented steps took {self.ratio:.3f} times as long, which may be chance"
            )
            said.append(f"{what}; trust the uninstrumented step, and shares only roughly.")
        if self.shown is not None and self.shown != self.ratio:
            said.append(
                f"The two steps shown differ by more than the marks explain: the instrumented one is {self.shown:.3f}"
                f" times the uninstrumented one, in the median round it was {self.ratio:.3f} times, and the interval of"
                " that ratio excludes the first one. The machine was faster for one kind of step; measure longer."
            )
        return said


def _overhead(rounds: RoundTotals, step_ns: float, plain_ns: float | None) -> _Overhead:
    """The ratio of the two steps, with the interval of the rounds' paired ratios."""
    shown = None if plain_ns is None else step_ns / plain_ns
    if shown is None or not len(rounds.step_ns):
        return _Overhead(shown=shown)
    change = paired_change(rounds.plain_ns, rounds.step_ns)
    if change.estimate is None or change.ci_low is None or change.ci_high is None:
        median = None if change.estimate is None else 1 + change.estimate
        return _Overhead(median, merged_rounds=change.merged_rounds, shown=shown)
    low, high = 1 + change.ci_low, 1 + change.ci_high
    if low - STEPS_DIFFER <= shown <= high + STEPS_DIFFER:
        return _Overhead(shown, min(low, shown), max(high, shown), change.merged_rounds, shown)
    return _Overhead(1 + change.estimate, low, high, change.merged_rounds, shown)


def _interval(
    part_ns: NDArray[np.float64], rounds: RoundTotals, estimate: float, comparisons: int
) -> ShareInterval | None:
    if not len(rounds.step_ns):
        return None
    return share_interval(
        part_ns, rounds.step_ns, estimate=estimate, comparisons=comparisons, with_median=rounds.seldom
    )


def measure_mark_ns(clock: Clock, marks: int = 1000, repeats: int = 15) -> float:
    """The cost of one mark in nanoseconds: the median over repeats of many marks in a row."""
    costs = []
    for _ in range(repeats):
        recorder = Recorder(clock)
        mark = recorder.mark
        recorder.begin()
        for _ in range(marks):
            mark("x")
        recorder.end()
        costs.append(recorder.steps().parts["x"][0] / marks)
    return float(np.median(costs))


def _side_by_side(samples: LedgerSamples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Uninstrumented and instrumented steps, [rows, positions]; row i of both was measured at about the same time.

    A row is a pass where both arms have equally many passes in a round, otherwise the mean of a round.
    """
    plain, step = samples.plain_ns.astype(np.float64), samples.step_ns.astype(np.float64)
    if plain.shape != step.shape:
        return plain.mean(axis=1), step.mean(axis=1)
    return plain.reshape(-1, plain.shape[-1]), step.reshape(-1, step.shape[-1])


def _rows(ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """[rounds, passes, positions] → [rounds * passes, positions]: every pass measures each position once."""
    return ns.reshape(-1, ns.shape[-1])


def check_sums(kind: str, samples: LedgerSamples) -> None:
    """Check every single step: parts and residual add up to it, and none of them is negative.

    Raises:
        InvalidMeasurement: the check fails.
    """
    columns = {**samples.parts, "residual": samples.residual_ns}
    for name, ns in columns.items():
        if (ns < 0).any():
            raise InvalidMeasurement(f"{name} is negative in a {kind} step; the samples are damaged")
    if not np.array_equal(sum(columns.values()), samples.step_ns):
        raise InvalidMeasurement(f"parts and residual of a {kind} step do not add up to it; the samples are damaged")
    if not (samples.step_ns.all() and samples.plain_ns.all()):
        raise InvalidMeasurement(f"a {kind} step took no time; the clock is too coarse for it")


def _part(
    name: str, samples: LedgerSamples, estimate: LedgerEstimate, interval: ShareInterval | None, mark_ns: float
) -> Part:
    ns = samples.parts[name]
    ns_per_step = estimate.parts_ns[name]
    marks = samples.marks_per_step[name]
    return Part(
        ns_total=int(ns.sum()),
        ns_per_step=ns_per_step,
        p50_ns=float(np.median(ns)),
        share=estimate.share(name),
        ci_low=interval.low * estimate.step_ns if interval else None,
        ci_high=interval.high * estimate.step_ns if interval else None,
        marks_per_step=marks,
        marks_share=min(marks * mark_ns / ns_per_step, 1.0) if ns_per_step else 0.0,
    )


_SUMS = {
    "forward": FORWARD,
    "attn": ("attn", "kv.append"),
    "mask": ("mask",),
    "logits": ("logits",),
    "stop": ("stop",),
}


def belongs(part: str, roots: Collection[str]) -> bool:
    """Whether a part's first word, or its name without the layer, is one of `roots`.

    >>> belongs("attn.core/3", FORWARD), belongs("kv.reorder", FORWARD)
    (True, False)
    """
    name = part.split("/")[0]
    return name in roots or name.split(".")[0] in roots


def _tree(parts: dict[str, Part], rounds: RoundTotals, step_ns: float) -> dict[str, Sum]:
    """Sums over parts by the first word of their names."""
    tree = {}
    for name, roots in _SUMS.items():
        inside = {part_name: part for part_name, part in parts.items() if belongs(part_name, roots)}
        if inside:
            ns = sum(part.ns_per_step for part in inside.values())
            in_rounds = np.sum([rounds.parts_ns[part_name] for part_name in inside], axis=0)
            interval = _interval(in_rounds, rounds, ns / step_ns, len(parts))
            tree[name] = Sum(
                ns_total=sum(part.ns_total for part in inside.values()),
                ns_per_step=ns,
                share=ns / step_ns,
                ci_low=interval.low * step_ns if interval else None,
                ci_high=interval.high * step_ns if interval else None,
            )
    return tree


def _why_invalid(overhead: _Overhead, estimate: LedgerEstimate) -> str:
    if overhead.ratio is not None and overhead.ratio > OVERHEAD_INVALID:
        if overhead.is_sure:
            return f"the instruments made the step {overhead.ratio:.2f} times as long; take fewer marks"
        if overhead.low is None:
            return (
                f"instrumented steps took more than {OVERHEAD_INVALID} times as long as the others, in too few"
                " rounds to tell why; measure more rounds, or take fewer marks"
            )
    excess_ns = estimate.step_ns / estimate.scale_factor - estimate.step_ns
    if excess_ns > MEDIANS_MAY_EXCEED * estimate.step_ns:
        return f"the medians of the parts exceed that of the step by {excess_ns:.0f} ns; measure more rounds"
    return ""


def _notes(parts: dict[str, Part], scale_factor: float) -> list[str]:
    notes = []
    if scale_factor > SCALE_SAID:
        notes.append(
            f"Medians do not add where bursts fall on different parts: those of the rows are {1 / scale_factor:.0%} of"
            f" the step's, and every row is multiplied by {scale_factor:.2f} so that they add up to it."
        )
    flagged = [name for name, part in parts.items() if part.marks_share > MARKS_MATTER]
    sure = [name for name in flagged if _marks_matter_surely(parts[name])]
    for names, verb in ((sure, "make"), ([name for name in flagged if name not in sure], "may make")):
        if names:
            notes.append(f"Marks {verb} up more than {MARKS_MATTER:.0%} of: {', '.join(names)}.")
    return notes


def _marks_matter_surely(part: Part) -> bool:
    """Whether the marks exceed the limit even if the part is as long as its interval allows."""
    return part.ci_high is not None and part.marks_share * part.ns_per_step > MARKS_MATTER * part.ci_high
