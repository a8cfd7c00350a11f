"""The findings of `output` as tables, pictures and README."""

from collections.abc import Mapping

import numpy as np

from perstep._json import Json
from perstep._words import short
from perstep.experiments.knobs import Drawing, KnobFindings, headlines, tables_of
from perstep.experiments.knobs.findings import Summary, decode_total_ms, quarters
from perstep.experiments.knobs.show import (
    Samples,
    fit_note,
    knob_content,
    knob_files,
    milliseconds,
    nothing_measured,
    one_table,
    subject,
)
from perstep.report import Column, Table
from perstep.report.format import signed_percent
from perstep.report.page import Content
from perstep.report.panels import Panel, Series
from perstep.runs import Manifest


def per_token_ms(s: Summary) -> float | None:
    """The decode forwards of a call over its tokens: what it is often divided by, one more than there are forwards."""
    if s.decode_ms is None:
        return None
    return s.decode_ms * (s.num_output_tokens - 1) / s.num_output_tokens


def tables(manifest: Manifest, findings: KnobFindings) -> list[Table]:
    """A table a model, a row a length: the same forwards, divided by tokens and by forwards."""
    return tables_of(manifest, findings, _table)


def _table(manifest: Manifest, findings: KnobFindings) -> Table:
    columns: list[str | Column[Summary]] = [
        Column("forwards", lambda s: s.num_output_tokens - 1),
        milliseconds("decode, total", decode_total_ms),
        milliseconds("per token", per_token_ms),
        milliseconds("per forward", lambda s: s.decode_ms, "decode_ms"),
        Column("artefact", lambda s: None if s.decode_ms is None else -1 / s.num_output_tokens, signed_percent),
        *("decode step", "95 % interval", "prefill", "whole call"),
    ]
    artefact = "per token divides N - 1 forwards by N tokens, so it is too small by 1/N (`artefact`)."
    notes = [
        artefact if any(s.decode_ms is not None for s in findings.summary) else "",
        fit_note("decode, total", findings.fits["decode"], "tokens") if "decode" in findings.fits else "",
        _growth(findings),
    ]
    title = f"output: {subject(manifest, findings)}"
    return one_table(title, findings, "generated tokens", columns, [note for note in notes if note])


def _growth(findings: KnobFindings) -> str:
    """How a forward's cost changes with its position, as far as there are positions and rounds."""
    if nothing := nothing_measured(findings):
        return nothing
    growth, costs = findings.growth, np.array(findings.positions_ms)
    if growth is None:
        return "too few positions to say how a forward's cost changes along a call"
    if growth.change is None or growth.ci_low is None:
        return f"whether a forward's cost changes along the longest call is not resolved ({growth.reason})"
    early, late = (float(np.median(costs[part])) for part in quarters(len(costs)))
    return (
        f"along the longest call a forward costs {short(early, 3)} ms in the first quarter and {short(late, 3)} ms in "
        f"the last: {growth.percent()} {growth.interval()}{'' if growth.resolved else ', not resolved'}"
    )


def files(manifest: Manifest, findings: KnobFindings) -> Mapping[str, bytes]:
    """`output.png` with its CSV, all samples, the model, `README.md`."""
    return knob_files(__package__, manifest, findings, _DRAWINGS, _words)


def _words(manifest: Manifest, findings: KnobFindings) -> dict[str, Json]:
    """What the text says of one model."""
    return {"growth": _growth(findings), "tables": [_table(manifest, findings)]}


def _drawing(findings: KnobFindings) -> Drawing:
    rows = [s for s in findings.summary if s.decode_ms is not None]
    if not rows:
        calls = [(s.knob, s.total_ms) for s in findings.summary if s.total_ms is not None]
        whole = Series("measured", [x for x, _ in calls], [y for _, y in calls], shade=0)
        a_prefill = nothing_measured(findings) or "one token is a prefill, without a decode forward"
        title = f"{findings.model}: {a_prefill}"
        panel = Panel("", "generated tokens N", "whole call (ms)", [whole])
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


def summary(findings: KnobFindings) -> dict[str, Json]:
    """The headline for `perstep list`."""
    return headlines(findings, lambda one: {"headline": _growth(one)})


_DRAWINGS = {"output": _drawing}


def content(manifest: Manifest, findings: KnobFindings, _samples: Samples) -> Content:
    """The page's: the curves of the picture."""
    return knob_content(manifest, findings, _DRAWINGS)
