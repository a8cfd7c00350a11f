"""What the rounds over a knob say: `results.json` of depth, experts, context and output, a pure function of samples.

Times are in milliseconds, under the names that the schema has (`perstep.data.knob_results_schema_path`). `T_LLM_decode`
is the total over a call's decode forwards, of which N tokens have N - 1 (law "divide by executed forwards"). A
percentile that the sample cannot support is null and says why. An estimate per forward is the mean over positions of
the medians over rounds (law "medians do not add"); its interval is that of the rounds' slowdowns, times it. Models
share rounds and nothing else: each is judged by itself.
"""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from perstep._words import plural, short
from perstep.experiments.columns import TOO_FEW, require_rounds, why_unresolved
from perstep.experiments.conditions import Model, typed
from perstep.experiments.knobs.latency_model import LatencyModel, StageFit, fit_latency_model, fit_stage
from perstep.experiments.knobs.samples import Configuration, KnobConditions, Pass, Sample, Workload
from perstep.machine import NoiseSummary, summarise_noise
from perstep.report.change import RelativeChange
from perstep.runs import Manifest
from perstep.stats import (
    MedianInterval,
    merge_until_independent,
    merged_interval,
    paired_change,
    round_slowdown,
    step_estimate,
    summarise,
    withhold,
)


class Spread(msgspec.Struct):
    """One stage over the samples of a configuration, all prompts together, in milliseconds.

    Attributes:
        unsupported: percentile -> why it is null.
    """

    P50: float | None
    P95: float | None
    P99: float | None
    mean: float
    std: float | None
    min: float
    max: float
    unsupported: dict[str, str] = {}


class PromptCost(msgspec.Struct, kw_only=True):
    """What one prompt of `--prompts` costs in a configuration: the estimates of `Summary` for it alone."""

    prompt_id: int
    num_input_text_tokens: int
    prefill_ms: float
    decode_ms: float | None
    decode_step_ms: float | None
    total_ms: float


class Summary(Configuration, kw_only=True):
    """A configuration and what it costs. With several prompts an estimate is the mean of theirs.

    Attributes:
        samples: calls measured.
        prefill: T_LLM_prefill; null where no call was measured, as the others.
        decode: T_LLM_decode, the total of a call; null where only one token is generated, as the next three.
        decode_per_forward: T_LLM_decode_per_forward.
        decode_ms: estimate of a decode forward.
        decode_step_ms: estimate of a whole decode step, with sampling, stop checks and the loop's own work.
        decode_step_ci_low: 95 % interval of the latter over rounds, all configurations of all models together; null
            with too few rounds.
        prefill_ms: estimate of the prefill forward.
        vision_ms: estimate of the vision tower; without images what it takes to see that there are none.
        total_ms: estimate of the whole call.
        pareto: no other configuration of the model is both faster in decode and better; null without quality.
        prompts: the estimates of each prompt of `--prompts`; empty without it.
    """

    samples: int
    prefill: Spread | None
    decode: Spread | None
    decode_per_forward: Spread | None
    vision: Spread | None
    total: Spread | None
    prefill_ms: float | None
    vision_ms: float | None
    total_ms: float | None
    decode_ms: float | None
    decode_step_ms: float | None
    decode_step_ci_low: float | None
    decode_step_ci_high: float | None
    pareto: bool | None = None
    prompts: list[PromptCost] = msgspec.field(default_factory=list)


class SampleRow(msgspec.Struct, kw_only=True):
    """One call; times in milliseconds. Samples with one `sample_id` were measured in one round.

    Attributes:
        prompt_id: the prompt's place among those of `--prompts`, from 0; 0 without it.
    """

    sample_id: int
    prompt_id: int
    num_active_blocks: int
    num_total_blocks: int
    active_block_indices: list[int]
    T_LLM_prefill: float
    T_LLM_decode: float
    T_LLM_decode_per_forward: float | None
    T_vision_total: float
    T_total: float
    num_input_text_tokens: int
    num_vision_tokens: int
    num_output_tokens: int
    top_k: int | None
    experts_implementation: str | None
    model: str


