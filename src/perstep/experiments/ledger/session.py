"""The measurement of `ledger`: a loaded target, its trace, and two arms that replay it in balanced rounds.

The plain arm takes the duration of each step, the marked one its parts; where steps are long the two take turns inside
calls (`calls.py`). What a device does is seen in profiled steps of
their own; with `--device-detail stream` each arm has a second ledger instead, of time on the device's stream (law
"clocks are never mixed"). Syncs are counted in a pass of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from perstep._json import Json
from perstep.errors import InputError
from perstep.experiments.conditions import hash_ids, typed
from perstep.experiments.device.machine import ceilings_of
from perstep.experiments.ledger.bounds import Ceilings, bounded_by
from perstep.experiments.ledger.calls import LEAST_TOKENS, Calls, plan_calls
from perstep.experiments.ledger.device.samples import ProfiledRound, profiled_round
from perstep.experiments.ledger.plan import Plan, check
from perstep.experiments.ledger.samples import (
    ARMS,
    Conditions,
    Pass,
    Sample,
    Workload,
    ledger_samples,
    stored,
)
from perstep.experiments.memory import is_out_of_memory
from perstep.experiments.options import FAST_AT_MOST_S
from perstep.experiments.session import RoundSession, describe
from perstep.experiments.sync_counts import sync_counts
from perstep.measure import (
    TURNS,
    UNMARKED,
    Clock,
    Progress,
    Recorder,
    Resolved,
    Steps,
    WarmUp,
    build_ledger,
    measure_mark_ns,
)
from perstep.runs import Manifest
from perstep.stats import balanced_block
from perstep.targets import PLAIN, Sampler, Target, Work
from perstep.targets.transformers import DeviceRecorder

DEFAULT_PROMPT_TOKENS = 64
COUNTED_TOKENS = 9
"""Syncs are counted in one prefill and at most this number minus one decode steps."""
TRIED_TOKENS = 5
"""What a step takes is tried in calls of this number of tokens."""
LONG_NS = 20_000_000
"""A forward that takes longer is tried once: what the first run of it costs on top is a small share."""
PROFILED_TOKENS = 6
"""A round profiles one prefill and at most this number minus one decode steps: some 40,000 rows of a trace at 30
layers."""


class LedgerSession(RoundSession):
    """A loaded target, its recorded trace, and the two arms, warm.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
    """

    def __init__(self, plan: Plan, progress: Progress, clock: Clock) -> None:
        super().__init__(plan.effort(), plan.seed, clock)
        self._plan = plan
        check(plan)
        progress(0.0, "load")
        self._target = target = plan.open()
        self._detail = target.checked_detail(plan.detail)
        progress(0.0, "warm-up")
        self._work = work = _record(plan, target)
        self._recorders = {arm: self._recorder() for arm in (*ARMS, *TURNS)}
        self._calls = self._planned()
        counted = target.syncs(work.shortened(COUNTED_TOKENS), self._detail)
        self._syncs = {kind: sync_counts(syncs) for kind, syncs in counted.items()}
        self._warmed = self._warm(self._warm_round, share=0.2 if self._calls is None else 0.05, most_s=30.0)
        self._ceilings = Ceilings(
            target,
            prompt_tokens=work.trace.prompt_BT.shape[1],
            new_tokens=plan.new_tokens,
            batch=plan.batch,
            threads=plan.threads,
        )
        self._mark_ns = measure_mark_ns(clock)
        self.manifest = describe(
            "ledger",
            plan,
            workload=self._workload(),
            model={**target.facts, "random_weights": target.random_weights},
            conditions=self._conditions(self._warmed, self._mark_ns),
            boundaries=target.boundaries,
        )

    def _workload(self) -> Workload:
        plan, work = self._plan, self._work
        return Workload(
            token_ids_sha256=hash_ids(work.prompt_BT, work.trace.chosen_BN),
            model_config_sha256=self._target.config_hash,
            prompt_tokens=work.prompt_BT.shape[1],
            new_tokens=plan.new_tokens,
            batch=plan.batch,
            dtype=self._target.facts["dtype"],
            device=plan.device,
            threads=plan.threads,
            temperature=plan.temperature,
            top_k=plan.top_k,
            top_p=plan.top_p,
        )

    def _conditions(self, warm: WarmUp, mark_ns: float) -> Conditions:
        target = self._target
        return Conditions(
            arms=list(ARMS if self._calls is None else TURNS),
            order="one balanced block a round (ABBA or BAAB), drawn by seed and round"
            if self._calls is None
            else "marked and plain steps take turns inside a call, M P P M; in a second call each the other way round,"
            " in an order drawn by seed and round",
            turns=self._calls,
            too_short="" if self._calls is None else self._calls.too_short,
            discarded=target.discarded,
            end_tokens="looked for at each step, but do not end the trace",
            garbage_collector="off",
            detail=self._detail,
            syncs=self._syncs,
            mark_ns=mark_ns,
            precision=self.effort.precision,
            warm_up=warm,
            bounds=self._ceilings.conditions,
            **target.settings(self._work.sampler, self._detail),
            **self._device_conditions(),
        )

    def _device_conditions(self) -> dict[str, Json]:
        """The device's ceilings, measured now, and what its bounds are made of; nothing without one."""
        if self._profile() is None:  # the first one loads the profiler's library
            return {}
        ceilings = ceilings_of(self._target, rows=self._plan.batch)
        return {"device_ceilings": ceilings, "device_bounds": bounded_by(self._target)}

    def measure_round(self, number: int) -> Sample:
        """One balanced block: each arm replays the trace twice; then every ceiling once.

        Where marked and plain steps take turns: a pair of calls, and pairs that end with the prefill.
        """
        order = balanced_block(len(ARMS), self._drawn(1, number)).ravel()
        self._probe.start()
        if self._calls is None:
            passes = [self._pass(ARMS[arm], self._work) for arm in order]
        else:
            passes = self._pairs(order[:2].tolist(), self._calls)
        # Before the probe stops: what disturbs the ceilings must be known.
        sweeps = [self._ceilings.measure() for _ in range(1 if self._calls is None else self._calls.sweeps)]
        return Sample(number, passes, self._probe.stop(), sweeps[0], self._profile(), sweeps[1:])

    def go_on_from(self, manifest: Manifest) -> None:
        """Make calls as long as those of the stored run."""
        self._calls = typed(manifest, Conditions).turns
        self.manifest.conditions |= msgspec.to_builtins(self._conditions(self._warmed, self._mark_ns))

    def resolved(self, samples: Sequence[Sample]) -> Resolved:
        """The decode ledger's precision (prefill's, where only one token is generated)."""
        kind = "decode" if self._plan.new_tokens > 1 else "prefill"
        return build_ledger(kind, ledger_samples(samples)[kind], mark_ns=0.0).resolved()

    def finish(self) -> None:
        """Check that the state is as the last pass over the trace leaves it.

        Raises:
            InvalidMeasurement: it is not.
        """
        self._target.check_state(self._replayed)

    def _recorder(self) -> Recorder | DeviceRecorder:
        stream = self._target.stream_recorder(self._clock) if self._plan.device_detail == "stream" else None
        return Recorder(self._clock) if stream is None else stream

    def _planned(self) -> Calls | None:
        """How the calls are made, by a few steps; `--fast` takes a little longer where its budget holds too few."""
        plan, new_tokens = self._plan, self._plan.new_tokens
        tried = self._work.shortened(TRIED_TOKENS)
        for _ in range(2):  # the first is slower, which matters where steps are short
            kinds = self._pass(PLAIN, tried).kinds
            if kinds["prefill"].step_ns[0] > LONG_NS:
                break
        prefill_ns = float(kinds["prefill"].step_ns[0])
        step_ns = float(np.median(kinds["decode"].step_ns)) if new_tokens > 1 else 0.0
        calls = plan_calls(prefill_ns, step_ns, new_tokens, self.effort)
        if calls is not None and plan.fast and plan.budget is None:
            wanted_s = sorted((self.effort.budget_s, calls.wanted_s, FAST_AT_MOST_S))[1]
            self.effort = replace(self.effort, budget_s=wanted_s)
            calls = plan_calls(prefill_ns, step_ns, new_tokens, self.effort)
        return calls

    def _pairs(self, turns: Sequence[int], calls: Calls) -> list[Pass]:
        """Each turn once over the trace, and over the prefill alone, the turns one after the other."""
        works = [self._work.shortened(calls.new_tokens), *[self._work.shortened(1)] * calls.prefills]
        return [self._pass(TURNS[turn], work) for work in works for turn in turns]

    def _pass(self, arm: str, work: Work) -> Pass:
        """The host's time, and that on the stream where it is recorded."""
        recorder, self._replayed = self._recorders[arm], work
        host = recorder if isinstance(recorder, Recorder) else recorder.host
        turn = {"turn": TURNS.index(arm)} if arm in TURNS else {}
        differing = self._target.replay(work, recorder, PLAIN if arm == PLAIN else self._detail, **turn)

        def is_marked(kind: str) -> bool:
            return arm != PLAIN and not kind.endswith(UNMARKED)

        def taken(steps: Callable[[str], Steps]) -> dict[str, Steps]:
            return {
                kind if arm in TURNS else kind.removesuffix(UNMARKED): stored(steps(kind), marked=is_marked(kind))
                for kind in host.kinds
            }

        if isinstance(recorder, Recorder):
            return Pass(arm, differing, taken(recorder.steps))
        idle = {kind: steps for kind, steps in taken(recorder.idle).items() if is_marked(kind)} if arm != PLAIN else {}
        return Pass(arm, differing, taken(host.steps), taken(recorder.device), idle)

    def _profile(self) -> ProfiledRound | None:
        """What a device does in the first steps of the trace."""
        if self._plan.device_detail == "stream":
            return None
        tokens = PROFILED_TOKENS if self._calls is None else self._calls.profiled_tokens
        profile = self._target.profile(self._work.shortened(tokens), self._detail)
        return None if profile is None else profiled_round(*profile)

    def _warm_round(self) -> None:
        if self._calls is None:
            for arm in ARMS:
                self._pass(arm, self._work)
        else:
            few = min(LEAST_TOKENS, self._calls.new_tokens)
            self._pairs((0, 1), msgspec.structs.replace(self._calls, new_tokens=few, prefills=0))


def _record(plan: Plan, target: Target) -> Work:
    """The trace, once it is known that prompt and new tokens fit into context and memory."""
    num_tokens = plan.prompt_tokens or DEFAULT_PROMPT_TOKENS
    if plan.prompt is not None:
        num_tokens = len(target.encode(plan.prompt))
    target.check_fits(num_tokens, plan.new_tokens)
    target.check_memory(num_tokens, plan.new_tokens, plan.batch)
    prompt_BT = target.prompt(text=plan.prompt, num_tokens=num_tokens, batch=plan.batch, seed=plan.seed)
    sampler = Sampler(plan.temperature, plan.top_k, plan.top_p, plan.seed)
    try:
        return target.record(prompt_BT, plan.new_tokens, sampler)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"the device has too little memory: {str(error).splitlines()[0]}") from error


prepare = LedgerSession
"""A session is prepared by making it."""
