"""What an export is made of: a run's manifest, its rounds as they were measured, and the ledgers over them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
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
class Source:
    """A run that is exported.

    Attributes:
        name: of the run.
        manifest: as stored.
        rounds: the exported rounds, in order.
        rounds_measured: how many the run has; `rounds` may be the first of them.
        samples: the exported rounds as arrays, by kind of step.
        ledgers: what was found in them, by kind of step.
    """

    name: str
    manifest: Manifest
    rounds: Sequence[Round]
    rounds_measured: int
    samples: Mapping[str, LedgerSamples]
    ledgers: Mapping[str, Ledger]

    @property
    def subject(self) -> str:
        """What was measured, in a word."""
        return str(self.manifest.model.get("name", self.manifest.experiment))

    def passes(self) -> list[Sequence[Pass]]:
        """The passes of each round.

        Raises:
            InputError: the experiment's rounds are made otherwise.
        """
        if not all(hasattr(measured, "passes") for measured in self.rounds):
            raise InputError(
                f"the rounds of `{self.manifest.experiment}` are no passes over a trace; give a `ledger` run, or"
                " --format pyperf or github-action"
            )
        return [measured.passes for measured in self.rounds]

    def costs_ns(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Headline, parts and residual of every kind: nanoseconds, shape [rounds, passes, positions]."""
        for kind, samples in self.samples.items():
            for part, ns in {STEP: samples.plain_ns, **samples.parts, RESIDUAL: samples.residual_ns}.items():
                yield part_name(kind, part), ns
