"""The measurement of `cache`: steps with and without a cache at each context, in drawn orders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from perstep._words import plural, short
from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments.bounds import sweep_for
from perstep.experiments.cache.findings import estimates, step_costs, theory_bytes, widest
from perstep.experiments.cache.fits import WITH, WITHOUT, Memory
from perstep.experiments.cache.plan import Plan, check_memory, contexts_of
from perstep.experiments.cache.resident import Resident, measure_resident
from perstep.experiments.cache.samples import Conditions, Sample, Workload, stacked
from perstep.experiments.conditions import hash_ids, typed
from perstep.experiments.options import FAST_AT_MOST_S
from perstep.experiments.planning import (
    MARGIN,
    between_first,
    least_rounds,
    rounds_that_fit,
    subsets,
    what_would_fit,
)
from perstep.experiments.session import RoundSession, describe
from perstep.machine import CeilingSweep
from perstep.measure import Clock, Progress, Resolved
from perstep.report.format import duration
from perstep.runs import Manifest
from perstep.stats import FIRST_LOOK
from perstep.targets import Target
from perstep.targets.reference.memory import refuse_if_too_large

VISITS = 2
DISCARDED = 1
"""Steps dropped after every switch to another point: they find other data in the caches."""
LONG_NS = 20_000_000
MOST_REPETITIONS = 3
LEAST_CONTEXTS = 2
"""A line has two ends."""
REPEAT_NS = 10_000_000
"""A visit repeats its step so long as the repetitions take less than this."""
AGREE = {"float64": 1e-9, "float32": 1e-3}
AGREE_ROUGHLY = 0.1
"""Largest difference of logits with and without a cache, as a share of the largest logit; bfloat16 has 8 bits."""


@dataclass(frozen=True)
class Cell:
    """One point of the plan: an arm at a context, and how often its step is timed in a visit, after those discarded."""

    arm: str
    context: int
    repetitions: int
    discarded: int = DISCARDED


class CacheSession(RoundSession):
    """A loaded model with filled caches, the cells that the budget holds, and the ceilings, all warm.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
        InvalidMeasurement: steps with and without a cache do not agree.
    """

    def __init__(self, plan: Plan, progress: Progress, clock: Clock) -> None:
        super().__init__(plan.effort(), plan.seed, clock)
        self._plan = plan
        progress(0.0, "load")
        self._progress = progress
        self._target = target = plan.open()
        self._kind = target.cache_kind(plan.cache)
        self._contexts = contexts_of(plan, target)
        self._warnings: list[str] = []
        self._workload, self._conditions = self._facts(target)
        check_memory(plan, self._contexts, self._conditions, self._workload)
        ids_BT = target.prompt(text=None, num_tokens=self._contexts[-1] + 1, batch=plan.batch, seed=plan.seed)
        self._workload.token_ids_sha256 = hash_ids(ids_BT)
        progress(0.0, "prefill")
        self._steps = target.cached_steps(ids_BT, self._kind)
        self._steps.fill(self._contexts)
        self._tolerance = AGREE.get(target.facts["dtype"], AGREE_ROUGHLY)
        self._last_logits = self._step(WITH, self._contexts[-1])[1]
        # In the order of the contexts: the shortest finds the processor cold.
        self._with_ns = {S: min(self._step(WITH, S)[0] for _ in range(3)) for S in self._contexts}
        self._rounds = 0
        contexts, rounds = self._fitted()
        self._measure_these(contexts, lambda: self._plan_cells(rounds))

    def go_on_from(self, manifest: Manifest) -> None:
        """Measure the points that the stored run has, as often in a round as there."""
        stored, contexts = typed(manifest, Conditions), tuple(typed(manifest, Workload).contexts)
        same = stored.repetitions_a_round == self._conditions.repetitions_a_round
        if not same and set(contexts) <= set(self._with_ns):
            self._measure_these(contexts, lambda: (self._stored_cells(stored), stored.left_out))

    def _measure_these(self, contexts: tuple[int, ...], points: Callable[[], tuple[list[Cell], list[str]]]) -> None:
        """Choose the points of these contexts, and describe them in the manifest.

        Args:
            contexts: that stay.
            points: gives them, and why others are left out; called once the ceilings are there.
        """
        self._contexts, self._workload.contexts = contexts, list(contexts)
        self._progress(0.0, "ceilings")
        self._sweep = self._open_sweep()
        self._cells, self._conditions.left_out = points()
        self._progress(0.0, "memory, in fresh processes")
        self._conditions.memory = self._memory()
        repetitions = {f"{c.arm} {c.context}": VISITS * c.repetitions for c in self._cells}
        self._conditions.repetitions_a_round = repetitions
        self.manifest = self._describe()

    def measure_round(self, number: int) -> Sample:
        """Every cell and the ceilings, in a drawn order and then in the reverse of it."""
        order = self._drawn(1, number).permutation(len(self._cells) + 1)
        step_ns: dict[str, dict[str, list[int]]] = {WITH: {}, WITHOUT: {}}
        ceilings: list[dict[str, float]] = []
        self._probe.start()
        for index in (*order, *order[::-1]):
            if index < len(self._cells):
                cell = self._cells[index]
                step_ns[cell.arm].setdefault(str(cell.context), []).extend(self._visit(cell))
            elif self._sweep is not None:
                ceilings.append(self._sweep.measure())
        self._rounds = number + 1
        return Sample(
            number,
            {arm: {context: np.array(ns, np.int64) for context, ns in by.items()} for arm, by in step_ns.items()},
            ceilings,
            self._probe.stop(),
        )

    def resolved(self, samples: Sequence[Sample]) -> Resolved:
        """The widest interval of a point."""
        by_point = estimates(stacked(samples))
        return Resolved(widest(by_point), len(samples))

    def finish(self) -> None:
        """Check that the cache still gives what it gave at first, and count the repetitions.

        Raises:
            InvalidMeasurement: it does not.
        """
        context = self._contexts[-1]
        difference = _difference(self._last_logits, self._step(WITH, context)[1])
        if difference > self._tolerance:
            raise InvalidMeasurement(
                f"after measuring, the step at context {context} gives logits that differ by {difference:.1e} of the "
                "largest from those before: the cache was not put back"
            )
        counts = [VISITS * cell.repetitions * self._rounds for cell in self._cells]
        self.manifest.config |= {"reps_per_point": min(counts), "reps_per_point_most": max(counts)}

    def _visit(self, cell: Cell) -> list[int]:
        step = self._steps.step_with if cell.arm == WITH else self._steps.step_without
        taken = []
        for _ in range(cell.discarded + cell.repetitions):
            self._steps.rewind(cell.context)
            begin = self._clock.now()
            step(cell.context)
            taken.append(self._clock.now() - begin)
        return taken[cell.discarded :]

    def _step(self, arm: str, context: int) -> tuple[int, np.ndarray]:
        """One step: its duration, and its logits."""
        self._steps.rewind(context)
        step = self._steps.step_with if arm == WITH else self._steps.step_without
        begin = self._clock.now()
        result = step(context)
        took_ns = self._clock.now() - begin
        return took_ns, self._steps.logits(result)

    def _fitted(self) -> tuple[tuple[int, ...], int]:
        """The contexts that the budget holds with and without a cache, and for how many rounds.

        20 rounds give way to as many as intervals need; then, if no contexts were asked for, those between the first
        and the last do. `--fast` takes a little longer where it needs that. What the budget does not hold is said.
        """
        plan = self._plan
        contexts, rounds = self._that_fit()
        if plan.fast and plan.budget is None and (len(contexts) < len(self._contexts) or rounds < FIRST_LOOK):
            self.effort = replace(self.effort, budget_s=max(self.effort.budget_s, FAST_AT_MOST_S))
            contexts, rounds = self._that_fit()
        round_ns = self._cost_ns(contexts)
        shorter = []
        if len(contexts) > LEAST_CONTEXTS:
            ends = (contexts[0], contexts[-1])
            shorter = [(f"--context {ends[0]},{ends[1]}", self._cost_ns(ends))]
        said = what_would_fit(round_ns, self.effort, intervals=len(contexts), shorter=shorter)
        self._conditions.too_short = said
        return contexts, rounds

    def _that_fit(self) -> tuple[tuple[int, ...], int]:
        droppable = between_first(len(self._contexts)) if self._plan.context is None else ()
        kept, least = self._contexts, FIRST_LOOK
        for indices in subsets(len(self._contexts), droppable, LEAST_CONTEXTS):
            kept = tuple(self._contexts[index] for index in indices)
            least = least_rounds(2 * len(kept))
            # Without a cache a step takes at least as long as with one.
            fit = rounds_that_fit(2 * self._cost_ns(kept), self.effort)
            if fit >= least:
                return kept, FIRST_LOOK if fit >= FIRST_LOOK else least
        return kept, least

    def _cost_ns(self, contexts: Sequence[int]) -> float:
        """What the steps with a cache take in a round."""
        return sum(_cost_ns(_cell(WITH, S, self._with_ns[S]), self._with_ns[S]) for S in contexts)

    def _plan_cells(self, rounds: int) -> tuple[list[Cell], list[str]]:
        """The points that fit: each needs its share of the rounds of the budget, those with a cache first.

        A forward that may take longer than the whole budget, by the square of its length, is not even tried.
        """
        gone = [S for S in self._with_ns if S not in self._contexts]
        cells = [_cell(WITH, S, self._with_ns[S]) for S in self._contexts]
        round_ns = self.effort.budget_s * 1e9 / rounds
        if rounds < FIRST_LOOK:  # none of so few may be missing
            round_ns /= MARGIN
        left_ns = round_ns - self._cost_ns(self._contexts) - self._sweep_ns()
        left_out: list[str] = []
        last: tuple[int, int] | None = None
        for S in self._contexts:
            self._progress(0.0, f"without a cache at {S}")
            at_most_ns = 0.0 if last is None else last[1] * (S / last[0]) ** 2
            if left_out or at_most_ns > self.effort.budget_s * 1e9:
                left_out.append(_left_out(S, at_most_ns, self.effort.budget_s, rounds, is_measured=False))
                continue
            try:
                scores_bytes = self._target.scores_bytes(S + 1, self._plan.batch)
                refuse_if_too_large(f"without a cache at S = {S}: the forward", scores_bytes)
            except InputError as error:
                left_out.append(str(error))
                continue
            took_ns, logits = self._step(WITHOUT, S)
            last = S, took_ns
            self._check_agree(S, logits)
            cell = _cell(WITHOUT, S, took_ns)
            if _cost_ns(cell, took_ns) > left_ns:  # once more: another process may have had the processor
                took_ns = min(took_ns, self._step(WITHOUT, S)[0])
                cell = _cell(WITHOUT, S, took_ns)
            if _cost_ns(cell, took_ns) > left_ns:
                left_out.append(_left_out(S, took_ns, self.effort.budget_s, rounds, is_measured=True))
                continue
            left_ns -= _cost_ns(cell, took_ns)
            cells.append(cell)
        return cells, [*([_not_fitting(gone, self.effort.budget_s)] if gone else []), *left_out]

    def _stored_cells(self, stored: Conditions) -> list[Cell]:
        """The points of a stored run; those without a cache are run once, and agree with those that have one."""
        cells = []
        for point, repetitions in stored.repetitions_a_round.items():
            arm, context = point.split()
            took_ns = self._with_ns[int(context)]
            if arm == WITHOUT:
                took_ns, logits = self._step(WITHOUT, int(context))
                self._check_agree(int(context), logits)
            cells.append(replace(_cell(arm, int(context), took_ns), repetitions=repetitions // VISITS))
        return cells

    def _sweep_ns(self) -> float:
        """What the ceilings take in a round."""
        if self._sweep is None:
            return 0.0
        self._sweep.measure()
        begin = self._clock.now()
        self._sweep.measure()
        return VISITS * (self._clock.now() - begin)

    def _check_agree(self, context: int, without: np.ndarray) -> None:
        difference = _difference(self._step(WITH, context)[1], without)
        if not difference <= self._tolerance:
            raise InvalidMeasurement(
                f"at context {context} the logits with and without a cache differ by {difference:.1e} of the largest: "
                "the arms do not do the same work"
            )

    def _memory(self) -> list[Memory]:
        """Bytes at each context: of the live buffers, from the shapes, and resident in a fresh process."""
        resident, why_not = self._resident()
        if why_not:
            self._warnings.append(f"resident memory was not measured: {why_not}")
        by_context = {each.context: each for each in resident}
        memory = []
        for S in self._contexts:
            self._steps.rewind(S)
            used, allocated = theory_bytes(self._conditions, self._workload, S)
            each = by_context.get(S)
            memory.append(
                Memory(
                    S=S,
                    cache_bytes=self._steps.used_bytes(),
                    cache_bytes_allocated=sum(buffer.num_bytes for buffer in self._steps.buffers()),
                    theory_bytes=used,
                    theory_bytes_allocated=allocated,
                    rss_growth_bytes=None if each is None else each.resident_bytes,
                    rss_page_bound_bytes=None if each is None else each.most_bytes,
                )
            )
        return memory

    def _resident(self) -> tuple[list[Resident], str]:
        """Resident pages, if the weights fit into memory a second time."""
        from psutil import virtual_memory

        weights = self._target.facts["weight_bytes"]
        if weights is None:
            return [], "how large the weights are is unknown"
        if weights > virtual_memory().available:
            return [], f"a second process with {weights / 1e9:.1f} GB of weights does not fit into memory"
        return measure_resident(replace(self._plan, context=self._contexts))

    def _open_sweep(self) -> CeilingSweep | None:
        """The ceilings beside the steps, where theory has a formula for them and they are this processor's."""
        costs = list(step_costs(self._conditions, self._workload).values())
        if self._conditions.unknown_arithmetic:  # the findings say so
            return None
        if not costs or self._plan.device != "cpu":
            self._warnings.append(
                "theory has no curve: no formula for this architecture"
                if not costs
                else "theory has no curve: ceilings are measured on the cpu"
            )
            return None
        return sweep_for(costs, library=self._target.library, threads=self._plan.threads)

    def _facts(self, target: Target) -> tuple[Workload, Conditions]:
        plan, facts, kind = self._plan, target.facts, self._kind
        workload = Workload(
            contexts=list(self._contexts),
            batch=plan.batch,
            cache=kind.name,
            capacity=None if kind.grows else self._contexts[-1] + 1,
            dtype=facts["dtype"],
            device=plan.device,
            threads=plan.threads,
            token_ids_sha256="",  # the prompt is made once the cache is known to fit into memory
        )
        return workload, Conditions(
            config=target.config,
            backend=kind.theory.name,
            backend_without=kind.theory_without.name,
            random_weights=target.random_weights,
            unknown_arithmetic=target.unknown_arithmetic,
            order="all points and the ceilings in a drawn order, then in its reverse, once a round",
            discarded=f"{DISCARDED} step after each switch of points, unless steps exceed {LONG_NS // 1_000_000} ms",
            rewound="the cache's cursor is put back before each step; the context does not move",
            prompt="held-out sentences of the grammar, end to end" if target.name == "mini" else "ids drawn at random",
            garbage_collector="off",
            precision=self.effort.precision,
            memory=[],
            left_out=[],
            repetitions_a_round={},
        )

    def _describe(self) -> Manifest:
        facts = self._target.facts
        return describe(
            "cache",
            self._plan,
            workload=self._workload,
            model={
                **facts,
                "L": facts["num_layers"],
                "H": facts["heads"],
                "d_h": facts["head_dim"],
                "S_max": self._contexts[-1],
            },
            conditions=self._conditions,
            config={"S_points": list(self._contexts), "warmup_reps": DISCARDED},
            warnings=self._warnings,
            boundaries={
                "with": "one new position through the model and its cache, and the greedy choice",
                "without": "all positions through the same model, the head for the last alone, and the greedy choice",
            },
        )


