"""How the findings of a knob are shown: what the four experiments' tables, pictures, texts and CSV files share.

Whoever draws a table, a picture or a text of a knob draws it for one model. The findings of a run of several are
taken apart into such, and what was drawn is put together: tables one after another, pictures in rows, texts in
sections.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from perstep._json import Json
from perstep.experiments.columns import qualifying_notes
from perstep.experiments.conditions import of_each_model, typed
from perstep.experiments.knobs.findings import KnobFindings, SampleRow, Summary
from perstep.experiments.knobs.latency_model import StageFit
from perstep.experiments.knobs.samples import Sample, Workload
from perstep.report import Column, Table, to_csv
from perstep.report.format import percent, plural, significant
from perstep.report.page import Content
from perstep.report.panels import Panel, Series, grid_png
from perstep.report.table import Value, in_files, interval_columns
from perstep.report.words import render
from perstep.runs import Manifest

_ABOVE = (
    "All configurations of all models took turns in the same rounds. Everything below is of one model each: no fit,"
    " front or budget mixes two."
)

Part = tuple[Manifest, KnobFindings]
Samples = Sequence[Sample]


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
    return [(of_each_model(manifest)[name], alone) for name, alone in _alone(findings).items()]


def _alone(findings: KnobFindings) -> dict[str, KnobFindings]:
    """The findings of each of several models of which there is a sample; where there is none of any, of all."""
    measured = {s.model for s in findings.summary if s.samples}
    return {
        name: msgspec.structs.replace(
            findings,
            model=name,
            summary=[s for s in findings.summary if s.model == name],
            all_samples=[s for s in findings.all_samples if s.model == name],
            models={},
            **msgspec.structs.asdict(own),
        )
        for name, own in findings.models.items()
        if name in measured or not measured
    }


def unmeasured(findings: KnobFindings) -> list[str]:
    """A sentence for each of several models of which there is no sample."""
    measured = _alone(findings)
    return [f"{name}: {own.unresolved}" for name, own in findings.models.items() if name not in measured]


def tables_of(
    manifest: Manifest, findings: KnobFindings, table: Callable[[Manifest, KnobFindings], Table]
) -> list[Table]:
    """A table a model; a model without a sample is named below the last."""
    tables = [table(*part) for part in parts(manifest, findings)]
    if tables and unmeasured(findings):
        tables[-1] = replace(tables[-1], notes=[*tables[-1].notes, *unmeasured(findings)])
    return tables


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
    package: str,
    manifest: Manifest,
    findings: KnobFindings,
    values: Callable[[Manifest, KnobFindings], Mapping[str, Json]],
    pictures: Sequence[str],
) -> bytes:
    """The text of an experiment for each model.

    Args:
        package: that of the experiment, where its template is.
        manifest: of the run.
        findings: of all models.
        values: what the template takes of a model, besides its manifest and findings.
        pictures: names of the files, if there are any; in a report of several models they stand above its sections.
    """
    several = bool(findings.models)
    texts = [
        render(package, manifest=m, findings=f, drawn=bool(pictures) and not several, **values(m, f))
        for m, f in parts(manifest, findings)
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


def headlines(findings: KnobFindings, headline: Callable[[KnobFindings], dict[str, Json]]) -> dict[str, Json]:
    """The headline of the model, or of each of several."""
    if not findings.models:
        return headline(findings)
    each = {name: headline(alone) for name, alone in _alone(findings).items()}
    return {"headline": "; ".join(f"{name}: {own['headline']}" for name, own in each.items()), "models": each}


def nothing_measured(findings: KnobFindings) -> str:
    """What is said of a model of which every configuration ran out of memory; empty if one did not."""
    return "" if any(s.samples for s in findings.summary) else "no configuration could be measured"


FAR_APART = 20
"""Costs that differ by more than this factor are drawn on a logarithmic axis, on which the small ones can be read."""

_MORE_THAN_A_LINE = 3
"""Points from which on a line can fail to go through them."""


def milliseconds(header: str, ms: Callable[[Summary], float | None], name: str = "") -> Column[Summary]:
    """A column of durations in milliseconds."""
    return Column(header, ms, significant, name, "ms")


def share(header: str, value: Callable[[Summary], float | None]) -> Column[Summary]:
    """A column of shares, as percentages."""
    return Column(header, value, percent)


def _quality(header: str | None, name: str, form: Callable[[Value], str], unit: str = "") -> Column[Summary]:
    """What a configuration's predictions are worth, in a table only where they were looked at."""

    def value(s: Summary) -> Value:
        return None if s.quality is None else getattr(s.quality, name)

    return Column(header, value, form, name, unit, optional=True)


