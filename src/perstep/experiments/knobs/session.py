"""Balanced rounds over the settings of a knob: every configuration once a round, in the rows of a Williams square.

Several models take part with all their configurations: a row of one square is a round, so that models are compared
under the same conditions as configurations are.

A pass is a whole generate call over a recorded trace, its stages timed inside that one call: intervals between declared
boundaries, never differences of runs (law "parts add up"). The prefill forward and each decode forward hold the
embedding, every active block, the final norm and the head; the vision tower has an interval of its own. Times are the
host's; on CUDA it waits for the device at every boundary.

A configuration that runs out of memory is not tried again; what was measured of it and of the others is kept.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, zip_longest
from math import inf

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep.errors import InvalidMeasurement
from perstep.experiments.conditions import hash_ids, typed
from perstep.experiments.knobs.findings import columns_of, step_interval, step_ms
from perstep.experiments.knobs.fitting import Tried, fit
from perstep.experiments.knobs.options import KnobOptions
from perstep.experiments.knobs.quality import Scored, measure_quality
from perstep.experiments.knobs.samples import (
    BOUNDARIES,
    Conditions,
    Configuration,
    KnobConditions,
    Pass,
    Sample,
    Workload,
    pass_of,
)
from perstep.experiments.memory import is_out_of_memory, out_of_memory
from perstep.experiments.options import FAST_AT_MOST_S
from perstep.experiments.session import RoundSession, describe
from perstep.measure import Clock, Progress, Recorder, Resolved, WarmUp, measure_mark_ns
from perstep.runs import Manifest
from perstep.stats import balanced_block
from perstep.targets import STAGES, Target, Work

_TRYING = 0.3
"""Configurations that were left open are tried for this share of the budget."""
TRIED_TOKENS = 3
"""What a step takes is tried in calls of this number of tokens."""
_SEVERAL = "; with several prompts, in that order with each of them in turn"

Setting = Callable[[], AbstractContextManager[object]]
"""Puts a configuration's knob where it belongs, and back; what it gives may have a `check`."""


@dataclass(frozen=True)
class Arm:
    """A configuration as it is measured.

    Attributes:
        configuration: what it is, for the results.
        works: what a pass does with each prompt; none if recording ran out of memory.
        setting: puts its knob in place.
    """

    configuration: Configuration
    works: Sequence[Work]
    setting: Setting

    def shortened(self, most_tokens: int | None) -> "Arm":
        """The same with calls of no more than this number of tokens."""
        count = self.configuration.num_output_tokens
        if most_tokens is None or count <= most_tokens:
            return self
        configuration = msgspec.structs.replace(self.configuration, num_output_tokens=most_tokens)
        return replace(self, configuration=configuration, works=[work.shortened(most_tokens) for work in self.works])


@dataclass(frozen=True)
class Subject:
    """One model with the configurations in which it is measured.

    Attributes:
        target: the model.
        arms: its configurations.
        unchanged: indices of the arms in which the model chose the trace itself, and must do so again.
        conditions: the manifest's, in which further facts stand already.
        warnings: sentences for a person.
        may_shorten: whether the number of new tokens was left open.
        droppable: indices of the arms that were left open, in the order in which they may be left out.
        more: what is found out about the arms that stay, besides their time: quality, syncs.
    """

    target: Target
    arms: Sequence[Arm]
    unchanged: Sequence[int]
    conditions: Callable[..., Conditions] = Conditions
    warnings: Sequence[str] = ()
    may_shorten: bool = False
    droppable: Sequence[int] = ()
    more: Callable[[Sequence[Arm], Progress], Sequence[Arm]] = lambda arms, _progress: arms

    @property
    def name(self) -> str:
        """The model's."""
        return self.target.name

    def reduced(self, kept: Sequence[int], most_tokens: int | None) -> "Subject":
        """The same with some of its arms, and calls of no more than this number of tokens."""
        arms = [self.arms[index].shortened(most_tokens) for index in kept]
        return replace(self, arms=arms, unchanged=[at for at, arm in enumerate(kept) if arm in self.unchanged])

    def workload(self) -> dict[str, Json]:
        """What of a manifest's workload is this model's own."""
        traces = [work.trace for arm in self.arms for work in arm.works]
        facts = self.target.facts
        return {
            "token_ids_sha256": hash_ids(*(ids for trace in traces for ids in (trace.prompt_BT, trace.chosen_BN))),
            "model_config_sha256": self.target.config_hash,
            "dtype": facts["dtype"],
            "device": self.target.device,
        }

    def conditions_with(self, **shared: Json) -> dict[str, Json]:
        """A manifest's conditions: what all models share, and what is this model's own."""
        own = {"random_weights": self.target.random_weights, "cache": self.target.cache}
        if self.target.device.startswith("cuda"):
            own["device_waits"] = "at every boundary of a stage"
        conditions: dict[str, Json] = msgspec.to_builtins(self.conditions(**shared, **own))
        return conditions