prepare = CacheSession
"""A session is prepared by making it."""


def _repetitions(step_ns: float) -> int:
    return int(min(max(REPEAT_NS // max(step_ns, 1), 1), MOST_REPETITIONS))


def _cell(arm: str, context: int, step_ns: float) -> Cell:
    """A step that is so long reads far more than any cache holds: none is discarded before it."""
    return Cell(arm, context, _repetitions(step_ns), 0 if step_ns > LONG_NS else DISCARDED)


def _cost_ns(cell: Cell, step_ns: float) -> float:
    return VISITS * (cell.discarded + cell.repetitions) * step_ns


def _left_out(context: int, step_ns: float, budget_s: float, rounds: int, *, is_measured: bool) -> str:
    took = f"takes {duration(step_ns)}" if is_measured else f"may take up to {duration(step_ns)}"
    if step_ns == 0 or budget_s == inf:
        took = "would take still longer"
    return (
        f"without a cache at S = {context}: a step {took}, and the budget of {short(budget_s)} s does not hold "
        f"{plural(rounds, 'round')} of all points"
    )


def _not_fitting(contexts: Sequence[int], budget_s: float) -> str:
    return (
        f"S = {', '.join(map(str, contexts))}: rounds with them are too long for the budget of {short(budget_s)} s; "
        "--context asks for them, with a longer --budget"
    )


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference of two arrays, as a share of the largest number."""
    return float(np.abs(first - second).max() / np.abs(first).max())
