"""`depth`: latency and quality against the decoder blocks that run, the others skipped in place.

Configurations are sets of active blocks. All replay the full model's tokens in balanced rounds; a skipped block that
ran makes the run invalid. Quality stands beside latency, so that the fastest configuration is not taken for the best.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.knobs import (
    Arm,
    Configuration,
    KnobFindings,
    KnobSession,
    NewTokens,
    PromptOptions,
    Runner,
    Sample,
    Subject,
    headlines,
    prepare_models,
    record_all,
    tables_of,
)
from perstep.experiments.knobs import analyse_knob as analyse
from perstep.experiments.knobs.depth_drawings import depth_drawing, fixed_words, full_of, knee_words, quality_drawing
from perstep.experiments.knobs.quality import DEFAULT_TOKENS, Scored, importance, measure_quality, scored_tokens
from perstep.experiments.knobs.show import (
    fit_note,
    has_quality,
    knob_files,
    number,
    one_table,
    quality_columns,
    share,
    step_interval,
    subject,
)
from perstep.experiments.knobs.show import summary_csv as csv
from perstep.experiments.options import Seconds, at_least, parse_counts
from perstep.measure import Clock, Progress
from perstep.report import Table
from perstep.runs import Manifest
from perstep.targets import BlockMask, Opened
from perstep.targets.block_mask import active_indices, forward_weight_bytes, num_blocks

__all__ = ["Plan", "Sample", "analyse", "csv", "files", "prepare", "summary", "tables"]

Strategy = Literal["first", "last", "uniform", "random", "importance"]

_Wanted = list[int] | tuple[tuple[int, ...], ...]
_Prompts = list[NDArray[np.int64]]


def _counts(_type: Any, tokens: Sequence[Any]) -> tuple[int, ...]:
    return parse_counts(",".join(token.value for token in tokens))


def _index_sets(_type: Any, tokens: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """One set for each time the option is given; commas and ranges are taken too."""
    sets: list[list[str]] = []
    for token in tokens:
        if token.index == 0:
            sets.append([])
        sets[-1].append(token.value)
    return tuple(tuple(_indices(values)) for values in sets)


def _indices(values: Sequence[str]) -> list[int]:
    """Indices as they were written, repeated ones too: those are an error that must be named."""
    found = []
    for text in ",".join(values).split(","):
        item = text.strip()
        if item.removeprefix("-").isdigit():
            found.append(int(item))
        elif "-" in item:
            found += parse_counts(item)
        else:
            raise InputError(f"{item!r} is no block; write indices such as 0 5 10, or a range such as 0-3")
    return found


@dataclass(frozen=True, kw_only=True)
class Plan(PromptOptions):
    """The options of `perstep depth`."""

    new_tokens: NewTokens = 32
    """Tokens that every configuration generates: one prefill and N - 1 decode forwards."""

    num_active_blocks: Annotated[
        tuple[int, ...] | None,
        Parameter(name="--num-active-blocks", consume_multiple=True, converter=_counts, negative=""),
    ] = None
    """How many blocks run: `4 8 12`, `4,8,12` or a range such as 1-16. [default: every number from 1 to all]"""

    active_block_indices: Annotated[
        tuple[tuple[int, ...], ...] | None,
        Parameter(name="--active-block-indices", consume_multiple=True, converter=_index_sets, negative=""),
    ] = None
    """Exactly these blocks, counted from 0: `0 5 10 15`. Give it again for another configuration. It wins over
    --num-active-blocks."""

    strategy: Strategy = "first"
    """Which blocks run when only their number is given: the first, the last, spread evenly, drawn by --seed, or the
    most important by what leaving each out does to the predictions."""

    text: Path | None = None
    """A text file on which quality is measured, as perplexity too. [default: mini's held-out set; otherwise the
    model's own output, without a perplexity]"""

    quality_tokens: int = DEFAULT_TOKENS
    """Tokens of the text that are looked at; 0 measures no quality."""

    under: Seconds | None = None
    """Name the best configuration whose decode step stays within this time, e.g. 12ms."""


def prepare(plan: Plan, progress: Progress, clock: Clock) -> KnobSession:
    """Check the plan, load the model, record its tokens, measure quality, warm up.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
    """
    prompts = plan.checked_prompts()
    at_least(1, new_tokens=plan.new_tokens)
    at_least(0, quality_tokens=plan.quality_tokens)
    _check(plan)

    def check(one: Plan, opened: Opened) -> tuple[_Wanted, _Prompts]:
        return _wanted(one, num_blocks(opened.model)), one.make_prompts(prompts, opened, one.new_tokens)

    def make(one: Plan, runner: Runner, checked: tuple[_Wanted, _Prompts]) -> Subject:
        return _subject(one, runner, *checked, progress)

    return prepare_models("depth", plan, check, make, progress, clock)


def _subject(plan: Plan, runner: Runner, wanted: _Wanted, prompts_BT: _Prompts, progress: Progress) -> Subject:
    """One model: its tokens recorded, its blocks chosen, its quality measured."""
    opened = runner.opened
    total = num_blocks(opened.model)
    works = record_all(runner, prompts_BT, plan.new_tokens, progress)
    scored = scored_tokens(opened, works, plan.text, plan.quality_tokens) if plan.quality_tokens else None
    ranking = _ranking(plan, opened, scored, total, progress)
    active = [active_indices(given, total) for given in _sets(plan, wanted, ranking, total)]
    labels = _labels(plan, active, total)
    masks = {label: BlockMask(opened.model, blocks) for label, blocks in zip(labels, active, strict=True)}
    settings = {label: _setting(mask) for label, mask in masks.items()}
    quality = measure_quality(opened, scored, settings, progress) if scored else {}
    arms = [
        Arm(
            Configuration(
                label=label,
                knob=float(len(blocks)),
                num_active_blocks=len(blocks),
                num_total_blocks=total,
                active_block_indices=list(blocks),
                num_vision_tokens=0,
                num_output_tokens=plan.new_tokens,
                quality=quality.get(label),
                weight_bytes=forward_weight_bytes(opened.model, blocks),
                **plan.input_tokens(works),
            ),
            works,
            settings[label],
        )
        for label, blocks in zip(labels, active, strict=True)
    ]
    conditions = {
        "strategy": "by index" if plan.active_block_indices is not None else plan.strategy,
        "quality_of": None if scored is None else scored.source,
        "importance": ranking if plan.strategy == "importance" else None,
    }
    unchanged = [index for index, blocks in enumerate(active) if len(blocks) == total]
    return Subject(runner, arms, unchanged, conditions)


def _check(plan: Plan) -> None:
    given = plan.active_block_indices
    if given is not None and not (given and all(given)):
        raise InputError("--active-block-indices without an index: name the blocks that run, such as 0 1 2")
    if plan.active_block_indices is None and plan.num_active_blocks is not None:
        if not plan.num_active_blocks:
            raise InputError("--num-active-blocks without a number: give how many run, such as 4 8 12")
        at_least(1, num_active_blocks=min(plan.num_active_blocks))
    by_importance = plan.strategy == "importance" and plan.active_block_indices is None
    if by_importance and plan.quality_tokens == 0:
        raise InputError("--strategy importance ranks blocks by quality: leave out --quality-tokens 0")


def _wanted(plan: Plan, total: int) -> _Wanted:
    """Numbers of blocks, or sets of them."""
    if plan.active_block_indices is not None:
        for given in plan.active_block_indices:
            active_indices(given, total)
        return plan.active_block_indices
    counts = list(range(1, total + 1)) if plan.num_active_blocks is None else list(plan.num_active_blocks)
    if counts[-1] > total:
        raise InputError(f"--num-active-blocks {counts[-1]}: the model has {total} blocks")
    return counts


def _ranking(plan: Plan, opened: Opened, scored: Scored | None, total: int, progress: Progress) -> list[int]:
    """The blocks in the order in which a strategy takes them; for `uniform`, which has none, as they stand."""
    if plan.strategy == "last":
        return list(range(total - 1, -1, -1))
    if plan.strategy == "random":
        return [int(index) for index in np.random.default_rng([plan.seed, 2]).permutation(total)]
    if plan.strategy == "importance" and plan.active_block_indices is None:
        assert scored is not None  # noqa: S101 - checked before anything was loaded
        lost = importance(opened, scored, total, progress)
        return sorted(range(total), key=lambda index: (-lost[index], index))
    return list(range(total))


def _sets(plan: Plan, wanted: Sequence[Any], ranking: list[int], total: int) -> list[Sequence[int]]:
    """The active blocks of each configuration."""
    if plan.active_block_indices is not None:
        return list(wanted)
    if plan.strategy == "uniform":
        return [[place * total // count for place in range(count)] for count in wanted]
    return [ranking[:count] for count in wanted]


def _labels(plan: Plan, active: Sequence[tuple[int, ...]], total: int) -> list[str]:
    if plan.active_block_indices is None:
        return [f"{len(blocks)} of {total}" for blocks in active]
    labels = ["blocks " + ",".join(map(str, blocks)) for blocks in active]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise InputError(f"--active-block-indices: {twice[0]} is given twice; name each configuration once")
    return labels


def _setting(mask: BlockMask) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: mask


def tables(manifest: Manifest, findings: KnobFindings) -> list[Table]:
    """A table a model: a row a configuration, measured beside expected (law 13)."""
    return tables_of(manifest, findings, _table)


def _table(manifest: Manifest, findings: KnobFindings) -> Table:
    full = full_of(findings)

    def offull_of(value: float | None, reference: float | None) -> str:
        return share(None if value is None or not reference else value / reference)

    columns = [
        ("active blocks", lambda s: s.label),
        ("prefill (ms)", lambda s: number(s.prefill_ms)),
        ("decode forward (ms)", lambda s: number(s.decode_ms)),
        ("decode step (ms)", lambda s: number(s.decode_step_ms)),
        ("95 % interval (ms)", step_interval),
        ("decode of full, measured", lambda s: offull_of(s.decode_ms, full.decode_ms if full else None)),
        ("expected", lambda s: share(s.num_active_blocks / s.num_total_blocks)),
        *quality_columns(findings),
    ]
    notes = [fit_note(stage, fit, "blocks") for stage, fit in findings.fits.items()]
    bends = {stage: knee_words(findings, stage) for stage in findings.fits}
    notes += [f"{stage}: {words}." for stage, words in bends.items() if words]
    notes.append(f"Fixed share (Amdahl): {fixed_words(findings)}.")
    if findings.under is not None:
        chosen = findings.under.label or "none"
        notes.append(f"Under {findings.under.budget_ms:g} ms: {chosen} ({findings.under.reason}).")
    return one_table(f"depth: {subject(manifest, findings)}", findings, columns, notes)


def files(manifest: Manifest, findings: KnobFindings) -> Mapping[str, bytes]:
    """`depth.png` and, where quality was measured, `quality.png`, their CSV, all samples, the model, `README.md`."""
    drawings = {"depth": depth_drawing}
    if has_quality(findings) and any(s.decode_step_ms for s in findings.summary):
        drawings["quality"] = quality_drawing
    return knob_files("depth", manifest, findings, drawings, _words)


def _words(manifest: Manifest, findings: KnobFindings) -> dict[str, Any]:
    """What the text says of one model."""
    return {
        "full": full_of(findings),
        "fixed": fixed_words(findings),
        "knees": {stage: knee_words(findings, stage) for stage in findings.fits},
        "has_quality": has_quality(findings),
        "tables": [_table(manifest, findings)],
    }


def summary(findings: KnobFindings) -> dict[str, Any]:
    """The headline for `perstep list`."""
    return headlines(findings, _headline)


def _headline(findings: KnobFindings) -> dict[str, Any]:
    fit = findings.fits.get("decode_per_forward") or findings.fits["prefill"]
    return {
        "headline": fixed_words(findings),
        "fixed_share": fit.fixed_share,
        "r_squared": fit.r_squared,
        "heldout_error": fit.heldout_error,
        "knee": None if fit.knee is None else fit.knee.at,
        "under": None if findings.under is None else findings.under.label,
    }
