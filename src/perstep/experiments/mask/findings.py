"""What the samples of `mask` say: a pure function of manifest and samples.

An arm's step is the mean over positions of the medians over rounds, without marks; its ratio to the step without a
mask is the median of the rounds' paired ratios, so the two need not divide exactly. Arms and cells that are not in
every round are left out and listed.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError, how_to_install
from perstep.experiments.mask.arms import NO_MASK, OURS
from perstep.experiments.mask.building import Build
from perstep.experiments.mask.curve_findings import Curve, find_curves
from perstep.experiments.mask.roofline import BYTES_PER_LOGIT, BYTES_PER_LOOKUP, Place, place
from perstep.experiments.mask.samples import ArmRound, Sample
from perstep.machine import NoiseSummary, summarise_noise
from perstep.measure import Ledger, LedgerSamples, Resolved, build_ledger
from perstep.report.format import plural
from perstep.runs import Manifest
from perstep.stats import Change, paired_change, percentile, step_estimate


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """Fills of one arm in microseconds a step (all rows of the batch), in place between forwards and hot.

    Attributes:
        in_place_us: mean over positions of the medians over rounds.
        in_place_p50_us: median over all steps.
        in_place_p99_us: None with fewer than 1,000 steps.
        hot_us: the same work with nothing of the model between it.
        in_place_over_hot: their ratio.
    """

    in_place_us: float
    in_place_p50_us: float
    in_place_p99_us: float | None
    hot_us: float
    in_place_over_hot: float


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of a cell.

    Attributes:
        engine: its name; `no mask` for none.
        per_step_ms: the step without marks.
        ratio: to the step without a mask; None for that itself.
        ratio_low: lower end of its interval, or None.
        ratio_high: its upper end, or None.
        verdict: read off the interval.
        tokens_per_s: of the whole batch.
        mask_share: of the instrumented step that is fill, accept and apply.
        fill: None for no mask.
        differing_choices: a pass, against the definition of the mask.
        ledger: parts + residual = step.
    """

    engine: str
    per_step_ms: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    verdict: str
    tokens_per_s: float
    mask_share: float
    fill: Fill | None
    differing_choices: float
    ledger: Ledger

    def part_ns(self, part: str) -> float:
        """What a part takes a step; 0 where it does not occur."""
        return self.ledger.parts[part].ns if part in self.ledger.parts else 0.0


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
    """`results.json`. The first four fields are those of the naive arm on the model's own vocabulary, or null."""

    vocab_size: int | None
    per_step_ms_no_mask: float | None
    per_step_ms_with_mask: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    cells: list[CellFinding]
    builds: list[Build]
    curves: list[Curve]
    roofline: list[Place]
    left_out: list[dict[str, Any]]
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
    held = _held(samples)
    about = manifest.conditions["cells"]
    cells = [_cell(key, about[key], arms, manifest) for key, arms in held.items() if key in about]
    if not cells:
        raise InputError("no cell is in every round; measure again")
    flat = next((cell for cell in cells if about[cell.key]["own"] and cell.arm("naive")), None)
    naive = flat.arm("naive") if flat else None
    lost = [
        {**{k: about[key][k] for k in ("vocab", "batch", "complexity")}, "engine": arm, "why": "not in every round"}
        for sample in samples
        for key, arms in sample.cells.items()
        for arm in arms
        if key in about and arm not in held.get(key, {})
    ]
    return MaskFindings(
        vocab_size=flat.vocab_size if flat else None,
        per_step_ms_no_mask=flat.free.per_step_ms if flat else None,
        per_step_ms_with_mask=naive.per_step_ms if naive else None,
        ratio=naive.ratio if naive else None,
        ratio_low=naive.ratio_low if naive else None,
        ratio_high=naive.ratio_high if naive else None,
        cells=cells,
        builds=msgspec.convert(manifest.conditions["builds"], list[Build]),
        curves=find_curves(manifest, samples),
        roofline=[found for cell in cells for found in _places(cell, about[cell.key], manifest)],
        left_out=[*manifest.conditions["left_out"], *{str(entry): entry for entry in lost}.values()],
        notes=_notes(manifest, cells),
        rounds=len(samples),
        noise=summarise_noise(sample.noise for sample in samples),
        unresolved=_unresolved(cells, samples, manifest.conditions["precision"]),
        invalid="; ".join(_why_invalid(cell) for cell in cells if _why_invalid(cell)),
    )