class Under(msgspec.Struct):
    """The best configuration within a latency budget.

    Attributes:
        budget_ms: of a decode step.
        label: of the configuration; null if none is fast enough.
        reason: in words.
    """

    budget_ms: float
    label: str | None
    reason: str


class ModelFindings(msgspec.Struct, kw_only=True):
    """What a run of several models says of one of them alone; the fields are those of `KnobFindings`."""

    fits: dict[str, StageFit]
    latency_model: LatencyModel
    under: Under | None
    positions_ms: list[float]
    unresolved: str
    invalid: str
    growth: RelativeChange | None = None


class KnobFindings(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`results.json`.

    Attributes:
        models: name -> its own findings, where there are several models: then `fits`, `latency_model`, `under` and
            `positions_ms` and `growth` stand there, and are empty here. Without several models it is left out.
    """

    schema_version: int
    experiment: str
    model: str
    unit: str
    batch: int
    summary: list[Summary]
    all_samples: list[SampleRow]
    fits: dict[str, StageFit]
    latency_model: LatencyModel
    under: Under | None
    positions_ms: list[float]
    """Decode forward at each position of the longest call: entry i is the forward that makes token i + 2.

    With several prompts it is the mean over prompts of each one's median."""
    growth: RelativeChange | None = None
    """The last quarter of those forwards against the first, paired in each round; null below 8 forwards."""
    noise: NoiseSummary
    unresolved: str
    invalid: str
    models: dict[str, ModelFindings] = {}


def results_schema() -> bytes:
    """The published schema of `results.json`, as it is stored in `perstep.data`."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(KnobFindings), order="sorted"), indent=1) + b"\n"


FEWEST_POSITIONS = 8
"""Forwards of a call below which nothing is said of how their cost changes along it."""
PERCENTS = (50, 95, 99)
_MS = 1e6


def columns_of(samples: Sequence[Sample], arm: int, attribute: str) -> NDArray[np.float64]:
    """A duration of a configuration's calls in nanoseconds, a row a round.

    The columns are the positions of the first prompt, then those of the next: prompts have as many each, so that a
    mean over columns is the mean over prompts of their own means, and no prompt's position meets another's.

    Args:
        samples: the rounds; one in which the configuration did not finish with every prompt is passed over.
        arm: the configuration.
        attribute: of `Pass`.

    Returns:
        [rounds, prompts x positions]; a duration that a call has once has one position.
    """
    rounds = [_finished(sample, arm) for sample in samples]
    rows = [[np.atleast_1d(_nanoseconds(p, attribute)) for p in passes] for passes in rounds if passes]
    return np.array([np.concatenate(row) for row in rows], np.float64)


def passes_of(samples: Sequence[Sample], arm: int) -> list[Pass]:
    """The calls of a configuration in the rounds that it finished, in the order of rounds."""
    return [p for sample in samples for p in _finished(sample, arm)]


def _finished(sample: Sample, arm: int) -> list[Pass]:
    """A round's calls of a configuration by prompt; none where one of them failed."""
    passes = [p for p in sample.passes if p.arm == arm]
    return [] if any(p.failed for p in passes) else sorted(passes, key=lambda p: p.prompt)


def _nanoseconds(p: Pass, attribute: str) -> NDArray[np.int64]:
    value = getattr(p, attribute)
    return np.zeros(0, np.int64) if value is None else value


def analyse_knob(manifest: Manifest, samples: Sequence[Sample], *, invalid: str = "") -> KnobFindings:
    """The findings of any of the four experiments.

    Args:
        manifest: with its `configurations` among the conditions.
        samples: the rounds.
        invalid: what makes them invalid besides.

    Raises:
        InputError: there are no samples.
    """
    require_rounds(samples)
    conditions = typed(manifest, KnobConditions)
    configurations = conditions.configurations
    summary = [_summarise(c, samples, arm, len(configurations)) for arm, c in enumerate(configurations)]
    models = list(dict.fromkeys(c.model for c in configurations))
    by_model = {model: _of_model(model, manifest, conditions, samples, summary) for model in models}
    one = by_model[models[0]] if len(models) == 1 else _of_all(by_model)
    return KnobFindings(
        schema_version=1,
        experiment=manifest.experiment,
        model=typed(manifest, Model).name,
        unit="ms",
        batch=typed(manifest, Workload).batch,
        summary=summary,
        all_samples=[row for arm, c in enumerate(configurations) for row in _rows(c, samples, arm)],
        fits=one.fits,
        latency_model=one.latency_model,
        under=one.under,
        positions_ms=one.positions_ms,
        growth=one.growth,
        noise=summarise_noise(s.noise for s in samples),
        unresolved=one.unresolved,
        invalid="; ".join(reason for reason in (invalid, one.invalid) if reason),
        models=by_model if len(models) > 1 else {},
    )


def _of_model(
    model: str,
    manifest: Manifest,
    conditions: KnobConditions,
    samples: Sequence[Sample],
    everything: Sequence[Summary],
) -> ModelFindings:
    """What the configurations of one model say; marks those that are not beaten."""
    arms = [arm for arm, s in enumerate(everything) if s.model == model]
    summary = [everything[arm] for arm in arms]
    _mark_pareto(summary)
    budget_s = manifest.plan.get("under")
    measured = [s for s in summary if s.samples]
    unchanged = [arm for arm in conditions.unchanged if arm in arms]
    differing = sum(p.differing for arm in unchanged for p in passes_of(samples, arm))
    nothing = "" if measured else f"no configuration could be measured: {summary[0].failed}"
    reasons = (
        [f"the unchanged model made {plural(differing, 'choice')} that the replayed trace did not"] if differing else []
    )
    others = any(s.samples for s in everything)
    if nothing and not others:  # where others were measured, theirs are to be believed
        reasons.append(nothing)
    longest = max(arms, key=lambda arm: everything[arm].num_output_tokens if everything[arm].samples else 0)
    columns = columns_of(samples, longest, "decode_ns")
    return ModelFindings(
        fits=_fits(everything, arms, samples, manifest.experiment),
        latency_model=fit_latency_model(measured),
        under=None if budget_s is None else _under(measured, 1e3 * budget_s),
        positions_ms=_by_prompt(columns, everything[longest]).mean(axis=0).tolist() if columns.size else [],
        growth=_growth(columns, everything[longest], samples),
        unresolved=nothing if nothing and others else _unresolved(measured, conditions.precision),
        invalid="; ".join(reasons),
    )


def _growth(columns: NDArray[np.float64], longest: Summary, samples: Sequence[Sample]) -> RelativeChange | None:
    """How the last quarter of a call's forwards compares with the first, in the same rounds."""
    positions = longest.num_output_tokens - 1
    if not columns.size or positions < FEWEST_POSITIONS:
        return None
    rounds = columns.reshape(len(columns), -1, positions)
    early, late = (rounds[:, :, part].mean(axis=(1, 2)) for part in quarters(positions))
    busy = summarise_noise(sample.noise for sample in samples).busy
    return RelativeChange.of(withhold(paired_change(early, late), busy))


def quarters(positions: int) -> tuple[slice, slice]:
    """The first and the last quarter of the positions."""
    return slice(0, positions // 4), slice(positions - positions // 4, positions)


def _of_all(by_model: dict[str, ModelFindings]) -> ModelFindings:
    """What stands above several models: no figure, and what is wrong with whom."""
    return ModelFindings(
        fits={},
        latency_model=LatencyModel(stages={}, knobs=[]),
        under=None,
        positions_ms=[],
        unresolved="; ".join(f"{model}: {own.unresolved}" for model, own in by_model.items() if own.unresolved),
        invalid="; ".join(f"{model}: {own.invalid}" for model, own in by_model.items() if own.invalid),
    )


def _summarise(c: Configuration, samples: Sequence[Sample], arm: int, comparisons: int) -> Summary:
    passes = passes_of(samples, arm)
    failed = next((p.failed for s in samples for p in s.passes if p.arm == arm and p.failed), c.failed)
    fields = {**msgspec.structs.asdict(c), "failed": failed, "samples": len(passes)}
    nothing = dict.fromkeys(set(Summary.__struct_fields__) - set(fields) - {"pareto", "prompts"})
    if not passes:
        return Summary(**{**fields, **nothing})
    decode, steps = columns_of(samples, arm, "decode_ns"), columns_of(samples, arm, "step_ns")
    calls = decode.reshape(len(passes), -1)
    interval = step_interval(steps, comparisons)[0] if decode.size else None
    return Summary(
        **fields,
        prefill=_spread([p.prefill_ns for p in passes]),
        decode=_spread(calls.sum(axis=1)) if decode.size else None,
        decode_per_forward=_spread(calls.mean(axis=1)) if decode.size else None,
        vision=_spread([p.vision_ns for p in passes]),
        total=_spread([p.total_ns for p in passes]),
        prefill_ms=_estimate_ms(samples, arm, "prefill_ns"),
        vision_ms=_estimate_ms(samples, arm, "vision_ns"),
        total_ms=_estimate_ms(samples, arm, "total_ns"),
        decode_ms=step_estimate(decode) / _MS if decode.size else None,
        decode_step_ms=step_ms(steps) if decode.size else None,
        decode_step_ci_low=None if interval is None else interval.low,
        decode_step_ci_high=None if interval is None else interval.high,
        prompts=_prompt_costs(c, samples, arm),
    )


def _prompt_costs(c: Configuration, samples: Sequence[Sample], arm: int) -> list[PromptCost]:
    if not c.prompt_text_tokens:
        return []

    def mean_ms(attribute: str) -> list[float]:
        medians_ms = _by_prompt(columns_of(samples, arm, attribute), c)
        return [float(row.mean()) for row in medians_ms]

    prefill, total = mean_ms("prefill_ns"), mean_ms("total_ns")
    decodes = c.num_output_tokens > 1
    decode, steps = (mean_ms("decode_ns"), mean_ms("step_ns")) if decodes else ([], [])
    return [
        PromptCost(
            prompt_id=i,
            num_input_text_tokens=tokens,
            prefill_ms=prefill[i],
            decode_ms=decode[i] if decodes else None,
            decode_step_ms=steps[i] if decodes else None,
            total_ms=total[i],
        )
        for i, tokens in enumerate(c.prompt_text_tokens)
    ]


def _estimate_ms(samples: Sequence[Sample], arm: int, attribute: str) -> float:
    return step_estimate(columns_of(samples, arm, attribute)) / _MS


def _by_prompt(columns_ns: NDArray[np.float64], c: Configuration) -> NDArray[np.float64]:
    """Medians over rounds in milliseconds, [prompts, positions]."""
    medians_ns: NDArray[np.float64] = np.median(columns_ns, axis=0)
    return medians_ns.reshape(max(len(c.prompt_text_tokens), 1), -1) / _MS


def _spread(values_ns: ArrayLike) -> Spread:
    summary = summarise(np.asarray(values_ns, np.float64) / _MS, PERCENTS)
    p50, p95, p99 = (summary.percentile(percent).value for percent in PERCENTS)
    return Spread(
        P50=p50,
        P95=p95,
        P99=p99,
        mean=summary.mean,
        std=summary.std,
        min=summary.min,
        max=summary.max,
        unsupported={f"P{short(p.percent)}": p.reason for p in summary.percentiles if p.value is None},
    )


def round_levels(steps_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The estimate of a step from each round alone, in milliseconds: the round's slowdown times the estimate.

    Args:
        steps_ns: [rounds, positions], at least one position; those of all prompts side by side.
    """
    return round_slowdown(steps_ns) * step_estimate(steps_ns) / _MS


def step_ms(steps_ns: NDArray[np.float64]) -> float:
    """The estimate of a step from all rounds, [rounds, positions], in milliseconds."""
    return step_estimate(steps_ns) / _MS


def step_interval(steps_ns: NDArray[np.float64], configurations: int) -> tuple[MedianInterval | None, int]:
    """The 95 % interval of a step over its rounds, in milliseconds, and the number of independent values behind it.

    Args:
        steps_ns: [rounds, positions], at least one position.
        configurations: how many intervals are shown together.
    """
    levels = round_levels(steps_ns)
    merged = merge_until_independent(levels[:, None], lambda t: t[:, 0], comparisons=configurations)
    return merged_interval(merged, comparisons=configurations), len(merged.values)


def _rows(c: Configuration, samples: Sequence[Sample], arm: int) -> list[SampleRow]:
    return [_row(c, sample.round, p) for sample in samples for p in sample.passes if p.arm == arm and not p.failed]


def _row(c: Configuration, sample_id: int, p: Pass) -> SampleRow:
    decode_ns = 0 if p.decode_ns is None else int(p.decode_ns.sum())
    forwards = 0 if p.decode_ns is None else len(p.decode_ns)
    return SampleRow(
        sample_id=sample_id,
        prompt_id=p.prompt,
        num_active_blocks=c.num_active_blocks,
        num_total_blocks=c.num_total_blocks,
        active_block_indices=c.active_block_indices,
        T_LLM_prefill=p.prefill_ns / _MS,
        T_LLM_decode=decode_ns / _MS,
        T_LLM_decode_per_forward=decode_ns / forwards / _MS if forwards else None,
        T_vision_total=p.vision_ns / _MS,
        T_total=p.total_ns / _MS,
        num_input_text_tokens=c.prompt_text_tokens[p.prompt] if c.prompt_text_tokens else int(c.num_input_text_tokens),
        num_vision_tokens=c.num_vision_tokens,
        num_output_tokens=c.num_output_tokens,
        top_k=c.top_k,
        experts_implementation=c.experts_implementation,
        model=c.model,
    )


def _fits(
    everything: Sequence[Summary], of: Sequence[int], samples: Sequence[Sample], experiment: str
) -> dict[str, StageFit]:
    """Each stage of the arms of one model against the knob; where implementations differ, against the knob in each."""
    stages: dict[str, Callable[[Summary], float | None]] = {
        "prefill": lambda s: s.prefill_ms,
        "vision": lambda s: s.vision_ms if s.num_vision_tokens else None,
        "decode_per_forward": lambda s: s.decode_ms,
    }
    if experiment == "output":
        stages["decode"] = decode_total_ms
    groups = dict.fromkeys(everything[arm].experts_implementation for arm in of)
    fits = {}
    for group in groups:
        for stage, cost in stages.items():
            in_group = [arm for arm in of if everything[arm].experts_implementation == group]
            arms = [arm for arm in in_group if cost(everything[arm]) is not None]
            if arms:
                rows = [everything[arm] for arm in arms]
                knob = [float(s.num_vision_tokens) if stage == "vision" else s.knob for s in rows]
                name = stage if len(groups) == 1 else f"{stage}/{group}"
                costs_ms, rounds_ms = [cost(s) or 0.0 for s in rows], _rounds(samples, arms, stage)
                fits[name] = fit_stage(knob, costs_ms, rounds_ms, may_bend=experiment == "depth")
    return fits


def _rounds(samples: Sequence[Sample], arms: Sequence[int], stage: str) -> NDArray[np.float64] | None:
    """A stage in every round that holds all the arms, in milliseconds, [rounds, arms]."""
    if stage not in ("prefill", "decode_per_forward"):
        return None
    whole = [s for s in samples if all(_finished(s, arm) for arm in arms)]
    if not whole:
        return None
    attribute = "prefill_ns" if stage == "prefill" else "decode_ns"
    return np.stack([round_levels(columns_of(whole, arm, attribute)) for arm in arms], axis=1)


def decode_total_ms(s: Summary) -> float | None:
    """The estimate of a call's decode forwards together; null where there are none."""
    return None if s.decode_ms is None else s.decode_ms * (s.num_output_tokens - 1)


def damage(summary: Sequence[Summary]) -> tuple[str, list[float | None]]:
    """What is lost in quality, and its name: perplexity where all have one, else the divergence."""
    measured = [s.quality for s in summary if s.quality is not None]
    if measured and all(q.perplexity is not None for q in measured):
        return "perplexity", [None if s.quality is None else s.quality.perplexity for s in summary]
    return "kl", [None if s.quality is None else s.quality.kl for s in summary]


def _mark_pareto(summary: Sequence[Summary]) -> None:
    _, lost = damage(summary)
    points = [
        (s, s.decode_step_ms if s.decode_step_ms is not None else s.prefill_ms, value)
        for s, value in zip(summary, lost, strict=True)
    ]
    complete = [(s, cost, value) for s, cost, value in points if cost is not None and value is not None]
    for s, cost, value in complete:
        s.pareto = not any(
            other <= cost and worse <= value and (other < cost or worse < value) for _, other, worse in complete
        )


def _under(measured: Sequence[Summary], budget_ms: float) -> Under:
    name, lost = damage(measured)
    timed = [(s, value) for s, value in zip(measured, lost, strict=True) if s.decode_step_ms is not None]
    within = [(s, value) for s, value in timed if _upper(s) <= budget_ms]
    if not within:
        fastest = min(timed, key=lambda pair: _upper(pair[0]), default=None)
        closest = (
            "" if fastest is None else f"; the fastest, {fastest[0].label}, takes {short(_upper(fastest[0]), 3)} ms"
        )
        return Under(budget_ms, None, f"no configuration has decode steps within {short(budget_ms)} ms{closest}")
    if all(value is None for _, value in within):
        best = max(within, key=lambda pair: pair[0].num_active_blocks)[0]
        return Under(
            budget_ms, best.label, f"the deepest within {short(budget_ms)} ms: {short(_upper(best), 3)} ms a step"
        )
    best, value = min(((s, v) for s, v in within if v is not None), key=lambda pair: (pair[1], _upper(pair[0])))
    return Under(
        budget_ms,
        best.label,
        f"the least {name} ({short(value, 4)}) within {short(budget_ms)} ms: {short(_upper(best), 3)} ms a step at "
        "most",
    )


def _upper(s: Summary) -> float:
    """What a decode step takes, to be safe: the upper end of its interval where there is one."""
    assert s.decode_step_ms is not None  # noqa: S101
    return s.decode_step_ms if s.decode_step_ci_high is None else max(s.decode_step_ci_high, s.decode_step_ms)


def _unresolved(measured: Sequence[Summary], precision: float | None) -> str:
    timed = [s for s in measured if s.decode_step_ms is not None]
    without = [s.label for s in timed if s.decode_step_ci_low is None]
    if without:
        which = ", ".join(without) if len(without) <= 3 else f"{len(without)} of {plural(len(timed), 'configuration')}"
        return why_unresolved(f"no interval for {which}: the {TOO_FEW}", 0.0, precision)
    widths = {s.label: _half_width(s) for s in timed}
    widest = max(widths, key=widths.__getitem__, default="")
    return why_unresolved("", widths.get(widest, 0.0), precision, widest=f"of {widest}")


def _half_width(s: Summary) -> float:
    assert s.decode_step_ci_low is not None  # noqa: S101
    assert s.decode_step_ci_high is not None  # noqa: S101
    assert s.decode_step_ms is not None  # noqa: S101
    return (s.decode_step_ci_high - s.decode_step_ci_low) / 2 / s.decode_step_ms
