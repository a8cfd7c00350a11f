"""What the rounds of a trial say: how a decode step changes, and how the call does.

Every timed call is new_tokens - 1 decode steps and what comes once: set-up (the making of the drop-ins too), the
prefill, the choice of the first token, the end. Where the timed calls are as long as the script's, their change is
measured. Else the call's is projected, round by round: what came once, and as many steps as the call has, each of
the mean of those that were timed. A projection is never shown as a measurement.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from perstep.experiments.compare.findings import ArmResult, analyse
from perstep.experiments.compare.samples import Conditions
from perstep.fixing.samples import Round
from perstep.report.change import TimeChange
from perstep.runs import Manifest

REFERENCE, FIXED = "as it is", "with the drop-ins"
"""The two arms. What the offer is tried beside, the reference has too."""


@dataclass(frozen=True)
class Changes:
    """The second arm of a trial against the first.

    Attributes:
        step: of a decode step, measured; None where the calls have none, or they could not be told apart.
        call: of the whole call, measured; None where it was timed over its first tokens alone.
        projected: of the whole call, derived from its first tokens; None where it was measured.
        processor: processor time of the timed calls, whole.
        making_ns: making the drop-ins, in each call, median over rounds.
    """

    step: TimeChange | None
    call: TimeChange | None
    projected: TimeChange | None
    processor: TimeChange
    making_ns: float

    @property
    def whole(self) -> TimeChange | None:
        """Of the whole call, measured or projected."""
        return self.call or self.projected


def changes(conditions: Conditions, rounds: Sequence[Round], tokens: int, all_tokens: int) -> Changes:
    """The changes of a trial: a pure function of its rounds.

    Args:
        conditions: of the trial.
        rounds: at least one.
        tokens: new tokens of every timed call.
        all_tokens: of the script's call.
    """
    calls = conditions.calls_per_block
    totals = [one.round.block_ns for one in rounds]
    steps = [one.decode_ns for one in rounds]
    told_apart = tokens > 1 and all(block and all(block) for block in steps)
    making = sorted(_making_ns(one, calls[FIXED]) for one in rounds)[len(rounds) // 2]
    step = None
    if told_apart:
        step = _change(conditions, rounds, steps, {name: count * (tokens - 1) for name, count in calls.items()})
    timed = _compared(conditions, rounds, totals, calls)
    if tokens >= all_tokens or not told_apart:  # without steps the first tokens are all that can be said
        return Changes(step, timed.wall, None, timed.processor, making)
    more = (all_tokens - tokens) / (tokens - 1)
    whole = [
        [round(total + more * decode) for total, decode in zip(block, decoded, strict=True)]
        for block, decoded in zip(totals, steps, strict=True)
    ]
    return Changes(step, None, _change(conditions, rounds, whole, calls), timed.processor, making)


def _change(
    conditions: Conditions, rounds: Sequence[Round], block_ns: list[list[int]], calls: dict[str, int]
) -> TimeChange:
    return _compared(conditions, rounds, block_ns, calls).wall


def _compared(
    conditions: Conditions, rounds: Sequence[Round], block_ns: list[list[int]], calls: dict[str, int]
) -> ArmResult:
    """The second arm by some quantity of the same turns; its processor time is that of the timed calls."""
    timed = msgspec.structs.replace(conditions, calls_per_block=calls)
    manifest = Manifest(experiment="compare", plan={}, conditions=msgspec.to_builtins(timed))
    samples = [msgspec.structs.replace(one.round, block_ns=block) for one, block in zip(rounds, block_ns, strict=True)]
    return analyse(manifest, samples).arms[FIXED]


def _making_ns(measured: Round, calls: int) -> float:
    """Of a call of the second arm."""
    took = [ns for arm, ns in zip(measured.round.turns, measured.making_ns, strict=False) if arm == FIXED]
    return sum(took) / len(took) / calls if took else 0.0