def _held(samples: Sequence[Sample]) -> dict[str, dict[str, list[ArmRound]]]:
    """Cell -> arm -> its rounds, for what every round holds."""
    if not samples:
        raise InputError("the run has no finished round; resume it with --resume, or measure again")
    found = {
        key: {
            arm: [sample.cells[key][arm] for sample in samples]
            for arm in arms
            if all(arm in sample.cells.get(key, {}) for sample in samples)
        }
        for key, arms in samples[0].cells.items()
    }
    return {key: arms for key, arms in found.items() if NO_MASK in arms and len(arms) > 1}


def changes_of(arms: Mapping[str, Sequence[ArmRound]]) -> dict[str, Change]:
    """Each engine's step against the one without a mask, Bonferroni over the engines of the cell."""
    totals = {name: _totals(rounds) for name, rounds in arms.items()}
    others = [name for name in arms if name != NO_MASK]
    return {name: paired_change(totals[NO_MASK], totals[name], comparisons=len(others)) for name in others}


def _totals(rounds: Sequence[ArmRound]) -> NDArray[np.float64]:
    return np.array([each.plain_ns.mean() for each in rounds])


def resolved_by(samples: Sequence[Sample]) -> Resolved:
    """How narrow the intervals of the ratios are, each as a share of its ratio."""
    changes = [change for arms in _held(samples).values() for change in changes_of(arms).values()]
    widths = [change.half_width / (1 + (change.estimate or 0.0)) for change in changes]
    return Resolved(max(widths, default=inf), min((change.merged_rounds for change in changes), default=0))


def _cell(key: str, about: Mapping[str, Any], arms: Mapping[str, list[ArmRound]], manifest: Manifest) -> CellFinding:
    changes = changes_of(arms)
    try:
        found = [_arm(name, rounds, changes.get(name), about["batch"], manifest) for name, rounds in arms.items()]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"the rounds do not all hold the same steps and parts ({error}); restore the file, or measure again"
        ) from error
    return CellFinding(
        key=key,
        vocab=about["vocab"],
        vocab_size=about["vocab_size"],
        batch=about["batch"],
        complexity=about["complexity"],
        states=about["states"],
        allowed_mean=about["allowed_mean"],
        allowed_median=about["allowed_median"],
        arms=sorted(found, key=lambda arm: arm.engine != NO_MASK),
    )


def _arm(name: str, rounds: Sequence[ArmRound], change: Change | None, batch: int, manifest: Manifest) -> Arm:
    ledger = build_ledger("decode", ledger_samples(rounds), mark_ns=manifest.conditions["mark_ns"])
    assert ledger.plain_step_ns is not None  # noqa: S101 - every round has steps without marks
    estimate = change.estimate if change else None
    ends = (change.ci_low, change.ci_high) if change else (None, None)
    return Arm(
        engine=name,
        per_step_ms=ledger.plain_step_ns / 1e6,
        ratio=None if estimate is None else 1 + estimate,
        ratio_low=None if ends[0] is None else 1 + ends[0],
        ratio_high=None if ends[1] is None else 1 + ends[1],
        verdict=change.label if change else "",
        tokens_per_s=batch * 1e9 / ledger.plain_step_ns,
        mask_share=ledger.tree["mask"].share if "mask" in ledger.tree else 0.0,
        fill=None if name == NO_MASK else _fill(rounds, ledger),
        differing_choices=sum(each.differing for each in rounds) / (2 * len(rounds)),
        ledger=ledger,
    )


def ledger_samples(rounds: Sequence[ArmRound]) -> LedgerSamples:
    """An arm's rounds as arrays, [rounds, 1 pass, positions]."""
    first = rounds[0]
    return LedgerSamples(
        plain_ns=np.array([[each.plain_ns] for each in rounds], np.int64),
        step_ns=np.array([[each.step_ns] for each in rounds], np.int64),
        parts={name: np.array([[each.parts[name]] for each in rounds], np.int64) for name in first.parts},
        residual_ns=np.array([[each.residual_ns] for each in rounds], np.int64),
        marks_per_step={name: marks / len(first.step_ns) for name, marks in first.marks.items()},
    )


