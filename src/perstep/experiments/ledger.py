"""`ledger`: what each part of a decode step costs.

Two arms replay one recorded trace of tokens in balanced rounds: uninstrumented steps, which give the
headline, and instrumented ones, whose parts + residual = step. Prefill and decode have ledgers of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Annotated, Any

import msgspec
import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments.conditions import describe_machine, hash_ids
from perstep.experiments.options import RunOptions, at_least
from perstep.machine import Noise, NoiseProbe, NoiseSummary, summarise_noise
from perstep.measure import (
    Clock,
    Ledger,
    LedgerSamples,
    Progress,
    Recorder,
    Resolved,
    build_ledger,
    measure_mark_ns,
    record_trace,
    replay,
    warm_up,
)
from perstep.report import Table
from perstep.report.format import duration, plural
from perstep.report.ledger import ledger_csv, ledger_png, ledger_table
from perstep.report.words import render
from perstep.runs import Column, Manifest
from perstep.stats import balanced_block
from perstep.targets import describe_target, make_prompt, open_target
from perstep.targets.reference import BOUNDARIES, Reference, Sampler
from perstep.targets.reference.loop import ReferenceLoop
from perstep.targets.reference.memory import refuse_if_too_large

KINDS = ("decode", "prefill")
ARMS = ("plain", "marked")
DEFAULT_PROMPT_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Plan(RunOptions):
    """The options of `perstep ledger`."""

    model: Annotated[str, Parameter(name=["-m", "--model"])] = "mini"
    """`mini`, the built-in model, or a folder with config.json and safetensors of a Llama-family model."""

    prompt_tokens: Annotated[int | None, Parameter(name=["-p", "--prompt-tokens"])] = None
    """Length of the prompt in tokens. [default: 64]"""

    prompt: str | None = None
    """A text to begin with, instead of --prompt-tokens of the model's own kind."""

    new_tokens: Annotated[int, Parameter(name=["-n", "--new-tokens"])] = 64
    """Tokens to generate: one prefill and N - 1 decode steps."""

    batch: Annotated[int, Parameter(name=["-b", "--batch"])] = 1
    """Sequences decoded side by side."""

    temperature: float = 0.0
    """0 chooses the most probable token; above, tokens are drawn."""

    top_k: int = 0
    """Draw among the k most probable tokens; 0 for all."""

    top_p: float = 1.0
    """Draw among the most probable tokens that hold this probability together."""


class Columns(msgspec.Struct, omit_defaults=True, eq=False):
    """Steps of one kind in one pass, a column a part; integers in nanoseconds, one a step.

    Uninstrumented steps have `step_ns` alone.
    """

    step_ns: Column
    parts: dict[str, Column] = {}
    residual_ns: Column | None = None
    marks: dict[str, int] = {}


class Pass(msgspec.Struct):
    """One replay of the trace by one arm."""

    arm: str
    differing_choices: int
    kinds: dict[str, Columns]


class Sample(msgspec.Struct):
    """One round: a balanced block of passes."""

    round: int
    passes: list[Pass]
    noise: Noise


class LedgerFindings(msgspec.Struct):
    """`results.json`."""

    decode: Ledger | None
    prefill: Ledger
    tokens_per_s: float | None
    noise: NoiseSummary
    differing_choices: int
    unresolved: str
    invalid: str


