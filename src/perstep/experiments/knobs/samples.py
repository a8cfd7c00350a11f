"""The samples of the knobs: the passes of a round. And what their manifests hold."""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from perstep._words import plural
from perstep.errors import InvalidMeasurement
from perstep.experiments.conditions import ReplayedWorkload, WarmConditions, typed
from perstep.machine import Noise
from perstep.measure import RESIDUAL, Recorder
from perstep.report.export import Measured
from perstep.runs import Column, Manifest

FORWARD, VISION = "forward", "vision"

BOUNDARIES = {
    "T_LLM_prefill": "the forward over the prompt: embedding, every active block, final norm and head; without vision",
    "T_LLM_decode": "all decode forwards of the call together, each with embedding, every active block, final norm "
    "and head",
    "T_LLM_decode_per_forward": "T_LLM_decode over the decode forwards that were executed: N - 1 for N tokens",
    "T_vision_total": "vision tower and projector, once a call; 0 for a text model",
    "T_total": "the whole call, from its beginning to the last stop check: besides the stages above preparation, "
    "sampling, stop checks and the loop's own work",
}


class Quality(msgspec.Struct, kw_only=True):
    """What a configuration's predictions are worth, teacher-forced over tokens that all configurations share.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of the text; null without a text.
        kl: mean Kullback-Leibler divergence of the full model's next-token distribution from this one's, in nats.
        top1_agreement: share of positions at which both hold the same token for the most probable.
        scored_tokens: positions behind these.
        random_weights: whether the weights were random, so that these say nothing of a trained model (law "random
            weights are a statement").
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
        model: name of the model; the session fills it in.
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


class KnobConditions(WarmConditions, kw_only=True):
    """How the knobs measured: what a run of several models says of all of them.

    Attributes:
        configurations: of all models, in the order of `Pass.arm`.
        unchanged: arms in which a model chose the trace itself.
        end_tokens: what becomes of them, in words.
        marks: what they cost, in words.
    """

    configurations: list[Configuration]
    unchanged: list[int]
    end_tokens: str
    marks: str


class Conditions(KnobConditions, kw_only=True):
    """The same, with what is said of one model.

    Attributes:
        random_weights: whether its weights are random.
        cache: what it is, in words.
        device_waits: where the host waits for the device, in words; empty without a device.
    """

    random_weights: bool
    cache: str
    device_waits: str = ""


class Workload(ReplayedWorkload, kw_only=True):
    """The work of a knob: `batch` sequences. Texts of several models are joined."""

    batch: int


class Pass(msgspec.Struct, omit_defaults=True, eq=False):
    """One generate call in one configuration; integers in nanoseconds.

    Attributes:
        arm: index of the configuration.
        prefill_ns: the forward over the prompt.
        vision_ns: vision tower and projector.
        decode_ns: each decode forward, [forwards].
        step_ns: each whole decode step, [forwards].
        total_ns: the whole call.
        differing: tokens that this configuration would have chosen otherwise than the trace.
        failed: what ended it instead (out of memory), or empty.
        prompt: index of the prompt.
    """

    arm: int
    prefill_ns: int = 0
    vision_ns: int = 0
    decode_ns: Column | None = None
    step_ns: Column | None = None
    total_ns: int = 0
    differing: int = 0
    failed: str = ""
    prompt: int = 0


class Sample(msgspec.Struct):
    """One round: every configuration once with every prompt, prompt after prompt."""

    round: int
    passes: list[Pass]
    noise: Noise


def timeline(manifest: Manifest, samples: Sequence[Sample]) -> Iterator[list[Measured]]:
    """The passes of each round: vision, prefill and decode steps; what else the call took comes last."""
    arms = typed(manifest, KnobConditions).configurations
    for sample in samples:
        yield [
            one
            for number, pass_ in enumerate(sample.passes)
            if not pass_.failed
            for one in _of_pass(f"{arms[pass_.arm].model} {arms[pass_.arm].label}".strip(), pass_, sample.round, number)
        ]


def _of_pass(track: str, pass_: Pass, round_: int, number: int) -> Iterator[Measured]:
    where = {"round": round_, "pass": number}
    steps, forwards = (np.zeros(0, np.int64) if one is None else one for one in (pass_.step_ns, pass_.decode_ns))
    for name, ns in ((VISION, pass_.vision_ns), ("prefill", pass_.prefill_ns)):
        if ns:
            yield Measured(track, name, name, ns, where=where)
    for position, (step_ns, forward_ns) in enumerate(zip(steps.tolist(), forwards.tolist(), strict=True)):
        parts = {FORWARD: forward_ns, RESIDUAL: step_ns - forward_ns}
        yield Measured(track, "decode step", "decode", step_ns, parts, {**where, "position": position})
    rest = pass_.total_ns - pass_.vision_ns - pass_.prefill_ns - int(steps.sum())
    if rest > 0:
        yield Measured(track, "outside the stages", "rest", rest, where=where)


def pass_of(recorder: Recorder, new_tokens: int, differing: int) -> Pass:
    """A recorded call as a pass.

    Raises:
        InvalidMeasurement: it did not execute one forward a token.
    """
    prefill, decode = recorder.steps("prefill"), recorder.steps("decode")
    if len(prefill.step_ns) != 1 or len(decode.step_ns) != new_tokens - 1:
        raise InvalidMeasurement(
            f"a call for {plural(new_tokens, 'token')} made {plural(len(prefill.step_ns), 'prefill')} and "
            f"{plural(len(decode.step_ns), 'decode step')}; one prefill and a decode step for every further token were "
            "expected"
        )
    nothing = np.zeros(1, np.int64)
    return Pass(
        arm=-1,
        prefill_ns=int(prefill.parts[FORWARD][0]),
        vision_ns=int(prefill.parts.get(VISION, nothing)[0]),
        decode_ns=decode.parts[FORWARD] if new_tokens > 1 else np.zeros(0, np.int64),
        step_ns=decode.step_ns,
        total_ns=int(prefill.step_ns.sum() + decode.step_ns.sum()),
        differing=differing,
    )
