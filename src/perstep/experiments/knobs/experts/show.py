"""The findings of `experts` as tables, pictures and README."""

from collections.abc import Mapping

from perstep._json import Json
from perstep._words import plural
from perstep.experiments.conditions import typed
from perstep.experiments.knobs import Drawing, KnobFindings, headlines, tables_of
from perstep.experiments.knobs.experts.samples import Conditions
from perstep.experiments.knobs.show import (
    QUALITY,
    STEP,
    Samples,
    doubt,
    fit_note,
    has_quality,
    knob_content,
    knob_files,
    nothing_measured,
    one_table,
    stage_panels,
    subject,
)
from perstep.report import Table
from perstep.report.page import Content
from perstep.runs import Manifest


def tables(manifest: Manifest, findings: KnobFindings) -> list[Table]:
    """A table a model: a row a configuration."""
    return tables_of(manifest, findings, _table)


def _table(manifest: Manifest, findings: KnobFindings) -> Table:
    notes = [fit_note(stage, fit, "k") for stage, fit in findings.fits.items()]
    c = typed(manifest, Conditions)
    notes.append(f"The model itself: k = {c.own_top_k} of {plural(c.num_experts, 'expert')}, {c.own_implementation}.")
    columns = (*STEP, "syncs/step", *QUALITY)
    return one_table(f"experts: {subject(manifest, findings)}", findings, "experts a token", columns, notes)


def files(manifest: Manifest, findings: KnobFindings) -> Mapping[str, bytes]:
    """`experts.png` with its CSV, all samples, the model, `README.md`."""
    return knob_files(__package__, manifest, findings, _DRAWINGS, _words)


def _words(manifest: Manifest, findings: KnobFindings) -> dict[str, Json]:
    """What the text says of one model."""
    tables = [_table(manifest, findings)]
    return {"finding": _finding(findings), "has_quality": has_quality(findings), "tables": tables}


def _drawing(findings: KnobFindings) -> Drawing:
    panels = stage_panels(findings, "experts a token (top-k)")
    return Drawing(findings.model, f"{findings.model}: {_finding(findings)}", panels)


def _finding(findings: KnobFindings) -> str:
    """How much the largest top-k costs over the smallest, in each implementation."""
    words = []
    for name in dict.fromkeys(s.experts_implementation for s in findings.summary):
        rows = [s for s in findings.summary if s.experts_implementation == name and s.decode_ms]
        if len(rows) > 1 and rows[0].decode_ms and rows[-1].decode_ms:
            words.append(f"{name} {rows[-1].decode_ms / rows[0].decode_ms:.2f}x")
    if not words:
        return nothing_measured(findings) or "one top-k measured"
    ks = [s.top_k for s in findings.summary]
    span = f"from k = {min(k or 0 for k in ks)} to {max(k or 0 for k in ks)}"
    return f"a decode forward {span}: {', '.join(words)}{doubt(findings)}"


def summary(findings: KnobFindings) -> dict[str, Json]:
    """The headline for `perstep list`."""
    return headlines(findings, lambda one: {"headline": _finding(one)})


_DRAWINGS = {"experts": _drawing}


def content(manifest: Manifest, findings: KnobFindings, _samples: Samples) -> Content:
    """The page's: the curves of the picture."""
    return knob_content(manifest, findings, _DRAWINGS)