class LedgerSession:
    """A loaded target, its recorded trace, and the two arms, warm."""

    def __init__(self, plan: Plan, progress: Progress, clock: Clock) -> None:
        self.effort = plan.effort()
        self._plan, self._clock = plan, clock
        sampler = _check(plan)
        progress(0.0, "load")
        model = open_target(plan.model)
        prompt_BT = _prompt(plan, model)
        self._positions = prompt_BT.shape[1] + plan.new_tokens - 1
        self._loop = ReferenceLoop(model, plan.batch, self._positions, sampler)
        self._probe = NoiseProbe()
        progress(0.0, "warm-up")
        with np.errstate(over="ignore", invalid="ignore"):  # weights that overflow are the sampler's error to tell
            self._trace = record_trace(self._loop, prompt_BT, plan.new_tokens)
        warm = warm_up(self._warm_round, clock, limit_s=0.2 * min(self.effort.budget_s, 30.0))
        self.manifest = Manifest(
            experiment="ledger",
            plan=asdict(plan),
            seed=plan.seed,
            workload={
                "token_ids_sha256": hash_ids(prompt_BT, self._trace.chosen_BN),
                "model_config_sha256": model.config_hash,
                "prompt_tokens": prompt_BT.shape[1],
                "new_tokens": plan.new_tokens,
                "batch": plan.batch,
                "dtype": model.config.dtype,
                "device": "cpu",
                "threads": plan.threads,
                "temperature": plan.temperature,
                "top_k": plan.top_k,
                "top_p": plan.top_p,
            },
            model=describe_target(plan.model, model),
            conditions={
                "arms": list(ARMS),
                "order": "one balanced block a round (ABBA or BAAB), drawn by seed and round",
                "discarded": "one prefill and one decode step after each switch of arms",
                "garbage_collector": "off",
                "end_tokens": "looked for at each step, but do not end the trace",
                "mark_ns": measure_mark_ns(clock),
                "precision": self.effort.precision,
                "warm_up": asdict(warm),
            },
            boundaries=BOUNDARIES,
        )
        describe_machine(self.manifest, plan.threads)

    def measure_round(self, number: int) -> Sample:
        """One balanced block: each arm replays the trace twice."""
        order = balanced_block(len(ARMS), np.random.default_rng([self._plan.seed, 1, number])).ravel()
        self._probe.start()
        passes = [self._pass(ARMS[arm]) for arm in order]
        return Sample(number, passes, self._probe.stop())

    def resolved(self, samples: Sequence[Sample]) -> Resolved:
        """The decode ledger's precision (prefill's, where only one token is generated)."""
        kind = "decode" if self._plan.new_tokens > 1 else "prefill"
        return build_ledger(kind, ledger_samples(samples)[kind], mark_ns=0.0).resolved()

    def finish(self) -> None:
        """Check that the cache is where the trace leaves it.

        Raises:
            InvalidMeasurement: it is not.
        """
        held = self._loop.cache.current_length()
        if held != self._positions:
            raise InvalidMeasurement(f"the KV cache holds {held} positions after the last pass, not {self._positions}")

    def _pass(self, arm: str) -> Pass:
        recorder = Recorder(self._clock)
        differing = replay(self._loop, self._trace, recorder, marked=arm == "marked")
        return Pass(arm, differing, {kind: _columns(recorder, kind, arm) for kind in recorder.kinds})

    def _warm_round(self) -> None:
        for arm in ARMS:
            self._pass(arm)


def prepare(plan: Plan, progress: Progress, clock: Clock) -> LedgerSession:
    """Check the plan, load the target, record the trace, warm both arms.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
    """
    return LedgerSession(plan, progress, clock)


def _check(plan: Plan) -> Sampler:
    at_least(1, new_tokens=plan.new_tokens, batch=plan.batch, threads=plan.threads)
    if plan.prompt is not None and plan.prompt_tokens is not None:
        raise InputError("--prompt and --prompt-tokens exclude each other; give one of them")
    if plan.prompt_tokens is not None:
        at_least(1, prompt_tokens=plan.prompt_tokens)
    return Sampler(plan.temperature, plan.top_k, plan.top_p, plan.seed)


def _prompt(plan: Plan, model: Reference) -> NDArray[np.int64]:
    """The prompt, once it is known to fit, with what is generated after it, into context and memory."""
    num_tokens = plan.prompt_tokens or DEFAULT_PROMPT_TOKENS
    if plan.prompt is not None:
        num_tokens = len(model.encode(plan.prompt))
    _check_fits(num_tokens, plan.new_tokens, model.config.max_positions)
    scores_bytes = 4 * plan.batch * model.config.heads * num_tokens**2
    refuse_if_too_large(f"a prefill of {plan.batch} x {num_tokens} tokens", scores_bytes)
    return make_prompt(plan.model, model, text=plan.prompt, num_tokens=num_tokens, batch=plan.batch, seed=plan.seed)


def _check_fits(prompt_tokens: int, new_tokens: int, positions: int) -> None:
    if prompt_tokens > positions:
        raise InputError(f"a prompt of {prompt_tokens} tokens is longer than the model's context of {positions}")
    if prompt_tokens + new_tokens - 1 > positions:
        raise InputError(
            f"a prompt of {prompt_tokens} and --new-tokens {new_tokens} overflow the model's context of {positions};"
            f" at most {positions - prompt_tokens + 1} new tokens fit"
        )


def _columns(recorder: Recorder, kind: str, arm: str) -> Columns:
    steps = recorder.steps(kind)
    return Columns(steps.step_ns) if arm == "plain" else Columns(**vars(steps))


def ledger_samples(samples: Sequence[Sample]) -> dict[str, LedgerSamples]:
    """The samples as arrays, for each kind of step there is, decode first.

    Raises:
        InputError: there are no samples, or rounds that do not hold the same steps and parts.
    """
    if not samples:
        raise InputError("the run has no finished round; resume it with --resume, or measure again")
    try:
        return {kind: _stack(samples, kind) for kind in KINDS if kind in samples[0].passes[0].kinds}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"the rounds do not all hold the same passes, steps and parts ({error}); restore the file, or measure again"
        ) from error


