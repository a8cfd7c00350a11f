"""`context`: latency against input tokens: text, and images in a vision-language model.

Vision tower, prefill and decode are intervals of one call, never differences of runs. Vision tokens are counted in
what the model is given, not computed from the size of an image. Text lengths are beginnings of one prompt.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.knobs import (
    Arm,
    Configuration,
    Drawing,
    KnobFindings,
    KnobOptions,
    KnobSession,
    NewTokens,
    Runner,
    Sample,
    Subject,
    Work,
    headlines,
    prepare_models,
    tables_of,
)
from perstep.experiments.knobs import analyse_knob as analyse
from perstep.experiments.knobs.options import DEFAULT_PROMPT_TOKENS, check_fits
from perstep.experiments.knobs.session import is_out_of_memory, out_of_memory
from perstep.experiments.knobs.show import (
    doubt,
    fit_note,
    knob_files,
    line,
    number,
    one_table,
    stage_panels,
    step_interval,
    subject,
)
from perstep.experiments.knobs.show import summary_csv as csv
from perstep.experiments.options import Counts, at_least
from perstep.measure import Clock, Progress
from perstep.report import Table
from perstep.report.panels import Panel, Series
from perstep.runs import Manifest
from perstep.targets import Opened
from perstep.targets.block_mask import num_blocks

__all__ = ["Plan", "Sample", "analyse", "csv", "files", "prepare", "summary", "tables"]

_DEFAULT = (64, 128, 256, 512, 1024)


@dataclass(frozen=True, kw_only=True)
class Plan(KnobOptions):
    """The options of `perstep context`."""

    prompt_tokens: Annotated[Counts | None, Parameter(name=["-p", "--prompt-tokens"])] = None
    """Text tokens of the prompt: a list or a range. [default: 64-1024*2 as far as the model's context goes; 64 where
    images are varied]"""

    new_tokens: NewTokens = 32
    """Tokens that every configuration generates: one prefill and N - 1 decode forwards."""

    images: Counts | None = None
    """Images in front of the text, for a vision-language model: a list or a range. [default: 1 where --image-size is
    given, otherwise none]"""

    image_size: Counts | None = None
    """Pixels a side of each image: a list or a range, for models that take any size or cut images into tiles."""


@dataclass(frozen=True)
class _Input:
    """One configuration's prompt."""

    text_tokens: int
    images: int
    image_size: int | None

    @property
    def label(self) -> str:
        if not self.images:
            return f"{self.text_tokens:,} text"
        size = "" if self.image_size is None else f" of {self.image_size} px"
        return f"{self.text_tokens:,} text, {self.images} image{'' if self.images == 1 else 's'}{size}"


def prepare(plan: Plan, progress: Progress, clock: Clock) -> KnobSession:
    """Check the plan, load the model, record a call for each input, warm up.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
    """
    plan.effort()
    at_least(1, new_tokens=plan.new_tokens, batch=plan.batch, threads=plan.threads)
    for name in ("prompt_tokens", "image_size"):
        if getattr(plan, name) is not None:
            at_least(1, **{name: min(getattr(plan, name))})

    def check(one: Plan, opened: Opened) -> list[_Input]:
        inputs = _inputs(one, opened)
        check_fits(opened, _longest(inputs), one.new_tokens)
        return inputs

    def make(one: Plan, runner: Runner, inputs: list[_Input]) -> Subject:
        return _subject(one, runner, inputs, progress)

    return prepare_models("context", plan, check, make, progress, clock)


def _longest(inputs: Sequence[_Input]) -> int:
    return max(given.text_tokens for given in inputs)


def _subject(plan: Plan, runner: Runner, inputs: Sequence[_Input], progress: Progress) -> Subject:
    """One model: a call recorded for each input."""
    opened = runner.opened
    text_BT = opened.prompt(text=None, num_tokens=_longest(inputs), batch=plan.batch, seed=plan.seed)
    total = num_blocks(opened.model)
    arms = []
    for given in inputs:
        progress(0.0, f"record {given.label}")
        work, failed = _record(plan, opened, runner, given, text_BT)
        vision_tokens = 0 if work is None else work.vision_tokens
        configuration = Configuration(
            label=given.label,
            knob=float(given.text_tokens + vision_tokens),
            num_active_blocks=total,
            num_total_blocks=total,
            active_block_indices=list(range(total)),
            num_input_text_tokens=given.text_tokens if work is None else work.text_tokens,
            num_vision_tokens=vision_tokens,
            num_output_tokens=plan.new_tokens,
            failed=failed,
        )
        arms.append(Arm(configuration, [] if work is None else [work], nullcontext))
    return Subject(runner, arms, range(len(arms)))