SUMMARY: tuple[Column[Summary], ...] = (
    Column("configuration", lambda s: s.label, name="label", words=True),
    *in_files("num_active_blocks", "num_total_blocks"),
    Column("", lambda s: s.num_input_text_tokens, "{:,}".format, "num_input_text_tokens", "text tokens"),
    Column("", lambda s: s.num_vision_tokens, "{:,}".format, "num_vision_tokens", "vision tokens"),
    *in_files("num_output_tokens", "top_k", "experts_implementation"),
    Column("", lambda s: s.syncs_per_step, significant, "syncs_per_step", "syncs/step"),
    *in_files("samples"),
    milliseconds("prefill", lambda s: s.prefill_ms, "prefill_ms"),
    milliseconds("vision encoder", lambda s: s.vision_ms, "vision_ms"),
    milliseconds("whole call", lambda s: s.total_ms, "total_ms"),
    milliseconds("decode forward", lambda s: s.decode_ms, "decode_ms"),
    milliseconds("decode step", lambda s: s.decode_step_ms, "decode_step_ms"),
    *interval_columns(
        lambda s: (s.decode_step_ci_low, s.decode_step_ci_high),
        ("ms", 1.0),
        names=("decode_step_ci_low", "decode_step_ci_high"),
    ),
    Column("Pareto", lambda s: s.pareto, lambda best: "yes" if best else "", "pareto", optional=True),
    *in_files("failed", "active_block_indices"),
    _quality("perplexity", "perplexity", lambda value: significant(value, 4)),
    _quality("KL", "kl", "{:.3g}".format, "nats"),
    _quality("top-1 agreement", "top1_agreement", percent),
    _quality(None, "random_weights", str),
    *in_files("model"),
)
"""What there is of a configuration. Files have all that has a name; each experiment's table shows some."""
QUALITY = ("perplexity", "KL", "top-1 agreement", "Pareto")
STEP = ("prefill", "decode forward", "decode step", "95 % interval")


def doubt(findings: KnobFindings) -> str:
    """What a headline adds where the rounds do not resolve what it says."""
    return " (not resolved)" if findings.unresolved else ""


def has_quality(findings: KnobFindings) -> bool:
    """Whether any configuration's predictions were looked at."""
    return any(s.quality is not None for s in findings.summary)


def random_quality(findings: KnobFindings) -> list[str]:
    """What every place that shows quality says of random weights, or nothing (law "random weights are a statement")."""
    random = any(s.quality is not None and s.quality.random_weights for s in findings.summary)
    return ["The weights are random: KL, agreement and Pareto say nothing of a trained model."] if random else []


def one_table(
    title: str, findings: KnobFindings, label: str, columns: Sequence[str | Column[Summary]], notes: Sequence[str]
) -> Table:
    """A row a configuration; what failed and what is not resolved stands below.

    Args:
        title: what was measured.
        findings: of one model.
        label: over the configurations.
        columns: those of `SUMMARY` by their header, or others.
        notes: sentences under the table.
    """
    by_name = {column.header or column.unit: column for column in SUMMARY}
    failed = [f"{s.label}: {s.failed} ({plural(s.samples, 'sample')} kept)" for s in findings.summary if s.failed]
    return Table(
        title,
        [replace(SUMMARY[0], header=label), *(by_name[one] if isinstance(one, str) else one for one in columns)],
        findings.summary,
        [*notes, *random_quality(findings), *failed, *qualifying_notes(findings)],
    )


def fit_note(stage: str, fit: StageFit, of: str) -> str:
    """A line in words."""
    if fit.intercept_ms is None or fit.slope_ms is None or fit.r_squared is None:
        return f"{stage}: no line: {fit.reason}"
    straight = f"{stage} = {_law(of, fit.intercept_ms, fit.slope_ms)}"
    if fit.knee is not None:
        straight += f", or {significant(fit.knee.slope_beyond_ms)} ms for each of them beyond {fit.knee.at:.1f}"
    if fit.points < _MORE_THAN_A_LINE:
        return f"{straight}: {plural(fit.points, 'point')} fix a line and cannot judge it"
    if fit.curve is None:
        return f"{straight} (R² {fit.r_squared:.4f}, {_heldout(fit.heldout_error)})"
    curve = f"{stage} = {_law(of, *fit.curve.coefficients_ms)}"
    return f"{curve} ({_heldout(fit.curve.heldout_error)}; of a line {_heldout(fit.heldout_error)})"


def _law(of: str, constant: float, *coefficients: float) -> str:
    """A polynomial in words, each coefficient with its sign."""
    terms = [f"{significant(constant)} ms"]
    for power, coefficient in enumerate(coefficients, start=1):
        sign, name = "-" if coefficient < 0 else "+", of if power == 1 else f"({of})^{power}"
        terms.append(f"{sign} {significant(abs(coefficient))} ms x {name}")
    return " ".join(terms)


def _heldout(error: float | None) -> str:
    return "too few points for a held-out error" if error is None else f"held-out error at most {error:.1%}"


def subject(manifest: Manifest, findings: KnobFindings) -> str:
    """What was measured, for titles."""
    w = typed(manifest, Workload)
    rows = [s.samples for s in findings.summary]
    lengths = findings.summary[0].prompt_text_tokens
    spans = plural(max(lengths, default=0), "token")
    if len(set(lengths)) > 1:
        spans = f"{min(lengths)} to {spans}"
    prompts = f"{plural(len(lengths), 'prompt')} of {spans}, " if lengths else ""
    return (
        f"{findings.model}, batch {w.batch}, {w.dtype} on {w.device}, {prompts}{plural(max(rows), 'sample')} a "
        "configuration"
    )