def _stack(samples: Sequence[Sample], kind: str) -> LedgerSamples:
    """[rounds, passes of the arm in a round, positions]."""
    plain = [[p.kinds[kind] for p in s.passes if p.arm == "plain"] for s in samples]
    marked = [[p.kinds[kind] for p in s.passes if p.arm == "marked"] for s in samples]
    first = marked[0][0]
    return LedgerSamples(
        plain_ns=np.array([[c.step_ns for c in passes] for passes in plain], np.int64),
        step_ns=np.array([[c.step_ns for c in passes] for passes in marked], np.int64),
        parts={
            name: np.array([[c.parts[name] for c in passes] for passes in marked], np.int64) for name in first.parts
        },
        residual_ns=np.array([[c.residual_ns for c in passes] for passes in marked], np.int64),
        marks_per_step={name: marks / len(first.step_ns) for name, marks in first.marks.items()},
    )


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> LedgerFindings:
    """The two ledgers: a pure function of manifest and samples.

    Raises:
        InputError: there are no samples, or rounds that do not hold the same steps and parts.
        InvalidMeasurement: a step's parts do not add up to it.
    """
    mark_ns = manifest.conditions["mark_ns"]
    ledgers = {kind: build_ledger(kind, held, mark_ns=mark_ns) for kind, held in ledger_samples(samples).items()}
    decode, prefill = ledgers.get("decode"), ledgers["prefill"]
    differing = sum(p.differing_choices for s in samples for p in s.passes)
    reasons = [f"{ledger.kind}: {ledger.invalid}" for ledger in ledgers.values() if ledger.invalid]
    if differing:
        reasons.insert(0, f"{differing} choices differ from the replayed trace, so the arms did not do the same work")
    return LedgerFindings(
        decode=decode,
        prefill=prefill,
        tokens_per_s=manifest.workload["batch"] * 1e9 / _headline_ns(decode) if decode else None,
        noise=summarise_noise(s.noise for s in samples),
        differing_choices=differing,
        unresolved=_unresolved(decode or prefill, manifest.conditions["precision"]),
        invalid="; ".join(reasons),
    )


def _headline_ns(ledger: Ledger) -> float:
    """The step without instruments, which every round of this experiment holds."""
    assert ledger.plain_step_ns is not None  # noqa: S101
    return ledger.plain_step_ns


def _unresolved(ledger: Ledger, precision: float | None) -> str:
    now = ledger.resolved()
    if now.half_width == inf:
        missing = [name for name, part in ledger.parts.items() if part.ci_low is None]
        without = ", ".join(missing) if missing else "the inflation"
        return (
            f"no interval for {without}: {ledger.rounds} rounds are too few, or resemble their neighbours too much"
            f" ({now.merged_rounds} are left when those are merged); give a longer --budget, or more --rounds"
        )
    if precision is not None and now.half_width > precision:
        return (
            f"the widest interval is ±{now.half_width:.2%} of the step, ±{precision:.2%} was asked for;"
            " give a longer --budget, or more --rounds"
        )
    return ""


def tables(manifest: Manifest, findings: LedgerFindings) -> list[Table]:
    """Decode first: it is what most of a generation is made of."""
    w = manifest.workload
    new = plural(w["new_tokens"], "new token")
    subject = f"{manifest.model['name']}, batch {w['batch']}, prompt {w['prompt_tokens']}, {new}"
    made = []
    if findings.decode is not None:
        made.append(ledger_table(findings.decode, title=f"decode: {subject}", tokens_per_s=findings.tokens_per_s))
    made.append(ledger_table(findings.prefill, title=f"prefill: {subject}"))
    if findings.unresolved:
        made[0].notes.append(f"Not resolved to the asked precision: {findings.unresolved}.")
    return made


def csv(findings: LedgerFindings) -> str:
    """A row a part of each ledger, in nanoseconds."""
    return ledger_csv([ledger for ledger in (findings.decode, findings.prefill) if ledger is not None])


def files(manifest: Manifest, findings: LedgerFindings) -> Mapping[str, bytes]:
    """`ledger.png` with its CSV, and `README.md`."""
    ledgers = [ledger for ledger in (findings.decode, findings.prefill) if ledger is not None]
    return {
        "ledger.png": ledger_png(ledgers, subject=str(manifest.model["name"])),
        "ledger.csv": csv(findings).encode(),
        "README.md": render("ledger.md", manifest=manifest, findings=findings, tables=tables(manifest, findings)),
    }


def summary(findings: LedgerFindings) -> dict[str, Any]:
    """The headline for `perstep list`."""
    ledger = findings.decode or findings.prefill
    largest = max(ledger.parts, key=lambda name: ledger.parts[name].share)
    return {
        "headline": f"{duration(_headline_ns(ledger))} per {ledger.kind} step, the largest part {largest}",
        "plain_step_ns": ledger.plain_step_ns,
        "inflation": ledger.inflation,
        "residual_share": ledger.residual_share,
        "largest_part": largest,
    }