def _inputs(plan: Plan, opened: Opened) -> list[_Input]:
    sees = opened.backend == "torch" and _takes_images(opened)
    if not sees and (plan.images is not None or plan.image_size is not None):
        raise InputError(f"{opened.name} is a text model: --images and --image-size go with a vision-language model")
    images = plan.images if plan.images is not None else (1,) if plan.image_size is not None else (0,)
    sizes = [None] if plan.image_size is None else list(plan.image_size)
    if plan.prompt_tokens is not None:
        lengths = list(plan.prompt_tokens)
    elif images != (0,):
        lengths = [DEFAULT_PROMPT_TOKENS]
    else:
        positions = opened.facts.get("max_positions") or max(_DEFAULT) + plan.new_tokens
        lengths = [length for length in _DEFAULT if length + plan.new_tokens - 1 <= positions] or [1]
    return [
        _Input(length, count, size if count else None)
        for length in lengths
        for count in images
        for size in (sizes if count else [None])
    ]


def _takes_images(opened: Opened) -> bool:
    from perstep.targets.transformers import takes_images

    return takes_images(opened.model)


def _record(
    plan: Plan, opened: Opened, runner: Runner, given: _Input, text_BT: NDArray[np.int64]
) -> tuple[Work | None, str]:
    """The work of a configuration, or why there is no memory for it."""
    ids_BT, extra, vision_tokens = text_BT[:, : given.text_tokens], None, 0
    try:
        if given.images:
            from perstep.targets.transformers import image_prompt

            made = image_prompt(opened.model, ids_BT, given.images, given.image_size, seed=plan.seed)
            ids_BT, extra, vision_tokens = made.ids_BT, made.extra, made.vision_tokens
            check_fits(opened, ids_BT.shape[1], plan.new_tokens)
        work = runner.record(ids_BT, plan.new_tokens, extra=extra, vision_tokens=vision_tokens)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None, out_of_memory(error)
    return work, ""


def _sees(findings: KnobFindings) -> bool:
    return any(s.num_vision_tokens for s in findings.summary)


def tables(manifest: Manifest, findings: KnobFindings) -> list[Table]:
    """A table a model: a row an input."""
    return tables_of(manifest, findings, _table)


def _table(manifest: Manifest, findings: KnobFindings) -> Table:
    vision = [
        ("text tokens", lambda s: f"{s.num_input_text_tokens:,}"),
        ("vision tokens", lambda s: f"{s.num_vision_tokens:,}"),
        ("vision encoder (ms)", lambda s: number(s.vision_ms if s.num_vision_tokens else None)),
    ]
    columns = [
        ("input", lambda s: s.label),
        *(vision if _sees(findings) else []),
        ("prefill (ms)", lambda s: number(s.prefill_ms)),
        ("decode forward (ms)", lambda s: number(s.decode_ms)),
        ("decode step (ms)", lambda s: number(s.decode_step_ms)),
        ("95 % interval (ms)", step_interval),
        ("whole call (ms)", lambda s: number(s.total_ms)),
    ]
    of = {"vision": "vision tokens"}
    notes = [fit_note(stage, fit, of.get(stage, "input tokens")) for stage, fit in findings.fits.items()]
    return one_table(f"context: {subject(manifest, findings)}", findings, columns, notes)


def files(manifest: Manifest, findings: KnobFindings) -> Mapping[str, bytes]:
    """`context.png` with its CSV, all samples, the model, `README.md`."""
    return knob_files("context", manifest, findings, {"context": _drawing}, _words)


def _words(manifest: Manifest, findings: KnobFindings) -> dict[str, Any]:
    """What the text says of one model."""
    return {"finding": _finding(findings), "sees": _sees(findings), "tables": [_table(manifest, findings)]}


def _drawing(findings: KnobFindings) -> Drawing:
    panels = stage_panels(findings, "input tokens")
    if _sees(findings):
        rows = [s for s in findings.summary if s.num_vision_tokens and s.vision_ms]
        xs, ys = [float(s.num_vision_tokens) for s in rows], [s.vision_ms or 0.0 for s in rows]
        fit = findings.fits.get("vision")
        fitted = [] if fit is None else [replace(made, name="fit") for made in line(fit, xs, curved=True)]
        series = [Series("measured", xs, ys, shade=0), *fitted]
        panels.insert(0, Panel("vision", "vision tokens", "vision encoder (ms)", series))
    return Drawing(findings.model, f"{findings.model}: {_finding(findings)}", panels)


def _finding(findings: KnobFindings) -> str:
    """How prefill and decode grow from the shortest to the longest input."""
    rows = sorted((s for s in findings.summary if s.prefill_ms), key=lambda s: s.knob)
    if len(rows) < 2 or rows[0].knob == rows[-1].knob:
        return "one input measured"
    first, last = rows[0], rows[-1]
    words = [
        f"{last.knob / first.knob:.3g} times the input takes {_ratio(last.prefill_ms, first.prefill_ms)} the prefill"
    ]
    if first.decode_ms and last.decode_ms:
        words.append(f"{_ratio(last.decode_ms, first.decode_ms)} the decode forward")
    return " and ".join(words) + doubt(findings)


def _ratio(last: float | None, first: float | None) -> str:
    return f"{(last or 0.0) / (first or 1.0):.3g} times"


def summary(findings: KnobFindings) -> dict[str, Any]:
    """The headline for `perstep list`."""
    return headlines(findings, lambda found: {"headline": _finding(found)})
