"""`ledger`: what each part of a decode step costs.

Two arms replay one recorded trace of tokens in balanced rounds: uninstrumented steps, which give the
headline, and instrumented ones, whose parts + residual = step. Prefill and decode have ledgers of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from cyclopts import Parameter

from perstep.errors import InputError
from perstep.experiments.conditions import describe_machine, hash_ids, noise_probe
from perstep.experiments.device_bounds import DeviceBounds, device_bounds, device_ceilings_of
from perstep.experiments.device_ledger import DeviceLedger, device_table
from perstep.experiments.device_show import DeviceDetail, bounding_sentence, check_detail, work_csv, work_table
from perstep.experiments.device_work import DeviceWork, device_work
from perstep.experiments.ledger_arms import Arms, ReferenceArms
from perstep.experiments.ledger_bounds import Ceilings, LedgerBounds, bounds_of, columns_of
from perstep.experiments.ledger_steps import ARMS, Columns, Pass, Sample, idle_ns, ledger_samples
from perstep.experiments.models import ModelOptions
from perstep.experiments.options import at_least
from perstep.experiments.sync_counts import SyncCounts, with_syncs
from perstep.machine import LadderCeilings, NoiseSummary, ladder_ceilings, summarise_noise
from perstep.machine.device_ceilings import DeviceCeilings
from perstep.measure import Clock, Ledger, Progress, Resolved, build_ledger, measure_mark_ns, warm_up
from perstep.report import Table
from perstep.report.format import duration, plural
from perstep.report.ledger import (
    headline_interval,
    largest_words,
    ledger_csv,
    ledger_png,
    ledger_table,
    share_words,
)
from perstep.report.words import render
from perstep.runs import Manifest
from perstep.stats import balanced_block
from perstep.targets import Opened
from perstep.targets.reference import Sampler

__all__ = [
    "Columns",
    "LedgerFindings",
    "Pass",
    "Plan",
    "Sample",
    "analyse",
    "csv",
    "files",
    "ledger_samples",
    "prepare",
    "summary",
    "tables",
]


@dataclass(frozen=True, kw_only=True)
class Plan(ModelOptions):
    """The options of `perstep ledger`."""

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

    detail: Literal["phases", "modules", "layers"] | None = None
    """How far to look inside the forward of a transformers model: as a whole, by type of module, or by layer.
    [default: modules]"""

    device_detail: DeviceDetail | None = None
    """On a device: the kernels' time by part; under each part its kernels; or, in place of both, time on the device's
    stream, waiting included, which is no measure of work. [default: parts]"""


class LedgerFindings(msgspec.Struct):
    """`results.json`. `device` (time on the stream) and `device_work` are by kind of step; empty without a device.

    `bounds_withdrawn` is why there are no bounds although ceilings were measured, or empty.
    """

    decode: Ledger | None
    prefill: Ledger
    tokens_per_s: float | None
    noise: NoiseSummary
    differing_choices: int
    unresolved: str
    invalid: str
    device: dict[str, DeviceLedger] = {}
    bounds: dict[str, LedgerBounds] = {}
    ceilings: LadderCeilings | None = None
    bounds_withdrawn: str = ""
    device_work: dict[str, DeviceWork] = {}
    device_bounds: dict[str, DeviceBounds] = {}
    device_ceilings: DeviceCeilings | None = None

    @property
    def ledgers(self) -> list[Ledger]:
        """Those of the host's time, decode first."""
        return [ledger for ledger in (self.decode, self.prefill) if ledger is not None]


