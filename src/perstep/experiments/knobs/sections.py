"""The report of a knob for one model, or a section of it for each of several.

Whoever draws a table, a picture or a text of a knob draws it for one model. Here the findings of a run of several are
taken apart into such, and what was drawn is put together: tables one after another, pictures in rows, texts in
sections.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from perstep.experiments.knobs.records import KnobFindings, ModelFindings
from perstep.report import Table
from perstep.report.panels import Panel, grid_png
from perstep.report.words import render
from perstep.runs import Manifest

_ABOVE = (
    "All configurations of all models took turns in the same rounds. Everything below is of one model each: no fit,"
    " front or budget mixes two."
)

Part = tuple[Manifest, KnobFindings]


@dataclass(frozen=True)
class Drawing:
    """A picture of one model.

    Attributes:
        model: its name.
        title: the finding, which begins with that name.
        panels: side by side.
    """

    model: str
    title: str
    panels: list[Panel]


def parts(manifest: Manifest, findings: KnobFindings) -> list[Part]:
    """Manifest and findings of each model as they would be if it were alone; of those with a sample.

    Of one model they are what they are, samples or not.
    """
    if not findings.models:
        return [(manifest, findings)]
    return [
        (_manifest_of(manifest, name), _alone(findings, name, own))
        for name, own in findings.models.items()
        if any(s.samples for s in findings.summary if s.model == name)
    ]


def _manifest_of(manifest: Manifest, name: str) -> Manifest:
    own = manifest.conditions["models"][name]
    return msgspec.structs.replace(
        manifest,
        model=own["model"],
        workload={**manifest.workload, **own["workload"]},
        conditions={**manifest.conditions, **own["conditions"]},
    )


def _alone(findings: KnobFindings, name: str, own: ModelFindings) -> KnobFindings:
    return msgspec.structs.replace(
        findings,
        model=name,
        summary=[s for s in findings.summary if s.model == name],
        all_samples=[s for s in findings.all_samples if s.model == name],
        models={},
        **msgspec.structs.asdict(own),
    )


def unmeasured(findings: KnobFindings) -> list[str]:
    """A sentence for each of several models of which there is no sample."""
    return [
        f"{name}: {own.unresolved}"
        for name, own in findings.models.items()
        if not any(s.samples for s in findings.summary if s.model == name)
    ]


def tables_of(
    manifest: Manifest, findings: KnobFindings, table: Callable[[Manifest, KnobFindings], Table]
) -> list[Table]:
    """A table a model; a model without a sample is named below the last."""
    made = [table(*part) for part in parts(manifest, findings)]
    if made and unmeasured(findings):
        made[-1] = replace(made[-1], notes=[*made[-1].notes, *unmeasured(findings)])
    return made


def picture(drawings: Sequence[Drawing], findings: KnobFindings) -> bytes:
    """The drawings as one picture, a row a model; of one model it is its drawing."""
    title = "\n".join(drawing.title for drawing in drawings)
    rows = [drawing.panels for drawing in drawings]
    if findings.models:
        rows = [
            [replace(panel, title="\n".join(filter(None, (drawing.model, panel.title)))) for panel in row]
            for drawing, row in zip(drawings, rows, strict=True)
        ]
    return grid_png(title, rows)


def readme(
    template: str,
    manifest: Manifest,
    findings: KnobFindings,
    values: Callable[[Manifest, KnobFindings], Mapping[str, Any]],
    pictures: Sequence[str],
) -> bytes:
    """The text of the template for each model.

    Args:
        template: its name.
        manifest: of the run.
        findings: of all models.
        values: what the template takes of a model, besides its manifest and findings.
        pictures: names of the files, which in a report of several models stand above its sections.
    """
    several = bool(findings.models)
    texts = [
        render(template, manifest=m, findings=f, several=several, **values(m, f)) for m, f in parts(manifest, findings)
    ]
    if not several:
        return texts[0]
    words = [
        f"# {findings.experiment}: {findings.model}",
        _ABOVE,
        *([f"**This run is invalid: {findings.invalid}.**"] if findings.invalid else []),
        *(f"**{sentence}.**" for sentence in unmeasured(findings)),
        *(f"![{name.removesuffix('.png')}]({name})" for name in pictures),
        *(re.sub(r"^#", "##", text.decode(), flags=re.MULTILINE).strip() for text in texts),
    ]
    return ("\n\n".join(words) + "\n").encode()


def headlines(findings: KnobFindings, headline: Callable[[KnobFindings], dict[str, Any]]) -> dict[str, Any]:
    """The headline of the model, or of each of several."""
    if not findings.models:
        return headline(findings)
    each = {
        name: headline(_alone(findings, name, own))
        for name, own in findings.models.items()
        if any(s.samples for s in findings.summary if s.model == name)
    }
    return {"headline": "; ".join(f"{name}: {own['headline']}" for name, own in each.items()), "models": each}