def line(fit: StageFit, xs: Sequence[float], *, curved: bool = False) -> list[Series]:
    """The fit as a series, if there is one; `curved` draws it at 41 points, for a square term or logarithmic axes."""
    if fit.intercept_ms is None or fit.slope_ms is None:
        return []
    low, high = min(xs), max(xs)
    at = [low + (high - low) * (i / 40) ** 2 for i in range(41)] if curved else [low, high]
    if fit.curve is not None and curved:
        constant, linear, square = fit.curve.coefficients_ms
        return [Series("fitted line", at, [constant + linear * x + square * x * x for x in at], kind="line", shade=0)]
    if fit.knee is not None:
        at = sorted({*at, fit.knee.at})
    return [Series("fitted line", at, [fit.at(x) for x in at], kind="line", shade=0)]


def stage_panels(findings: KnobFindings, x_label: str) -> list[Panel]:
    """Prefill and, where there is any, decode against a knob."""
    panels = [_stage_panel(findings, "prefill", "prefill_ms", x_label, "prefill forward (ms)")]
    if any(s.decode_ms is not None for s in findings.summary):
        panels.append(_stage_panel(findings, "decode_per_forward", "decode_ms", x_label, "decode forward (ms)"))
    return panels


def _stage_panel(findings: KnobFindings, stage: str, attribute: str, x_label: str, y_label: str) -> Panel:
    """A stage against the knob, in each experts implementation, with the fitted line of each."""
    groups = list(dict.fromkeys(s.experts_implementation for s in findings.summary))
    series, costs = [], []
    for shade, group in enumerate(groups):
        rows = [s for s in findings.summary if s.experts_implementation == group]
        points = [(s.knob, getattr(s, attribute)) for s in rows if getattr(s, attribute) is not None]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        costs += ys
        series.append(Series("measured" if group is None else group, xs, ys, shade=shade))
        fit = findings.fits.get(stage if len(groups) == 1 else f"{stage}/{group}")
        if fit is not None and points:
            name = "fit" if group is None else f"{group}, fit"
            series += [replace(curve, name=name, shade=shade) for curve in line(fit, xs, curved=True)]
    apart = len(groups) > 1 and max(costs, default=0.0) > FAR_APART * min(costs, default=0.0) > 0
    return Panel(stage.replace("_", " "), x_label, y_label, series, log_x=apart, log_y=apart)


def knob_files(
    package: str,
    manifest: Manifest,
    findings: KnobFindings,
    drawings: Mapping[str, Callable[[KnobFindings], Drawing]],
    words: Callable[[Manifest, KnobFindings], Mapping[str, Json]],
) -> dict[str, bytes]:
    """The derived files of a run: pictures of what was measured, their CSV, all samples, the linear model, `README.md`.

    Args:
        package: that of the experiment, whose template is the text.
        manifest: of the run.
        findings: of all models.
        drawings: name of a picture -> draws it for one model.
        words: what the template takes of a model.
    """
    models = [alone for _, alone in parts(manifest, findings)]
    pictures = {} if nothing_measured(findings) else {f"{file}.png": drawing for file, drawing in drawings.items()}
    files = {name: picture([drawing(alone) for alone in models], findings) for name, drawing in pictures.items()}
    files |= {f"{file}.csv": summary_csv(findings).encode() for file in drawings}
    files["samples.csv"] = samples_csv(findings)
    files["latency_model.json"] = latency_model_json(findings)
    files["README.md"] = readme(package, manifest, findings, words, list(pictures))
    return files


def knob_content(
    manifest: Manifest, findings: KnobFindings, drawings: Mapping[str, Callable[[KnobFindings], Drawing]]
) -> Content:
    """The page's: what the pictures show, curve by curve.

    Args:
        manifest: of the run.
        findings: of all models.
        drawings: as in `knob_files`.
    """
    drawn = [drawing(alone) for _, alone in parts(manifest, findings) for drawing in drawings.values()]
    finding = "; ".join({drawing.model: drawing.title.split("\n")[0] for drawing in reversed(drawn)}.values())
    named = [
        replace(panel, title=": ".join(filter(None, (drawing.model, panel.title or drawing.title.split(": ", 1)[-1]))))
        for drawing in drawn
        for panel in drawing.panels
    ]
    return Content(finding, [] if nothing_measured(findings) else named)


def samples_csv(findings: KnobFindings) -> bytes:
    """Every call as a row, columns in the units of `results.json`."""
    return to_csv(in_files(*SampleRow.__struct_fields__), findings.all_samples).encode()


def summary_csv(findings: KnobFindings) -> str:
    """Every configuration as a row of plain numbers."""
    return to_csv(SUMMARY, findings.summary)


def latency_model_json(findings: KnobFindings) -> bytes:
    """The linear model as a file of its own, for predictions later; of several models one each, by name."""
    several = {name: own.latency_model for name, own in findings.models.items()}
    return msgspec.json.format(msgspec.json.encode(several or findings.latency_model), indent=2) + b"\n"
