"""What an export is made of: a run's manifest, its rounds as durations in their order, and the ledgers over them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perstep.measure import RESIDUAL, TURNS, UNMARKED, Ledger, LedgerSamples, Steps, is_marked
from perstep.measure.names import STEP, part_name
from perstep.runs import Manifest


class Pass(Protocol):
    """One replay of the trace by one arm."""

    @property
    def arm(self) -> str:
        """`plain` (without instruments) or `marked`, or one of `measure.TURNS`, where both take turns."""
        ...

    @property
    def kinds(self) -> Mapping[str, Steps]:
        """By kind of step, in the order in which they ran."""
        ...


def places(replay: Pass, kind: str) -> tuple[str, list[int]]:
    """The kind of step that a pass's columns are of, and at which positions its steps ran.

    Args:
        replay: the pass.
        kind: of its columns.
    """
    step_kind, count = kind.removesuffix(UNMARKED), len(replay.kinds[kind].step_ns)
    if replay.arm not in TURNS or step_kind == "prefill":
        return step_kind, list(range(count))
    turn, marked = TURNS.index(replay.arm), step_kind == kind
    return step_kind, [at for at in range(2 * count + 3) if is_marked(at, turn) == marked][:count]


class Round(Protocol):
    """One balanced block of passes."""

    @property
    def passes(self) -> Sequence[Pass]:
        """In the order in which they ran."""
        ...


@dataclass(frozen=True)
class Measured:
    """One duration that was measured.

    Attributes:
        track: what it is drawn on: an arm, a line of a program, a way to do something.
        name: what took so long.
        kind: of step, or what else it is.
        ns: how long.
        parts: of it, in order, with the residual; empty where it was measured as a whole.
        where: what tells it from others of its name: round, pass, call, position.
    """

    track: str
    name: str
    kind: str
    ns: int
    parts: Mapping[str, int] = field(default_factory=dict)
    where: Mapping[str, int] = field(default_factory=dict)


def measured_steps(
    track: str, kind: str, steps: Steps, positions: Sequence[int] | None = None, **where: int
) -> Iterator[Measured]:
    """The steps of one kind as durations; those that have no parts have none here.

    Args:
        track: of all of them.
        kind: of step.
        steps: as recorded.
        positions: at which they ran; one after the other from 0 if None.
        where: what else tells them from others.
    """
    marked = bool(steps.residual_ns.size)
    for index, step_ns in enumerate(steps.step_ns.tolist()):
        position = index if positions is None else positions[index]
        parts = {name: int(ns[index]) for name, ns in steps.parts.items()} if marked else {}
        if marked:
            parts[RESIDUAL] = int(steps.residual_ns[index])
        yield Measured(track, f"{kind} step", kind, step_ns, parts, {**where, "position": position})


def _in_order(replay: Pass, **where: int) -> list[Measured]:
    """The steps of a pass as they ran, marked and plain ones on tracks of their own."""
    steps: list[Measured] = []
    for kind, columns in replay.kinds.items():
        step_kind, positions = places(replay, kind)
        track = "marked" if columns.residual_ns.size else "plain"
        steps += measured_steps(track, step_kind, columns, positions, **where)
    kinds = list(dict.fromkeys(step.kind for step in steps))
    return sorted(steps, key=lambda step: (kinds.index(step.kind), step.where["position"]))


@dataclass(frozen=True)
class Source:
    """A run that is exported.

    Attributes:
        name: of the run.
        manifest: as stored.
        rounds: the exported rounds, in order.
        rounds_measured: how many the run has; `rounds` may be the first of them.
        samples: the exported rounds as arrays, by kind of step; empty where the run has no ledger.
        ledgers: what was found in them, by kind of step.
        durations: what each exported round measured, where its rounds are no passes over a trace.
    """

    name: str
    manifest: Manifest
    rounds: Sequence[Round]
    rounds_measured: int
    samples: Mapping[str, LedgerSamples]
    ledgers: Mapping[str, Ledger]
    durations: Sequence[Iterable[Measured]] | None = None

    @property
    def subject(self) -> str:
        """What was measured, in a word."""
        return str(self.manifest.model.get("name", self.manifest.experiment))

    def timeline(self) -> Iterator[list[Measured]]:
        """The durations of each round, in the order in which they ran."""
        if self.durations is not None:
            yield from map(list, self.durations)
            return
        for number, measured in enumerate(self.rounds):
            yield [
                one
                for place, replay in enumerate(measured.passes)
                for one in _in_order(replay, **{"round": number, "pass": place})
            ]

    def costs_ns(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Headline, parts and residual of every kind: nanoseconds, shape [rounds, passes, positions]."""
        for kind, samples in self.samples.items():
            for part, ns in {STEP: samples.plain_ns, **samples.parts, RESIDUAL: samples.residual_ns}.items():
                yield part_name(kind, part), ns

    def round_means_ns(self) -> dict[str, tuple[NDArray[np.float64], int]]:
        """By name: the mean of each round that has it, [rounds], and how many durations a round has of it.

        Parts that are measured in some steps alone are means over these.
        """
        if self.samples:
            return {name: (ns.mean(axis=(1, 2)), ns.shape[1] * ns.shape[2]) for name, ns in self.costs_ns()}
        by_name: dict[str, list[list[int]]] = {}
        for measured in self.timeline():
            of_round: dict[str, list[int]] = {}
            for one in measured:
                whole = f"{one.track}: {one.name}"
                if not one.parts:
                    of_round.setdefault(whole, []).append(one.ns)
                for part, ns in one.parts.items():
                    of_round.setdefault(f"{whole}, {part}", []).append(ns)
            for name, values in of_round.items():
                by_name.setdefault(name, []).append(values)
        return {name: (np.array([np.mean(v) for v in rounds]), len(rounds[0])) for name, rounds in by_name.items()}
