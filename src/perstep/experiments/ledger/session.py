"""The measurement of `ledger`: a loaded target, its trace, and two arms that replay it in balanced rounds."""

from collections.abc import Sequence

from perstep.experiments.conditions import hash_ids
from perstep.experiments.ledger.arms import Arms, ReferenceArms
from perstep.experiments.ledger.bounds import Ceilings
from perstep.experiments.ledger.plan import Plan, check
from perstep.experiments.ledger.samples import ARMS, Conditions, Sample, Workload, ledger_samples
from perstep.experiments.session import RoundSession, describe
from perstep.measure import Clock, Progress, Resolved, WarmUp, build_ledger, measure_mark_ns
from perstep.stats import balanced_block
from perstep.targets import Opened


class LedgerSession(RoundSession):
    """A loaded target, its recorded trace, and the two arms, warm."""

    def __init__(self, plan: Plan, progress: Progress, clock: Clock) -> None:
        super().__init__(plan.effort(), plan.seed, clock)
        self._plan = plan
        check(plan)
        progress(0.0, "load")
        opened = plan.open()
        progress(0.0, "warm-up")
        self._arms = _arms(plan, opened, clock)
        warm = self._warm(self._warm_round, share=0.2, most_s=30.0)
        trace = self._arms.trace
        self._ceilings = Ceilings(
            opened,
            prompt_tokens=trace.prompt_BT.shape[1],
            new_tokens=plan.new_tokens,
            batch=plan.batch,
            threads=plan.threads,
        )
        self.manifest = describe(
            "ledger",
            plan,
            seed=plan.seed,
            workload=self._workload(),
            model={**opened.facts, "random_weights": opened.random_weights},
            conditions=self._conditions(warm, measure_mark_ns(clock)),
            boundaries=self._arms.boundaries,
        )

    def _workload(self) -> Workload:
        plan = self._plan
        return Workload(
            token_ids_sha256=hash_ids(self._arms.prompt_BT, self._arms.trace.chosen_BN),
            model_config_sha256=self._arms.config_hash,
            prompt_tokens=self._arms.prompt_BT.shape[1],
            new_tokens=plan.new_tokens,
            batch=plan.batch,
            dtype=self._arms.dtype,
            device=plan.device,
            threads=plan.threads,
            temperature=plan.temperature,
            top_k=plan.top_k,
            top_p=plan.top_p,
        )

    def _conditions(self, warm: WarmUp, mark_ns: float) -> Conditions:
        return self._arms.conditions(
            arms=list(ARMS),
            order="one balanced block a round (ABBA or BAAB), drawn by seed and round",
            garbage_collector="off",
            mark_ns=mark_ns,
            precision=self.effort.precision,
            warm_up=warm,
            bounds=self._ceilings.conditions,
            **self._arms.device_conditions(),
        )

    def measure_round(self, number: int) -> Sample:
        """One balanced block: each arm replays the trace twice; then every ceiling once."""
        order = balanced_block(len(ARMS), self._drawn(1, number)).ravel()
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


def _arms(plan: Plan, opened: Opened, clock: Clock) -> Arms:
    if opened.backend == "numpy":
        return ReferenceArms(plan, opened, clock)
    from perstep.experiments.ledger.generate_arms import GenerateArms

    return GenerateArms(plan, opened, clock)
