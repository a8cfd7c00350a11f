"""Balanced rounds over the settings of a knob: every configuration once a round, in the rows of a Williams square.

A configuration that runs out of memory is not tried again; what was measured of it and of the others is kept.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

import msgspec
import numpy as np

from perstep.errors import InvalidMeasurement
from perstep.experiments.conditions import describe_machine, hash_ids
from perstep.experiments.knobs.options import KnobOptions
from perstep.experiments.knobs.passes import BOUNDARIES, Pass, Runner, Sample, Work
from perstep.experiments.knobs.records import Configuration
from perstep.experiments.knobs.results import columns_of, round_levels
from perstep.machine import NoiseProbe
from perstep.measure import Clock, Progress, Resolved, measure_mark_ns, warm_up
from perstep.runs import Manifest
from perstep.stats import balanced_block, merge_until_independent, merged_interval

_SEVERAL = "; with several prompts, in that order with each of them in turn"

Setting = Callable[[], AbstractContextManager[Any]]
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


class KnobSession:
    """The configurations of one knob, warm; `base.Session`.

    Args:
        name: of the experiment.
        plan: its options.
        runner: makes passes.
        arms: the configurations.
        progress: told how far it is.
        clock: the host's.
        unchanged: indices of the arms in which the model chose the trace itself, and must do so again.
        conditions: further facts for the manifest.
        warnings: sentences for a person.
    """

    def __init__(
        self,
        name: str,
        plan: KnobOptions,
        runner: Runner,
        arms: Sequence[Arm],
        progress: Progress,
        clock: Clock,
        *,
        unchanged: Sequence[int],
        conditions: dict[str, Any] | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        self.effort = plan.effort()
        self._plan, self._runner, self._arms = plan, runner, arms
        self._failed = {i: arm.configuration.failed for i, arm in enumerate(arms) if arm.configuration.failed}
        self._prompts = max(len(arm.works) for arm in arms)
        self._probe = NoiseProbe()
        progress(0.0, "warm-up")
        limit_s = max(0.1 * min(self.effort.budget_s, 60.0), 0.1)
        warm = warm_up(self._warm_round, clock, limit_s=limit_s)
        opened = runner.opened
        self.manifest = Manifest(
            experiment=name,
            plan=_plain(asdict(plan)),
            seed=plan.seed,
            workload={
                "token_ids_sha256": hash_ids(
                    *(ids for arm in arms for work in arm.works for ids in (work.trace.prompt_BT, work.trace.chosen_BN))
                ),
                "model_config_sha256": runner.config_hash,
                "batch": plan.batch,
                "dtype": opened.facts["dtype"],
                "device": opened.facts.get("device", "cpu"),
                "threads": plan.threads,
            },
            model=opened.facts,
            conditions={
                "configurations": [msgspec.to_builtins(arm.configuration) for arm in arms],
                "unchanged": list(unchanged),
                "random_weights": opened.random_weights,
                "order": "every configuration once a round; a row of a Williams square a round, drawn by seed, so that"
                " as many rounds as the square has rows are a balanced block" + (_SEVERAL if self._prompts > 1 else ""),
                "discarded": "a prefill and a decode step before each recorded call",
                "garbage_collector": "off",
                "end_tokens": "held off: every call replays its tokens to the last",
                "marks": f"{measure_mark_ns(clock):.0f} ns each, and they are in every figure: about ten in a step of a"
                " transformers model, three in one of the reference",
                "precision": self.effort.precision,
                "warm_up": asdict(warm),
                **runner.conditions,
                **(conditions or {}),
            },
            boundaries=BOUNDARIES,
            warnings=list(warnings),
        )
        describe_machine(self.manifest, plan.threads)

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
        """How narrow the intervals of the decode steps' changes against the first configuration are by now."""
        arms = [arm for arm in range(len(self._arms)) if arm not in self._failed]
        columns = [columns_of(samples, arm, "step_ns") for arm in arms]
        levels = [round_levels(column) for column in columns if column.size]
        if not levels:  # one token each: what is left to resolve is the prefill
            levels = [round_levels(columns_of(samples, arm, "prefill_ns")) for arm in arms]
        comparisons = max(len(levels) - 1, 1)
        widths, merged_rounds = [], len(samples)
        for level in levels[1:] or levels:
            reference = levels[0] if len(levels) > 1 else np.full_like(level, level.mean())
            pairs = np.stack([level, reference], axis=1)
            merged = merge_until_independent(pairs, lambda t: np.log(t[:, 0] / t[:, 1]), comparisons=comparisons)
            interval = merged_interval(merged, comparisons=comparisons)
            widths.append(inf if interval is None else (interval.high - interval.low) / 2)
            merged_rounds = min(merged_rounds, len(merged.values))
        return Resolved(max(widths), merged_rounds)

    def finish(self) -> None:
        """See that one configuration at least could be measured.

        Raises:
            InvalidMeasurement: all of them ran out of memory.
        """
        if len(self._failed) == len(self._arms):
            raise InvalidMeasurement(f"no configuration could be measured: {self._failed[0]}")

    def _order(self, number: int) -> list[int]:
        rows = len(balanced_block(len(self._arms), np.random.default_rng(0)))
        block = balanced_block(len(self._arms), np.random.default_rng([self._plan.seed, 1, number // rows]))
        return [int(arm) for arm in block[number % rows]]

    def _pass(self, index: int, prompt: int) -> Pass:
        arm = self._arms[index]
        try:
            with arm.setting() as set_:
                made = self._runner.run(arm.works[prompt])
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or torch says that memory ran out."""
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(phrase in words for phrase in ("out of memory", "can't allocate memory", "not enough memory"))
    )


def out_of_memory(error: BaseException) -> str:
    """The reason of a configuration that has failed, in one line."""
    lines = str(error).strip().splitlines()
    return f"out of memory: {lines[0]}" if lines else "out of memory"


def _plain(value: Any) -> Any:
    """Options as JSON has them: paths as text."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
