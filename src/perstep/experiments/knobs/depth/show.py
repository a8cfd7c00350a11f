"""The findings of `depth` as tables, pictures and README."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from perstep._json import Json
from perstep._words import plural, short
from perstep.experiments.knobs import headlines, tables_of
from perstep.experiments.knobs.findings import KnobFindings, Summary, damage
from perstep.experiments.knobs.latency_model import StageFit
from perstep.experiments.knobs.show import (
    FAR_APART,
    QUALITY,
    STEP,
    Drawing,
    Samples,
    fit_note,
    has_quality,
    knob_content,
    knob_files,
    line,
    nothing_measured,
    one_table,
    random_quality,
    share,
    subject,
)
from perstep.report import Table
from perstep.report.format import significant
from perstep.report.page import Content
from perstep.report.panels import Panel, Series
from perstep.runs import Manifest


def tables(manifest: Manifest, findings: KnobFindings) -> list[Table]:
    """A table a model: a row a configuration, measured beside expected in a column of its own."""
    return tables_of(manifest, findings, _table)


def _table(manifest: Manifest, findings: KnobFindings) -> Table:
    full = full_of(findings)

    def of_full(s: Summary) -> float | None:
        return None if full is None or s.decode_ms is None or not full.decode_ms else s.decode_ms / full.decode_ms

    measured = share("decode of full, measured", of_full)
    proportional = share("proportional", lambda s: s.num_active_blocks / s.num_total_blocks)
    notes = [fit_note(stage, fit, "blocks") for stage, fit in findings.fits.items()]
    bends = {stage: knee_words(findings, stage) for stage in findings.fits}
    notes += [f"{stage}: {words}." for stage, words in bends.items() if words]
    notes += [f"Fixed share (Amdahl): {fixed_words(findings)}."] if findings.fits else []
    if findings.under is not None:
        chosen = findings.under.label or "none"
        notes.append(f"Under {short(findings.under.budget_ms)} ms: {chosen} ({findings.under.reason}).")
    columns = (*STEP, measured, proportional, *QUALITY)
    return one_table(f"depth: {subject(manifest, findings)}", findings, "active blocks", columns, notes)


def files(manifest: Manifest, findings: KnobFindings) -> Mapping[str, bytes]:
    """`depth.png` and, where quality was measured, `quality.png`, their CSV, all samples, the model, `README.md`."""
    return knob_files(__package__, manifest, findings, _drawings(findings), _words)


def content(manifest: Manifest, findings: KnobFindings, _samples: Samples) -> Content:
    """The page's: the curves of the pictures."""
    return knob_content(manifest, findings, _drawings(findings))


def _drawings(findings: KnobFindings) -> dict[str, Callable[[KnobFindings], Drawing]]:
    drawings: dict[str, Callable[[KnobFindings], Drawing]] = {"depth": depth_drawing}
    if has_quality(findings) and any(s.decode_step_ms for s in findings.summary):
        drawings["quality"] = quality_drawing
    return drawings


def _words(manifest: Manifest, findings: KnobFindings) -> dict[str, Json]:
    """What the text says of one model."""
    return {
        "full": full_of(findings),
        "fixed": fixed_words(findings),
        "knees": {stage: knee_words(findings, stage) for stage in findings.fits},
        "has_quality": has_quality(findings),
        "tables": [_table(manifest, findings)],
    }


def summary(findings: KnobFindings) -> dict[str, Json]:
    """The headline for `perstep list`."""
    return headlines(findings, _headline)


def _main_fit(findings: KnobFindings) -> StageFit | None:
    """That of a decode forward, or of the prefill where there is none; None where nothing was measured."""
    return findings.fits.get("decode_per_forward") or findings.fits.get("prefill")


def _headline(findings: KnobFindings) -> dict[str, Json]:
    fit = _main_fit(findings)
    return {
        "headline": fixed_words(findings),
        "fixed_share": None if fit is None else fit.fixed_share,
        "r_squared": None if fit is None else fit.r_squared,
        "heldout_error": None if fit is None else fit.heldout_error,
        "knee": None if fit is None or fit.knee is None else fit.knee.at,
        "under": None if findings.under is None else findings.under.label,
    }


def full_of(findings: KnobFindings) -> Summary | None:
    """The configuration in which every block runs, if it was measured."""
    return next((s for s in findings.summary if s.num_active_blocks == s.num_total_blocks and s.samples), None)


def fixed_words(findings: KnobFindings) -> str:
    """Amdahl's fixed share in words, as far as the rounds resolve it."""
    fit = _main_fit(findings)
    if fit is None:
        return nothing_measured(findings)
    stage = "a decode forward" if "decode_per_forward" in findings.fits else "the prefill"
    if fit.fixed_share is None:
        return f"no fixed share of {stage}: {fit.reason}"
    low, high = fit.fixed_share_ci_low, fit.fixed_share_ci_high
    if fit.fixed_share <= 0:
        below = f"no fixed share of {stage}: the line meets depth 0 below nothing ({fit.fixed_share:.1%})"
        if high is None or high > 0:
            return f"{below}, which may be chance"
        return (
            f"{below}, because a block costs more the more of them there are, as where their weights no longer fit into"
            " a cache"
        )
    least = "" if fit.knee is None else "at least "
    sentence = f"{least}{fit.fixed_share:.1%} of {stage} does not shrink with the blocks"
    if low is None or high is None:
        return f"{sentence} (too few rounds for an interval)"
    if low <= 0 <= high:
        return f"what of {stage} does not shrink with the blocks is not resolved: {low:.1%} to {high:.1%}"
    return f"{sentence} (95 % interval {low:.1%} to {high:.1%})"