class LedgerSession:
    """A loaded target, its recorded trace, and the two arms, warm."""

    def __init__(self, plan: Plan, progress: Progress, clock: Clock) -> None:
        self.effort = plan.effort()
        self._plan = plan
        _check(plan)
        progress(0.0, "load")
        opened = plan.open()
        progress(0.0, "warm-up")
        self._arms = _arms(plan, opened, clock)
        self._probe = noise_probe(clock)
        warm = warm_up(self._warm_round, clock, limit_s=0.2 * min(self.effort.budget_s, 30.0))
        trace = self._arms.trace
        self._ceilings = Ceilings(
            opened,
            prompt_tokens=trace.prompt_BT.shape[1],
            new_tokens=plan.new_tokens,
            batch=plan.batch,
            threads=plan.threads,
        )
        self.manifest = Manifest(
            experiment="ledger",
            plan=asdict(plan),
            seed=plan.seed,
            workload={
                "token_ids_sha256": hash_ids(self._arms.prompt_BT, trace.chosen_BN),
                "model_config_sha256": self._arms.config_hash,
                "prompt_tokens": self._arms.prompt_BT.shape[1],
                "new_tokens": plan.new_tokens,
                "batch": plan.batch,
                "dtype": self._arms.dtype,
                "device": plan.device,
                "threads": plan.threads,
                "temperature": plan.temperature,
                "top_k": plan.top_k,
                "top_p": plan.top_p,
            },
            model={**opened.facts, "random_weights": opened.random_weights},
            conditions={
                "arms": list(ARMS),
                "order": "one balanced block a round (ABBA or BAAB), drawn by seed and round",
                "garbage_collector": "off",
                "mark_ns": measure_mark_ns(clock),
                "precision": self.effort.precision,
                "warm_up": asdict(warm),
                "bounds": self._ceilings.conditions,
                **self._arms.conditions,
                **self._arms.device_conditions(),
            },
            boundaries=self._arms.boundaries,
        )
        describe_machine(self.manifest, plan.threads)

    def measure_round(self, number: int) -> Sample:
        """One balanced block: each arm replays the trace twice; then every ceiling once."""
        order = balanced_block(len(ARMS), np.random.default_rng([self._plan.seed, 1, number])).ravel()
        self._probe.start()
        passes = [self._arms.run(ARMS[arm]) for arm in order]
        ceilings = self._ceilings.measure()  # before the probe stops: what disturbs them must be known
        return Sample(number, passes, self._probe.stop(), ceilings, self._arms.profile())

    def resolved(self, samples: Sequence[Sample]) -> Resolved:
        """The decode ledger's precision (prefill's, where only one token is generated)."""
        kind = "decode" if self._plan.new_tokens > 1 else "prefill"
        return build_ledger(kind, ledger_samples(samples)[kind], mark_ns=0.0).resolved()

    def finish(self) -> None:
        """Check that the state is as the trace leaves it.

        Raises:
            InvalidMeasurement: it is not.
        """
        self._arms.finish()

    def _warm_round(self) -> None:
        for arm in ARMS:
            self._arms.run(arm)


def prepare(plan: Plan, progress: Progress, clock: Clock) -> LedgerSession:
    """Check the plan, load the target, record the trace, warm both arms.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
    """
    return LedgerSession(plan, progress, clock)


def _check(plan: Plan) -> None:
    at_least(1, new_tokens=plan.new_tokens, batch=plan.batch, threads=plan.threads)
    if plan.prompt is not None and plan.prompt_tokens is not None:
        raise InputError("--prompt and --prompt-tokens exclude each other; give one of them")
    if plan.prompt_tokens is not None:
        at_least(1, prompt_tokens=plan.prompt_tokens)
    check_detail(plan.device, plan.device_detail)
    Sampler(plan.temperature, plan.top_k, plan.top_p, plan.seed)  # refuses what is out of range


def _arms(plan: Plan, opened: Opened, clock: Clock) -> Arms:
    if opened.backend == "numpy":
        return ReferenceArms(plan, opened, clock)
    from perstep.experiments.ledger_generate import GenerateArms

    return GenerateArms(plan, opened, clock)


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> LedgerFindings:
    """The two ledgers: a pure function of manifest and samples.

    Raises:
        InputError: there are no samples, or rounds that do not hold the same steps and parts.
        InvalidMeasurement: a step's parts do not add up to it.
    """
    ledgers = _host_ledgers(manifest, samples)
    decode, prefill = ledgers.get("decode"), ledgers["prefill"]
    differing = sum(p.differing_choices for s in samples for p in s.passes)
    differing += sum(s.profiled.differing_choices for s in samples if s.profiled is not None)
    reasons = [f"{ledger.kind}: {ledger.invalid}" for ledger in ledgers.values() if ledger.invalid]
    if differing:
        reasons.insert(0, f"{differing} choices differ from the replayed trace, so the arms did not do the same work")
    taken = [sample for sample in samples if sample.ceilings]
    ceilings = ladder_ceilings([sample.ceilings for sample in taken], [sample.noise for sample in taken])
    works, on_device = device_work(samples), device_ceilings_of(manifest)
    return LedgerFindings(
        decode=decode,
        prefill=prefill,
        tokens_per_s=manifest.workload["batch"] * 1e9 / _headline_ns(decode) if decode else None,
        noise=summarise_noise(s.noise for s in samples),
        differing_choices=differing,
        unresolved=_unresolved(decode or prefill, manifest.conditions["precision"]),
        invalid="; ".join(reasons),
        device=_device_ledgers(samples),
        bounds=bounds_of(manifest, ceilings, ledgers),
        ceilings=ceilings,
        bounds_withdrawn="" if ceilings is None else ceilings.why_no_bounds(),
        device_work=works,
        device_bounds=device_bounds(manifest, on_device, works),
        device_ceilings=on_device,
    )


