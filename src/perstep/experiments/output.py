"""`output`: latency against generated tokens, keyed by what was generated, not by what was asked for.

N tokens are one prefill and N - 1 decode forwards (law 5). Dividing decode time by N makes it look as if each token
became dearer with N: the factor (N - 1) / N, nothing else. Both columns stand side by side. What a forward really
costs more at later positions is read off the longest call, position by position.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from perstep.experiments.knobs import (
    Arm,
    Configuration,
    Drawing,
    KnobFindings,
    KnobSession,
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
from perstep.experiments.knobs.records import Summary
from perstep.experiments.knobs.results import decode_total_ms
from perstep.experiments.knobs.show import (
    fit_note,
    knob_files,
    number,
    one_table,
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


@dataclass(frozen=True, kw_only=True)
class Plan(PromptOptions):
    """The options of `perstep output`."""

    new_tokens: Annotated[Counts, Parameter(name=["-n", "--new-tokens"])] = (1, 2, 4, 8, 16, 32, 64, 128)
    """Tokens to generate: a list or a range, such as 1-128*2."""


def prepare(plan: Plan, progress: Progress, clock: Clock) -> KnobSession:
    """Check the plan, load the model, record the longest call, of which the others are beginnings, warm up.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
    """
    prompts = plan.checked_prompts()
    at_least(1, new_tokens=min(plan.new_tokens))

    def check(one: Plan, opened: Opened) -> list[NDArray[np.int64]]:
        return one.make_prompts(prompts, opened, max(one.new_tokens))

    def make(one: Plan, runner: Runner, prompts_BT: list[NDArray[np.int64]]) -> Subject:
        return _subject(one, runner, prompts_BT, progress)

    return prepare_models("output", plan, check, make, progress, clock)


def _subject(plan: Plan, runner: Runner, prompts_BT: list[NDArray[np.int64]], progress: Progress) -> Subject:
    """One model: its longest call recorded."""
    longest = record_all(runner, prompts_BT, max(plan.new_tokens), progress)
    total = num_blocks(runner.opened.model)
    arms = [
        Arm(
            Configuration(
                label=f"{count:,}",
                knob=float(count),
                num_active_blocks=total,
                num_total_blocks=total,
                active_block_indices=list(range(total)),
                num_vision_tokens=0,
                num_output_tokens=count,
                **plan.input_tokens(longest),
            ),
            [work.shortened(count) for work in longest],
            nullcontext,
        )
        for count in plan.new_tokens
    ]
    return Subject(runner, arms, range(len(arms)))


def per_token_ms(s: Summary) -> float | None:
    """The decode forwards of a call over its tokens: what it is often divided by, one more than there are forwards."""
    if s.decode_ms is None:
        return None
    return s.decode_ms * (s.num_output_tokens - 1) / s.num_output_tokens


def tables(manifest: Manifest, findings: KnobFindings) -> list[Table]:
    """A table a model, a row a length: the same forwards, divided by tokens and by forwards."""
    return tables_of(manifest, findings, _table)


def _table(manifest: Manifest, findings: KnobFindings) -> Table:
    columns = [
        ("generated tokens", lambda s: s.label),
        ("forwards", lambda s: str(s.num_output_tokens - 1)),
        ("decode, total (ms)", lambda s: number(decode_total_ms(s))),
        ("per token (ms)", lambda s: number(per_token_ms(s))),
        ("per forward (ms)", lambda s: number(s.decode_ms)),
        ("artefact", lambda s: "–" if s.num_output_tokens < 2 else f"{-1 / s.num_output_tokens:+.1%}"),
        ("decode step (ms)", lambda s: number(s.decode_step_ms)),
        ("95 % interval (ms)", step_interval),
        ("prefill (ms)", lambda s: number(s.prefill_ms)),
        ("whole call (ms)", lambda s: number(s.total_ms)),
    ]
    notes = [
        "per token divides N - 1 forwards by N tokens, and so is too small by 1/N: the column `artefact`.",
        fit_note("decode, total", findings.fits["decode"], "tokens") if "decode" in findings.fits else "",
        _growth(findings),
    ]
    return one_table(f"output: {subject(manifest, findings)}", findings, columns, [note for note in notes if note])


def _growth(findings: KnobFindings) -> str:
    """How a forward's cost changes with its position, as far as there are positions."""
    costs = np.array(findings.positions_ms)
    if costs.size < 8:
        return "too few positions to say how a forward's cost changes along a call"
    quarter = len(costs) // 4
    early, late = float(np.median(costs[:quarter])), float(np.median(costs[-quarter:]))
    return (
        f"along the longest call a forward costs {early:.3g} ms in the first quarter and {late:.3g} ms in the last:"
        f" {late / early - 1:+.1%}"
    )


def files(manifest: Manifest, findings: KnobFindings) -> Mapping[str, bytes]:
    """`output.png` with its CSV, all samples, the model, `README.md`."""
    return knob_files("output", manifest, findings, {"output": _drawing}, _words)


def _words(manifest: Manifest, findings: KnobFindings) -> dict[str, Any]:
    """What the text says of one model."""
    return {"growth": _growth(findings), "tables": [_table(manifest, findings)]}


def _drawing(findings: KnobFindings) -> Drawing:
    rows = [s for s in findings.summary if s.decode_ms is not None]
    if not rows:
        calls = [(s.knob, s.total_ms) for s in findings.summary if s.total_ms is not None]
        whole = Series("measured", [x for x, _ in calls], [y for _, y in calls], shade=0)
        title = f"{findings.model}: one token is a prefill, without a decode forward"
        panel = Panel("", "generated tokens N", "whole call (ms)", [whole], log_x=True)
        return Drawing(findings.model, title, [panel])
    xs = [s.knob for s in rows]
    divided = [
        Series("per forward: decode / (N - 1)", xs, [s.decode_ms or 0.0 for s in rows], shade=0),
        Series("per token: decode / N", xs, [per_token_ms(s) or 0.0 for s in rows], shade=1),
    ]
    positions = [float(i + 2) for i in range(len(findings.positions_ms))]
    panels = [
        Panel("divided by forwards and by tokens", "generated tokens N", "ms", divided, log_x=True),
        Panel(
            "each forward of the longest call",
            "the token that the forward makes",
            "decode forward (ms)",
            [Series("median over rounds", positions, findings.positions_ms, shade=2)],
        ),
    ]
    return Drawing(findings.model, f"{findings.model}: {_growth(findings)}", panels)


def summary(findings: KnobFindings) -> dict[str, Any]:
    """The headline for `perstep list`."""
    return headlines(findings, lambda found: {"headline": _growth(found)})
