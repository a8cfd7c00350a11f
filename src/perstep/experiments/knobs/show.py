"""How the findings of a knob are shown: what the four experiments' tables, pictures and CSV files share."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from perstep.experiments.knobs.latency_model import StageFit
from perstep.experiments.knobs.records import KnobFindings, SampleRow, Summary
from perstep.report import Table
from perstep.report.format import interval, percent, plural, significant
from perstep.report.panels import Panel, Series
from perstep.report.table import to_csv
from perstep.runs import Manifest

Column = tuple[str, Callable[[Summary], str]]


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash."""
    return "–" if value is None else significant(value, digits)


def share(value: float | None) -> str:
    """A share as a percentage, or a dash."""
    return "–" if value is None else percent(value)


def step_interval(s: Summary) -> str:
    """The interval of the decode step."""
    return interval(s.decode_step_ci_low, s.decode_step_ci_high)


def has_quality(findings: KnobFindings) -> bool:
    """Whether any configuration's predictions were looked at."""
    return any(s.quality is not None for s in findings.summary)


def quality_columns(findings: KnobFindings) -> list[Column]:
    """Perplexity where there is a text, divergence and agreement, and who is not beaten."""
    if not has_quality(findings):
        return []
    columns: list[Column] = [
        ("KL (nats)", lambda s: "–" if s.quality is None else f"{s.quality.kl:.3g}"),
        ("top-1 agreement", lambda s: share(s.quality.top1_agreement if s.quality else None)),
        ("Pareto", lambda s: "yes" if s.pareto else ""),
    ]
    if any(s.quality is not None and s.quality.perplexity is not None for s in findings.summary):
        columns.insert(0, ("perplexity", lambda s: number(s.quality.perplexity if s.quality else None, 4)))
    return columns


def one_table(title: str, findings: KnobFindings, columns: Sequence[Column], notes: Sequence[str]) -> Table:
    """A row a configuration; what failed and what is not resolved stands below."""
    failed = [f"{s.label}: {s.failed} ({s.samples} samples kept)" for s in findings.summary if s.failed]
    unresolved = [f"Not resolved: {findings.unresolved}."] if findings.unresolved else []
    invalid = [f"INVALID: {findings.invalid}"] if findings.invalid else []
    return Table(
        title=title,
        header=[name for name, _ in columns],
        rows=[[cell(s) for _, cell in columns] for s in findings.summary],
        notes=[*notes, *failed, *unresolved, *invalid],
    )


def fit_note(stage: str, fit: StageFit, of: str) -> str:
    """A line in words."""
    if fit.intercept_ms is None or fit.slope_ms is None or fit.r_squared is None:
        return f"{stage}: no line: {fit.reason}"
    heldout = "–" if fit.heldout_error is None else f"{fit.heldout_error:.1%}"
    curved = "; a quadratic term predicts held-out points clearly better" if fit.curved else ""
    return (
        f"{stage} = {fit.intercept_ms:.3g} ms + {fit.slope_ms:.3g} ms x {of} (R² {fit.r_squared:.4f}, held-out error"
        f" at most {heldout}){curved}"
    )


def subject(manifest: Manifest, findings: KnobFindings) -> str:
    """What was measured, for titles."""
    w = manifest.workload
    rows = [s.samples for s in findings.summary]
    lengths = findings.summary[0].prompt_text_tokens
    spans = f"{min(lengths)}" if len(set(lengths)) == 1 else f"{min(lengths)} to {max(lengths)}" if lengths else ""
    prompts = f"{plural(len(lengths), 'prompt')} of {spans} tokens, " if lengths else ""
    return (
        f"{findings.model}, batch {w['batch']}, {w['dtype']} on {w['device']}, {prompts}"
        f"{max(rows)} samples a configuration"
    )


def line(fit: StageFit, xs: Sequence[float], *, curved: bool = False) -> list[Series]:
    """The fitted line as a series, if there is one; on a logarithmic axis, where it is curved, at many points."""
    if fit.intercept_ms is None or fit.slope_ms is None:
        return []
    low, high = min(xs), max(xs)
    at = [low + (high - low) * (i / 40) ** 2 for i in range(41)] if curved else [low, high]
    return [Series("fitted line", at, [fit.intercept_ms + fit.slope_ms * x for x in at], kind="line", shade=0)]


def knob_panel(
    findings: KnobFindings, stage: str, attribute: str, x_label: str, y_label: str, *, log_x: bool = False
) -> Panel:
    """A stage against the knob, in each experts implementation, with the fitted line where there is one group."""
    groups = list(dict.fromkeys(s.experts_implementation for s in findings.summary))
    series = []
    for shade, group in enumerate(groups):
        rows = [s for s in findings.summary if s.experts_implementation == group]
        points = [(s.knob, getattr(s, attribute)) for s in rows if getattr(s, attribute) is not None]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        series.append(Series("measured" if group is None else group, xs, ys, shade=shade))
        fit = findings.fits.get(stage if len(groups) == 1 else f"{stage}/{group}")
        if fit is not None and points:
            name = "fitted line" if group is None else f"{group}, fitted line"
            series += [replace(made, name=name, shade=shade) for made in line(fit, xs, curved=log_x)]
    return Panel(stage.replace("_", " "), x_label, y_label, series, log_x=log_x)


def samples_csv(findings: KnobFindings) -> bytes:
    """Every call as a row, columns in the units of `results.json`."""
    names = list(SampleRow.__struct_fields__)
    rows: list[list[object]] = []
    for sample in findings.all_samples:
        values = msgspec.structs.asdict(sample)
        values["active_block_indices"] = " ".join(map(str, sample.active_block_indices))
        rows.append([values[name] for name in names])
    return to_csv(names, rows).encode()


def summary_csv(findings: KnobFindings) -> str:
    """Every configuration as a row of plain numbers."""
    plain = (
        "label", "num_active_blocks", "num_total_blocks", "num_input_text_tokens", "num_vision_tokens",
        "num_output_tokens", "top_k", "experts_implementation", "syncs_per_step", "samples", "prefill_ms", "vision_ms",
        "total_ms", "decode_ms", "decode_step_ms", "decode_step_ci_low", "decode_step_ci_high", "pareto", "failed",
    )  # fmt: skip
    quality = ("perplexity", "kl", "top1_agreement")
    rows: list[list[object]] = []
    for s in findings.summary:
        scores = [None if s.quality is None else getattr(s.quality, name) for name in quality]
        blocks = " ".join(map(str, s.active_block_indices))
        rows.append([*(getattr(s, name) for name in plain), blocks, *scores, s.model])
    return to_csv([*plain, "active_block_indices", *quality, "model"], rows)


def latency_model_json(findings: KnobFindings) -> bytes:
    """The linear model as a file of its own, for predictions later; of several models one each, by name."""
    several = {name: own.latency_model for name, own in findings.models.items()}
    return msgspec.json.format(msgspec.json.encode(several or findings.latency_model), indent=2) + b"\n"