def _host_ledgers(manifest: Manifest, samples: Sequence[Sample]) -> dict[str, Ledger]:
    conditions, device = manifest.conditions, str(manifest.workload.get("device", "cpu"))
    counted = msgspec.convert(conditions.get("syncs", {}), dict[str, SyncCounts])
    made = {}
    for kind, held in ledger_samples(samples).items():
        ledger = build_ledger(kind, held, mark_ns=conditions["mark_ns"])
        made[kind] = with_syncs(ledger, counted.get(kind), device=device)
    return made


def _device_ledgers(samples: Sequence[Sample]) -> dict[str, DeviceLedger]:
    made = {}
    for kind, held in ledger_samples(samples, "device").items():
        idle = idle_ns(samples, kind)
        ledger = build_ledger(kind, held, mark_ns=0.0)  # what a mark costs the device is not known, only the host's
        made[kind] = DeviceLedger(ledger=ledger, idle_ns_per_step=sum(idle.values()), idle_parts_ns=idle)
    return made


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
    made, bounds = [], columns_of(findings.bounds)
    for ledger in findings.ledgers:
        speed = findings.tokens_per_s if ledger is findings.decode else None
        beside, work = findings.device.get(ledger.kind), findings.device_work.get(ledger.kind)
        host = ", host time" if beside or work else ""
        title = f"{ledger.kind}{host}: {subject}"
        made.append(ledger_table(ledger, title=title, tokens_per_s=speed, bounds=bounds.get(ledger.kind)))
        if beside:
            made.append(device_table(beside, title=f"{ledger.kind}, time on the device's stream: {subject}"))
        if work:
            made.append(
                work_table(
                    work,
                    title=f"{ledger.kind}, what the device does: {subject}",
                    host=ledger,
                    bounds=findings.device_bounds.get(ledger.kind),
                    detail=manifest.plan.get("device_detail") or "parts",
                )
            )
    if findings.unresolved:
        made[0].notes.append(f"Not resolved to the asked precision: {findings.unresolved}.")
    if findings.bounds_withdrawn:
        made[0].notes.append(f"Bounds: {findings.bounds_withdrawn}.")
    made[0].notes.extend(manifest.conditions.get("notes", []))
    return made


def csv(findings: LedgerFindings) -> str:
    """A row a part of each ledger of the host's time, in nanoseconds."""
    return ledger_csv(findings.ledgers, columns_of(findings.bounds))


def files(manifest: Manifest, findings: LedgerFindings) -> Mapping[str, bytes]:
    """`ledger.png` with its CSV, and `README.md`."""
    return {
        "ledger.png": _png(manifest, findings),
        "ledger.csv": csv(findings).encode(),
        **({"device.csv": work_csv(findings.device_work).encode()} if findings.device_work else {}),
        "README.md": render(
            "ledger.md",
            manifest=manifest,
            findings=findings,
            tables=tables(manifest, findings),
            boundaries=_boundaries(manifest, findings),
            bounding_sentence=bounding_sentence,
            headline_interval=headline_interval,
            largest_words=largest_words,
            share_words=share_words,
        ),
    }


def _boundaries(manifest: Manifest, findings: LedgerFindings) -> dict[str, str]:
    """Those of the parts that were seen; a part may be named with its class or layer, as in `stop/X` and `attn/3`."""
    seen = {name for ledger in findings.ledgers for part in ledger.parts for name in (part, part.split("/")[0])}
    return {name: boundary for name, boundary in manifest.boundaries.items() if name in seen}


def _png(manifest: Manifest, findings: LedgerFindings) -> bytes:
    """A bar a ledger, the device's below the host's."""
    name, drawn = str(manifest.model["name"]), []
    for ledger in findings.ledgers:
        beside = findings.device.get(ledger.kind)
        drawn.append((ledger, f"{name}, host time" if beside else name))
        if beside:
            drawn.append((beside.ledger, f"{name}, time on the device's stream"))
    return ledger_png([ledger for ledger, _ in drawn], subject=[subject for _, subject in drawn])


def summary(findings: LedgerFindings) -> dict[str, Any]:
    """The headline for `perstep list`."""
    ledger = findings.decode or findings.prefill
    largest = ledger.largest
    return {
        "headline": f"{duration(_headline_ns(ledger))} per {ledger.kind} step, {largest_words(ledger)}",
        "plain_step_ns": ledger.plain_step_ns,
        "inflation": ledger.inflation,
        "residual_share": ledger.residual_share,
        "largest_part": largest[0] if len(largest) == 1 else None,
    }