def knee_words(findings: KnobFindings, stage: str) -> str:
    """Where the slope of a stage changes and what that may come from; empty where a line does."""
    fit = findings.fits.get(stage)
    if fit is None or fit.knee is None or fit.slope_ms is None:
        return ""
    knee = fit.knee
    before, beyond = significant(fit.slope_ms), significant(knee.slope_beyond_ms)
    change = (
        f"beyond {knee.at:.1f} blocks (95 % interval {knee.ci_low:.1f} to {knee.ci_high:.1f}) a block adds"
        f" {beyond} instead of {before} ms to a {stage.split('_')[0]} forward"
    )
    weights = [(s.knob, s.weight_bytes) for s in findings.summary if s.weight_bytes is not None]
    if knee.slope_beyond_ms <= fit.slope_ms or not weights:
        return change
    weights.sort()
    weights_mb = float(np.interp(knee.at, [knob for knob, _ in weights], [size for _, size in weights])) / 1e6
    return (
        f"{change}, as where the weights that a forward goes over (there {short(weights_mb, 3)} MB in"
        f" {short(fit.at(knee.at), 3)} ms) no longer stay in a cache until the next one"
    )


def depth_drawing(findings: KnobFindings) -> Drawing:
    """Prefill and decode against the active blocks, with the fitted line and proportion beside it."""
    title = f"{findings.model}: {fixed_words(findings).split(':')[0]}"
    if knee_words(findings, "decode_per_forward"):
        title += f"\n{knee_words(findings, 'decode_per_forward').split(', as')[0]}"
    panels = [_panel(findings, "prefill", "prefill_ms", "prefill forward (ms)")]
    if any(s.decode_ms is not None for s in findings.summary):
        panels.append(_panel(findings, "decode_per_forward", "decode_ms", "decode forward (ms)"))
    return Drawing(findings.model, title, panels)


def _panel(findings: KnobFindings, stage: str, attribute: str, y_label: str) -> Panel:
    rows = [s for s in findings.summary if getattr(s, attribute) is not None]
    xs = [s.knob for s in rows]
    series = [Series("measured", xs, [getattr(s, attribute) for s in rows], shade=0)]
    fit, full = findings.fits.get(stage), full_of(findings)
    if fit is not None:
        series += line(fit, xs)
    if full is not None and getattr(full, attribute) is not None:
        cost = getattr(full, attribute)
        series.append(
            Series("in proportion", [0, full.knob], [0, cost], kind="dashed", shade=1),
        )
    suffix = ""
    if fit is not None and fit.slope_ms is not None and fit.r_squared is not None:
        suffix = f": {short(fit.slope_ms, 3)} ms a block, R² {fit.r_squared:.3f}"
    if fit is not None and fit.knee is not None and fit.slope_ms is not None:
        beyond = significant(fit.knee.slope_beyond_ms)
        suffix = f": {significant(fit.slope_ms)} ms a block, {beyond} beyond {fit.knee.at:.1f}, R² {fit.r_squared:.3f}"
    return Panel(stage.replace("_", " ") + suffix, "active blocks", y_label, series)


def quality_drawing(findings: KnobFindings) -> Drawing:
    """What is lost in quality against the decode step, with those that are not beaten marked."""
    name, lost = damage(findings.summary)
    points = [
        (s.decode_step_ms, value, s)
        for s, value in zip(findings.summary, lost, strict=True)
        if value is not None and s.decode_step_ms is not None
    ]
    kept = sorted((point for point in points if point[2].pareto), key=lambda point: point[:2])
    y_label = "perplexity (less is better)" if name == "perplexity" else "KL from the full model (nats, less is better)"
    series = [
        _scatter("on the Pareto front", kept, 0),
        Series("Pareto front", [x for x, _, _ in kept], [y for _, y, _ in kept], kind="steps", shade=0),
    ]
    beaten = [point for point in points if not point[2].pareto]
    if beaten:
        series.append(_scatter("another is faster and better", beaten, 1))
    of = f"of {plural(len(points), 'configuration')} worth"
    title = f"{findings.model}: {plural(len(kept), f'{of} its time', f'{of} their time')}"
    if findings.under is not None and findings.under.label is not None:
        title += f"; best under {short(findings.under.budget_ms)} ms: {findings.under.label}"
    title = "\n".join([title, *random_quality(findings)])
    values = [value for _, value, _ in points]
    apart = name == "perplexity" and max(values) > FAR_APART * min(values)
    panels = [Panel("", "decode step (ms)", y_label, series, log_y=apart, from_zero=name == "kl")]
    return Drawing(findings.model, title, panels)


def _scatter(name: str, points: Sequence[tuple[float, float, Summary]], shade: int) -> Series:
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    return Series(
        name, xs, ys, left=[s.decode_step_ci_low for _, _, s in points],
        right=[s.decode_step_ci_high for _, _, s in points], labels=[s.label for _, _, s in points], shade=shade,
    )  # fmt: skip
