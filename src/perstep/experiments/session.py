"""What the sessions of all experiments share: how they begin, what a manifest says of them, how their rounds are run.

A session checks its input, makes everything warm, and then measures one complete balanced round at a time
(`base.Session`). What it measures in a round is its own.
"""

from collections.abc import Callable

import msgspec
import numpy as np

from perstep._json import Json
from perstep.experiments.base import AnySample, Session
from perstep.experiments.conditions import Facts, describe_machine, noise_probe
from perstep.experiments.options import RunOptions
from perstep.measure import Clock, Effort, Progress, WarmUp, collector_off, run_rounds, warm_up
from perstep.runs import Manifest


class RoundSession:
    """The beginning of a session.

    Args:
        effort: when to stop measuring.
        seed: of the orders.
        clock: the host's, unless a test passes its own.

    Attributes:
        manifest: to be made by the session, with `describe` for one.
        effort: as given.
    """

    manifest: Manifest

    def __init__(self, effort: Effort, seed: int, clock: Clock) -> None:
        self.effort = effort
        self._seed, self._clock = seed, clock
        self._probe = noise_probe(clock)

    def finish(self) -> None:
        """Nothing: this session keeps no state that measuring may change."""

    def go_on_from(self, manifest: Manifest) -> None:
        """Go on as the rounds of a stored run were measured."""

    def _drawn(self, *stream: int) -> np.random.Generator:
        """The generator of a stream, such as a round's number, so that a resumed run draws what it would have drawn."""
        return np.random.default_rng([self._seed, *stream])

    def _warm(self, one_round: Callable[[], None], *, share: float, most_s: float, least_s: float = 0.0) -> WarmUp:
        """Unrecorded rounds for a share of the budget, at most `most_s` of it counted, and at least `least_s`."""
        return warm_up(one_round, self._clock, limit_s=max(share * min(self.effort.budget_s, most_s), least_s))


def describe(
    experiment: str,
    plan: RunOptions | dict[str, Json],
    *,
    workload: Facts,
    model: Facts | dict[str, Json],
    conditions: Facts | dict[str, Json],
    load_before: float | str | None = None,
    of_calls: bool = False,
    **others: Json,
) -> Manifest:
    """The manifest of a run on this machine.

    Args:
        experiment: the name under which it is registered.
        plan: its options.
        workload: with `threads`, the number of threads of the matrix library.
        model: what is measured.
        conditions: how.
        load_before: as in `conditions.describe_machine`.
        of_calls: likewise.
        others: further fields of the manifest.
    """
    manifest = Manifest(
        experiment=experiment,
        plan=msgspec.to_builtins(plan, enc_hook=str),
        seed=plan.seed if isinstance(plan, RunOptions) else 0,
        workload=msgspec.to_builtins(workload),
        model=msgspec.to_builtins(model),
        conditions=msgspec.to_builtins(conditions),
        **others,
    )
    describe_machine(manifest, manifest.workload["threads"], load_before=load_before, of_calls=of_calls)
    return manifest


def measure_rounds(
    session: Session,
    samples: list[AnySample],
    *,
    clock: Clock,
    progress: Progress,
    keep: Callable[[AnySample], None] = lambda _sample: None,
) -> None:
    """Measure rounds until the session's effort is spent, the garbage collector off; the manifest says why it ended.

    Args:
        session: warm.
        samples: those of earlier rounds, where a run is resumed; the new ones are added.
        clock: of the budget.
        progress: told after each round.
        keep: stores a sample before the next round is measured.

    Raises:
        InvalidMeasurement: the state after measuring is not the one before.
    """

    def kept(sample: AnySample) -> None:
        keep(sample)
        samples.append(sample)

    with collector_off():
        ended_by = run_rounds(
            session.measure_round,
            kept,
            lambda: session.resolved(samples),
            effort=session.effort,
            clock=clock,
            first_round=len(samples),
            progress=progress,
        )
    session.manifest.conditions["ended_by"] = ended_by
    session.finish()
