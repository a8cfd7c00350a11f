"""What `results.json` of depth, experts, context and output holds: the published schema's source.

Times are in milliseconds, under the names that the schema has (`perstep.data.knob_results_schema_path`).
`T_LLM_decode` is the total over a call's decode forwards, of which N tokens have N - 1 (law 5). A percentile that the
sample cannot support is null and says why.
"""

import msgspec

from perstep.experiments.knobs.latency_model import LatencyModel, StageFit
from perstep.machine import NoiseSummary


class Quality(msgspec.Struct, kw_only=True):
    """What a configuration's predictions are worth, teacher-forced over tokens that all configurations share.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of the text; null without a text.
        kl: mean Kullback-Leibler divergence of the full model's next-token distribution from this one's, in nats.
        top1_agreement: share of positions at which both hold the same token for the most probable.
        scored_tokens: positions behind these.
        random_weights: whether the weights were random, so that these say nothing of a trained model (law 14).
    """

    perplexity: float | None
    kl: float
    top1_agreement: float
    scored_tokens: int
    random_weights: bool = False


class Configuration(msgspec.Struct, kw_only=True):
    """One setting of the knobs.

    Attributes:
        label: as tables show it.
        knob: the value on the axis of the experiment's plot.
        num_input_text_tokens: of the prompt, a row; the mean over the prompts where there are several.
        num_vision_tokens: of the prompt, a row, counted in what the model was given.
        num_output_tokens: generated tokens, a row.
        top_k: experts a token, of a mixture-of-experts model; null for a dense one.
        experts_implementation: as transformers names it.
        quality: null where none was measured.
        syncs_per_step: places where the host waits for the device, or would; null where not counted.
        failed: why it could not be measured from some round on, or empty.
        prompt_text_tokens: text tokens of each prompt of `--prompts`, in the file's order; empty without it.
        weight_bytes: of the weights that a decode forward goes over, those of the active blocks and of the head; null
            outside `depth`, and where the experts that are taken decide.
        model: name of the model; empty only in the manifests of runs that were stored before there could be several.
    """

    label: str
    knob: float
    num_active_blocks: int
    num_total_blocks: int
    active_block_indices: list[int]
    num_input_text_tokens: int | float
    num_vision_tokens: int
    num_output_tokens: int
    top_k: int | None = None
    experts_implementation: str | None = None
    quality: Quality | None = None
    syncs_per_step: float | None = None
    failed: str = ""
    prompt_text_tokens: list[int] = []
    weight_bytes: int | None = None
    model: str = ""


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
    prompts: list[PromptCost] = []


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


class KnobFindings(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`results.json`.

    Attributes:
        models: name -> its own findings, where there are several models: then `fits`, `latency_model`, `under` and
            `positions_ms` stand there, and are empty here. Without several models it is left out.
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
    noise: NoiseSummary
    unresolved: str
    invalid: str
    models: dict[str, ModelFindings] = {}


def results_schema() -> bytes:
    """The published schema of `results.json`, as it is stored in `perstep.data`."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(KnobFindings), order="sorted"), indent=1) + b"\n"
