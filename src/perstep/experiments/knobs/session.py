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
from dataclasses import dataclass
from itertools import accumulate
from math import inf

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep.errors import InvalidMeasurement
from perstep.experiments.conditions import hash_ids
from perstep.experiments.knobs.findings import columns_of, step_interval, step_ms
from perstep.experiments.knobs.options import KnobOptions
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
from perstep.experiments.session import RoundSession, describe
from perstep.measure import Clock, Progress, Recorder, Resolved, WarmUp, measure_mark_ns
from perstep.stats import balanced_block
from perstep.targets import STAGES, Target, Work

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


@dataclass(frozen=True)
class Subject:
    """One model with the configurations in which it is measured.

    Attributes:
        target: the model.
        arms: its configurations.
        unchanged: indices of the arms in which the model chose the trace itself, and must do so again.
        conditions: the manifest's, in which further facts stand already.
        warnings: sentences for a person.
    """

    target: Target
    arms: Sequence[Arm]
    unchanged: Sequence[int]
    conditions: Callable[..., Conditions] = Conditions
    warnings: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The model's."""
        return self.target.name

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
        made: dict[str, Json] = msgspec.to_builtins(self.conditions(**shared, **own))
        return made


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
        self._plan = plan
        self._arms = arms = [arm for subject in subjects for arm in subject.arms]
        self._of = [subject for subject in subjects for _ in subject.arms]
        self._failed = {i: arm.configuration.failed for i, arm in enumerate(arms) if arm.configuration.failed}
        self._prompts = max(len(arm.works) for arm in arms)
        progress(0.0, "warm-up")
        warm = self._warm(self._warm_round, share=0.1, most_s=60.0, least_s=0.1)
        several = len(subjects) > 1
        self.manifest = describe(
            name,
            plan,
            workload=Workload(**_workload(subjects), batch=plan.batch, threads=plan.threads),
            model={"name": "; ".join(s.name for s in subjects)} if several else subjects[0].target.facts,
            conditions=self._conditions(subjects, warm, measure_mark_ns(clock)),
            boundaries=BOUNDARIES,
            warnings=[f"{s.name}: {told}" if several else told for s in subjects for told in s.warnings],
        )

    def _conditions(self, subjects: Sequence[Subject], warm: WarmUp, mark_ns: float) -> dict[str, Json]:
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
            told = {measured.arm for measured in passes}
            passes += [Pass(arm, failed=reason) for arm, reason in sorted(self._failed.items()) if arm not in told]
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
                made = measure_pass(self._of[index].target, arm.works[prompt], self._clock)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._failed[index] = out_of_memory(error)
            return Pass(index, failed=self._failed[index], prompt=prompt)
        if hasattr(set_, "check"):
            set_.check()
        made.arm, made.prompt = index, prompt
        return made

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


def record_all(
    target: Target, prompts_BT: Sequence[NDArray[np.int64]], new_tokens: int, progress: Progress
) -> list[Work]:
    """What the model generates after each of several prompts, each [batch, T]."""
    works = []
    for number, prompt_BT in enumerate(prompts_BT):
        progress(number / len(prompts_BT), "record")
        works.append(target.record(prompt_BT, new_tokens))
    return works
