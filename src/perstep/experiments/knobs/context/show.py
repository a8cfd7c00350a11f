"""The findings of `context` as tables, pictures and README."""

from collections.abc import Mapping
from dataclasses import replace

from perstep._json import Json
from perstep._words import short
from perstep.experiments.knobs import Drawing, KnobFindings, headlines, tables_of
from perstep.experiments.knobs.show import (
    STEP,
    Samples,
    doubt,
    fit_note,
    knob_content,
    knob_files,
    line,
    milliseconds,
    nothing_measured,
    one_table,
    stage_panels,
    subject,
)
from perstep.report import Table
from perstep.report.page import Content
from perstep.report.panels import Panel, Series
from perstep.runs import Manifest


def sees_images(findings: KnobFindings) -> bool:
    """Whether any configuration has images."""
    return any(s.num_vision_tokens for s in findings.summary)


def tables(manifest: Manifest, findings: KnobFindings) -> list[Table]:
    """A table a model: a row an input."""
    return tables_of(manifest, findings, _table)


def _table(manifest: Manifest, findings: KnobFindings) -> Table:
    encoder = milliseconds("vision encoder", lambda s: s.vision_ms if s.num_vision_tokens else None)
    vision = ("text tokens", "vision tokens", encoder) if sees_images(findings) else ()
    of = {"vision": "vision tokens"}
    notes = [fit_note(stage, fit, of.get(stage, "input tokens")) for stage, fit in findings.fits.items()]
    columns = (*vision, *STEP, "whole call")
    return one_table(f"context: {subject(manifest, findings)}", findings, "input", columns, notes)


def files(manifest: Manifest, findings: KnobFindings) -> Mapping[str, bytes]:
    """`context.png` with its CSV, all samples, the model, `README.md`."""
    return knob_files(__package__, manifest, findings, _DRAWINGS, _words)


def _words(manifest: Manifest, findings: KnobFindings) -> dict[str, Json]:
    """What the text says of one model."""
    return {"finding": _finding(findings), "sees": sees_images(findings), "tables": [_table(manifest, findings)]}


def _drawing(findings: KnobFindings) -> Drawing:
    panels = stage_panels(findings, "input tokens")
    if sees_images(findings):
        rows = [s for s in findings.summary if s.num_vision_tokens and s.vision_ms]
        xs, ys = [float(s.num_vision_tokens) for s in rows], [s.vision_ms or 0.0 for s in rows]
        fit = findings.fits.get("vision")
        fitted = [] if fit is None else [replace(curve, name="fit") for curve in line(fit, xs, curved=True)]
        series = [Series("measured", xs, ys, shade=0), *fitted]
        panels.insert(0, Panel("vision", "vision tokens", "vision encoder (ms)", series))
    return Drawing(findings.model, f"{findings.model}: {_finding(findings)}", panels)


def _finding(findings: KnobFindings) -> str:
    """How prefill and decode grow from the shortest to the longest input."""
    rows = sorted((s for s in findings.summary if s.prefill_ms), key=lambda s: s.knob)
    if len(rows) < 2 or rows[0].knob == rows[-1].knob:
        return nothing_measured(findings) or "one input measured"
    first, last = rows[0], rows[-1]
    input_ratio = short(last.knob / first.knob, 3)
    words = [f"{input_ratio} times the input takes {_ratio(last.prefill_ms, first.prefill_ms)} the prefill"]
    if first.decode_ms and last.decode_ms:
        words.append(f"{_ratio(last.decode_ms, first.decode_ms)} the decode forward")
    return " and ".join(words) + doubt(findings)


def _ratio(last: float | None, first: float | None) -> str:
    return f"{short((last or 0.0) / (first or 1.0), 3)} times"


def summary(findings: KnobFindings) -> dict[str, Json]:
    """The headline for `perstep list`."""
    return headlines(findings, lambda one: {"headline": _finding(one)})


_DRAWINGS = {"context": _drawing}


def content(manifest: Manifest, findings: KnobFindings, _samples: Samples) -> Content:
    """The page's: the curves of the picture."""
    return knob_content(manifest, findings, _DRAWINGS)