def _fill(rounds: Sequence[ArmRound], ledger: Ledger) -> Fill:
    in_place = np.array([each.parts["mask.fill"] for each in rounds])
    hot_ns = step_estimate(np.array([each.hot_fill_ns for each in rounds]))
    in_place_ns = step_estimate(in_place)
    p99 = percentile(in_place.ravel(), 99)
    return Fill(
        in_place_us=in_place_ns / 1e3,
        in_place_p50_us=ledger.parts["mask.fill"].p50_ns / 1e3,
        in_place_p99_us=None if p99.value is None else p99.value / 1e3,
        hot_us=hot_ns / 1e3,
        in_place_over_hot=in_place_ns / hot_ns if hot_ns else inf,
    )


def _places(cell: CellFinding, about: Mapping[str, Any], manifest: Manifest) -> list[Place]:
    """The head and the masks of the naive walk and the table on the roofline, for batches of one."""
    if cell.batch != 1:
        return []
    ceilings, size, lookups = manifest.conditions["ceilings"], cell.vocab_size, about["lookups_per_fill"]

    def at(engine: str, part: str, operations: float, moved: float) -> list[Place]:
        arm = cell.arm(engine)
        ns = arm.part_ns(part) if arm else 0.0
        if not ns:
            return []
        return [place(cell.key, engine, part, ns=ns, operations=operations, moved=moved, ceilings=ceilings)]

    head = at("no mask", "lm_head", 2 * size * about["hidden"], 4 * size * about["hidden"])
    walks = at("naive", "mask.fill", lookups, BYTES_PER_LOOKUP * lookups) if lookups else []
    applies = [found for name in ("naive", "table") for found in at(name, "mask.apply", size, BYTES_PER_LOGIT * size)]
    return [*head, *walks, *applies]


def _notes(manifest: Manifest, cells: Sequence[CellFinding]) -> list[str]:
    notes = []
    if manifest.conditions["only_own"]:
        notes.append(
            "Only the model's own vocabulary: larger ones are cut from the one that the grammar extra brings; "
            f"{how_to_install('grammar')}."
        )
    if any(not about["own"] for about in manifest.conditions["cells"].values()):
        notes.append(
            "Heads over other vocabularies than the model's own have random rows: the cost of the product does not "
            "depend on them, and the texts are given."
        )
    differing = sorted({arm.engine for cell in cells for arm in cell.arms if arm.differing_choices} - set(OURS))
    notes += [
        f"{name} would have chosen other tokens at some steps: its masks are not those of the definition "
        "(docs/automata.md says how)."
        for name in differing
        if name != NO_MASK
    ]
    return notes


def _why_invalid(cell: CellFinding) -> str:
    """A ledger of rounds too few for an interval is not resolved rather than invalid: one burst would decide."""
    settled = [arm for arm in cell.arms if arm.ledger.inflation_ci_low is not None]
    reasons = [f"{arm.engine}: {arm.ledger.invalid}" for arm in settled if arm.ledger.invalid]
    reasons += [
        f"{arm.engine} chose {arm.differing_choices:g} tokens a pass that the definition does not"
        for arm in cell.arms
        if arm.differing_choices and arm.engine in (*OURS, NO_MASK)
    ]
    return f"{cell.key}: {'; '.join(reasons)}" if reasons else ""


def _unresolved(cells: Sequence[CellFinding], samples: Sequence[Sample], precision: float | None) -> str:
    missing = [f"{arm.engine} at {cell.key}" for cell in cells for arm in cell.arms[1:] if arm.ratio_low is None]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} others" if len(missing) > 3 else "")
        rounds = plural(len(samples), "round")
        return f"no interval for {shown}: {rounds}, too few or too alike; give a longer --budget, or more --rounds"
    now = resolved_by(samples)
    if precision is not None and now.half_width > precision:
        return (
            f"the widest interval is ±{now.half_width:.2%} of the step, ±{precision:.2%} was asked for;"
            " give a longer --budget, or more --rounds"
        )
    return ""