class KnobSession(RoundSession):
    """The configurations of one knob, of one model or of several, warm; `base.Session`.

    Args:
        name: of the experiment.
        plan: its options.
        subjects: the models, their names all different.
        progress: told how far it is.
        clock: the host's.
    """

    def __init__(
        self,
        name: str,
        plan: KnobOptions,
        subjects: Sequence[Subject],
        progress: Progress,
        clock: Clock,
    ) -> None:
        super().__init__(plan.effort(), plan.seed, clock)
        self._name, self._plan, self._all, self._progress = name, plan, subjects, progress
        progress(0.0, "warm-up")
        self._measure_these(*self._fitted(subjects))

    def go_on_from(self, manifest: Manifest) -> None:
        """Measure the configurations that the stored run has, at the lengths that they have there."""
        stored = typed(manifest, KnobConditions).configurations
        tokens = {(one.model, one.label): one.num_output_tokens for one in stored}
        kept = []
        for subject in self._all:
            labels = [arm.configuration.label for arm in subject.arms]
            own = [index for index, label in enumerate(labels) if (subject.name, label) in tokens]
            lengths = {tokens[subject.name, labels[index]] for index in own}
            kept.append(subject.reduced(own, lengths.pop() if len(lengths) == 1 else None))
        self._measure_these(kept, "")

    def _fitted(self, subjects: Sequence[Subject]) -> tuple[Sequence[Subject], str]:
        """What the budget holds of them, by a short call of each configuration."""
        if self.effort.budget_s == inf:
            return subjects, ""
        arms = [(subject, arm) for subject in subjects for arm in subject.arms]
        firsts = list(accumulate((len(subject.arms) for subject in subjects), initial=0))
        # The same place in each model's list is left out at a time, so that models are compared at the same knobs.
        places = [[first + i for i in s.droppable] for first, s in zip(firsts, subjects, strict=False)]
        droppable = [index for row in zip_longest(*places) for index in row if index is not None]
        tried = self._tried(arms, droppable)
        fit_to = partial(fit, tried, may_shorten=all(s.may_shorten for s in subjects), droppable=droppable)
        chosen = fit_to(self.effort)
        if self._plan.fast and self._plan.budget is None and (chosen.too_short or len(chosen.arms) < len(arms)):
            self.effort = replace(self.effort, budget_s=FAST_AT_MOST_S)
            chosen = fit_to(self.effort)
        reduced = [
            s.reduced([arm - first for arm in chosen.arms if 0 <= arm - first < len(s.arms)], chosen.most_tokens)
            for first, s in zip(firsts, subjects, strict=False)
        ]
        return reduced, chosen.too_short

    def _tried(self, arms: Sequence[tuple[Subject, Arm]], droppable: Sequence[int]) -> list[Tried]:
        """Each arm in a short call; what may be left out first comes last, and not at all where trying takes long."""
        begun_ns, limit_ns = self._clock.now(), _TRYING * self.effort.budget_s * 1e9
        places = {index: place for place, index in enumerate(droppable)}
        by_arm = {}
        for index in sorted(range(len(arms)), key=lambda index: -places.get(index, len(arms))):
            subject, arm = arms[index]
            late = self._clock.now() - begun_ns > limit_ns
            untried = Tried(inf, inf, arm.configuration.num_output_tokens)
            by_arm[index] = untried if late and index in places else self._try(subject, arm)
        return [by_arm[index] for index in range(len(arms))]

    def _try(self, subject: Subject, arm: Arm) -> Tried:
        count = arm.configuration.num_output_tokens
        prefill_ns = step_ns = 0
        for work in arm.works:
            try:
                with arm.setting():
                    measured = measure_pass(subject.target, work.shortened(TRIED_TOKENS), self._clock)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                continue  # its rounds will say so
            prefill_ns += measured.prefill_ns + measured.vision_ns
            step_ns += int(measured.step_ns.min()) if measured.step_ns is not None and measured.step_ns.size else 0
        return Tried(prefill_ns, step_ns, count)

    def _measure_these(self, subjects: Sequence[Subject], too_short: str) -> None:
        """Find out more about them, warm them up, and describe them in the manifest."""
        plan = self._plan
        subjects = [replace(subject, arms=subject.more(subject.arms, self._progress)) for subject in subjects]
        self._progress(0.0, "warm-up")
        self._arms = arms = [arm for subject in subjects for arm in subject.arms]
        self._of = [subject for subject in subjects for _ in subject.arms]
        self._failed = {i: arm.configuration.failed for i, arm in enumerate(arms) if arm.configuration.failed}
        self._prompts = max(len(arm.works) for arm in arms)
        warm = self._warm(self._warm_round, share=0.1, most_s=60.0, least_s=0.1)
        several = len(subjects) > 1
        self.manifest = describe(
            self._name,
            plan,
            workload=Workload(**_workload(subjects), batch=plan.batch, threads=plan.threads),
            model={"name": "; ".join(s.name for s in subjects)} if several else subjects[0].target.facts,
            conditions=self._conditions(subjects, warm, measure_mark_ns(self._clock), too_short),
            boundaries=BOUNDARIES,
            warnings=[f"{s.name}: {warning}" if several else warning for s in subjects for warning in s.warnings],
        )

    def _conditions(self, subjects: Sequence[Subject], warm: WarmUp, mark_ns: float, too_short: str) -> dict[str, Json]:
        """Of one model all together; of several what is each one's own by its name."""
        first_arms = list(accumulate((len(subject.arms) for subject in subjects), initial=0))
        everything = [
            subject.conditions_with(
                configurations=[
                    msgspec.structs.replace(arm.configuration, model=of.name)
                    for arm, of in zip(self._arms, self._of, strict=True)
                ],
                unchanged=[first + arm for first, s in zip(first_arms, subjects, strict=False) for arm in s.unchanged],
                order="every configuration once a round; a row of a Williams square a round, drawn by seed, so that"
                " as many rounds as the square has rows are a balanced block" + (_SEVERAL if self._prompts > 1 else ""),
                discarded="a prefill and a decode step before each recorded call",
                garbage_collector="off",
                end_tokens="held off: every call replays its tokens to the last",
                marks=f"{mark_ns:.0f} ns each, and they are in every figure: about ten in a step of a"
                " transformers model, three in one of the reference",
                precision=self.effort.precision,
                warm_up=warm,
                too_short=too_short,
            )
            for subject in subjects
        ]
        if len(subjects) == 1:
            return everything[0]
        shared = {name: value for name, value in everything[0].items() if name in KnobConditions.__struct_fields__}
        models = {
            s.name: {
                "model": s.target.facts,
                "workload": s.workload(),
                "conditions": {name: value for name, value in one.items() if name not in shared},
            }
            for s, one in zip(subjects, everything, strict=True)
        }
        return {**shared, "models": models}

    def measure_round(self, number: int) -> Sample:
        """Every configuration that has not failed, once with every prompt; prompts one after another."""
        order = self._order(number)
        self._probe.start()
        passes = [
            self._pass(arm, prompt) for prompt in range(self._prompts) for arm in order if arm not in self._failed
        ]
        if not number:  # those that failed before there were rounds to tell it in
            reported = {measured.arm for measured in passes}
            passes += [Pass(arm, failed=reason) for arm, reason in sorted(self._failed.items()) if arm not in reported]
        return Sample(number, passes, self._probe.stop())

    def resolved(self, samples: Sequence[Sample]) -> Resolved:
        """How narrow the intervals of the decode steps are by now: those that the tables show."""
        columns = self._columns(samples)
        widths, merged_rounds = [], len(samples)
        for column in columns:
            interval, independent = step_interval(column, len(self._arms))
            widths.append(inf if interval is None else (interval.high - interval.low) / 2 / step_ms(column))
            merged_rounds = min(merged_rounds, independent)
        return Resolved(max(widths, default=0.0), merged_rounds)  # with nothing left to measure, done

    def _columns(self, samples: Sequence[Sample]) -> list[NDArray[np.float64]]:
        """The steps of each configuration that could be measured, [rounds, positions]."""
        arms = [arm for arm in range(len(self._arms)) if arm not in self._failed]
        columns = [columns_of(samples, arm, "step_ns") for arm in arms]
        if not any(column.size for column in columns):  # one token each: what is left to resolve is the prefill
            columns = [columns_of(samples, arm, "prefill_ns") for arm in arms]
        return [column for column in columns if column.size]

    def finish(self) -> None:
        """See that one configuration at least could be measured.

        Raises:
            InvalidMeasurement: all of them ran out of memory.
        """
        if len(self._failed) == len(self._arms):
            raise InvalidMeasurement(f"no configuration could be measured: {self._failed[0]}")

    def _order(self, number: int) -> list[int]:
        rows = len(balanced_block(len(self._arms), np.random.default_rng(0)))
        block = balanced_block(len(self._arms), self._drawn(1, number // rows))
        return [int(arm) for arm in block[number % rows]]

    def _pass(self, index: int, prompt: int) -> Pass:
        arm = self._arms[index]
        try:
            with arm.setting() as set_:
                measured = measure_pass(self._of[index].target, arm.works[prompt], self._clock)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._failed[index] = out_of_memory(error)
            return Pass(index, failed=self._failed[index], prompt=prompt)
        if hasattr(set_, "check"):
            set_.check()
        measured.arm, measured.prompt = index, prompt
        return measured

    def _warm_round(self) -> None:
        for prompt in range(self._prompts):
            for arm in range(len(self._arms)):
                if arm not in self._failed:
                    self._pass(arm, prompt)


def _workload(subjects: Sequence[Subject]) -> dict[str, Json]:
    """The workload of all models together: in the order of the models, what is alike once."""
    own = [subject.workload() for subject in subjects]
    return {name: ", ".join(dict.fromkeys(str(one[name]) for one in own)) for name in own[0]}


def measure_pass(target: Target, work: Work, clock: Clock) -> Pass:
    """One pass of a model.

    Raises:
        InvalidMeasurement: the call did not execute one forward a token.
    """
    recorder = Recorder(target.stage_clock(clock))
    differing = target.replay(work, recorder, STAGES)
    return pass_of(recorder, work.new_tokens, differing)


def with_quality(target: Target, scored: Scored | None, arms: Sequence[Arm], progress: Progress) -> list[Arm]:
    """The arms, their configurations with what their predictions are worth.

    Args:
        target: the model.
        scored: the tokens to predict; None where no quality is asked for.
        arms: of one model.
        progress: told how far it is.
    """
    if scored is None:
        return list(arms)
    by_label = measure_quality(target, scored, {arm.configuration.label: arm.setting for arm in arms}, progress)
    qualities = [by_label.get(arm.configuration.label) for arm in arms]
    return [
        replace(arm, configuration=msgspec.structs.replace(arm.configuration, quality=quality))
        for arm, quality in zip(arms, qualities, strict=True)
    ]


def recorded_in_full(
    target: Target, prompts_BT: Sequence[NDArray[np.int64]], arms: Sequence[Arm], progress: Progress
) -> list[Arm]:
    """Arms that were recorded for trying alone, with calls of the lengths that they have now; one trace for all.

    Args:
        target: the model, unchanged.
        prompts_BT: each [batch, T].
        arms: of the model.
        progress: told how far it is.
    """
    counts = [arm.configuration.num_output_tokens for arm in arms]
    works = record_all(target, prompts_BT, max(counts, default=1), progress)
    pairs = zip(arms, counts, strict=True)
    return [replace(arm, works=[work.shortened(count) for work in works]) for arm, count in pairs]


def record_all(
    target: Target, prompts_BT: Sequence[NDArray[np.int64]], new_tokens: int, progress: Progress
) -> list[Work]:
    """What the model generates after each of several prompts, each [batch, T]."""
    works = []
    for number, prompt_BT in enumerate(prompts_BT):
        progress(number / len(prompts_BT), "record")
        works.append(target.record(prompt_BT, new_tokens))
    return works
