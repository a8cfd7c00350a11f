"""What a round of `ops` leaves on disk, the same as arrays, and what the manifest holds.

One line a round: at each length the whole steps of every arm part by part, the composite `full_attention` of every way
to mask, and each operator alone. Integers in nanoseconds.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.columns import require_rounds, stack_passes
from perstep.experiments.conditions import MarkedConditions, ModelWorkload
from perstep.experiments.conditions import Model as NamedModel
from perstep.machine import Noise
from perstep.measure import LedgerSamples, Recorder, Steps
from perstep.report.export import Measured, measured_steps
from perstep.runs import Column, Manifest, refuse_unlike
from perstep.targets.operators.layer import LAYER


class Conditions(MarkedConditions, kw_only=True):
    """How `ops` measured.

    Attributes:
        arm: the reference.
        arms: ways to mask, the reference first.
        what_if: parts that were made free.
        own: names of the user's own operators.
        weights: what they are, in words.
        steps_per_turn: new tokens -> steps in a turn.
        device_waits: where the host waits for the device, in words; empty without a device.
    """

    arm: str
    arms: list[str]
    what_if: list[str]
    own: list[str]
    weights: str
    steps_per_turn: dict[str, int]
    device_waits: str = ""


class Workload(ModelWorkload, kw_only=True):
    """The work of `ops`.

    Attributes:
        model_config_sha256: of the model's configuration.
        layers: that a step has.
        seq: new tokens of a step, ascending.
        past: positions held before.
        backend: `numpy` or `torch`.
    """

    model_config_sha256: str
    layers: int
    seq: list[int]
    past: int
    backend: str


class Model(NamedModel, kw_only=True):
    """The shapes of `ops`: widths `hidden`, `intermediate` and `head_dim`, numbers of heads, `vocab` tokens."""

    model_type: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int


class Composite(msgspec.Struct, eq=False):
    """`full_attention` in one way in one round: by itself, and, in as many other calls, with its parts marked."""

    plain_ns: Column
    marked: Steps


class Timed(msgspec.Struct):
    """A block of calls of one operator."""

    calls: int
    block_ns: int


class LengthSample(msgspec.Struct):
    """One length in one round.

    Attributes:
        seq: new tokens.
        plain: whole steps of the reference arm without instruments; only where layers begin and end is marked.
        arms: arm -> its whole steps, every part marked.
        attention: way to mask, or part made free -> `full_attention`.
        alone: operator -> calls in a row; long ones only in every second round.
    """

    seq: int
    plain: Steps
    arms: dict[str, Steps]
    attention: dict[str, Composite]
    alone: dict[str, Timed]


class Sample(msgspec.Struct):
    """One round over all lengths."""

    round: int
    lengths: list[LengthSample]
    noise: Noise


MARKED, PLAIN = "marked", "plain"
"""Kinds of step in a recorder."""


def composite_of(recorder: Recorder) -> Composite:
    """What a recorder holds of both kinds."""
    return Composite(recorder.steps(PLAIN).step_ns, recorder.steps(MARKED))


def kind_of_length(seq: int) -> str:
    """The kind of step, as runs are compared: `S512`."""
    return f"S{seq}"


def at_lengths(samples: Sequence[Sample]) -> dict[int, list[LengthSample]]:
    """The rounds of each length.

    Raises:
        InputError: there are no samples, or rounds without one of the lengths.
    """
    require_rounds(samples)
    by_length: dict[int, list[LengthSample]] = {}
    for sample in samples:
        for length in sample.lengths:
            by_length.setdefault(length.seq, []).append(length)
    if any(len(rounds) != len(samples) for rounds in by_length.values()):
        raise InputError("the rounds do not all hold the same lengths; restore the file, or measure again")
    for rounds in by_length.values():
        if any(not length.attention.keys() >= rounds[0].attention.keys() for length in rounds):
            raise InputError("the rounds do not all hold the same ways to mask; restore the file, or measure again")
    return dict(sorted(by_length.items()))


def ledger_samples(samples: Sequence[Sample]) -> dict[str, LedgerSamples]:
    """The reference arm's steps as arrays, for each length.

    Raises:
        InputError: there are no samples, or rounds that do not hold the same steps and parts.
    """
    return {
        kind_of_length(seq): stack(rounds, next(iter(rounds[0].arms))) for seq, rounds in at_lengths(samples).items()
    }


def timeline(_manifest: Manifest, samples: Sequence[Sample]) -> Iterator[list[Measured]]:
    """What each round measured at each length: whole steps, `full_attention`, operators alone; a track each."""
    for sample in samples:
        yield [one for length in sample.lengths for one in _of_length(kind_of_length(length.seq), length, sample.round)]


def _of_length(kind: str, length: LengthSample, round_: int) -> Iterator[Measured]:
    where = {"round": round_}
    for position, ns in enumerate(length.plain.step_ns.tolist()):
        yield Measured(f"{kind} plain", f"{kind} step", kind, ns, where={**where, "position": position})
    for arm, steps in length.arms.items():
        yield from measured_steps(f"{kind} {arm}", kind, steps, round=round_)
    for name, attention in length.attention.items():
        track = f"{kind} attention, {name}"
        for position, ns in enumerate(attention.plain_ns.tolist()):
            yield Measured(track, "full_attention", kind, ns, where={**where, "position": position})
    for name, timed in length.alone.items():
        yield Measured(f"{kind} operators alone", name, kind, round(timed.block_ns / timed.calls), where=where)


def stack(rounds: Sequence[LengthSample], arm: str) -> LedgerSamples:
    """The steps of one arm beside the plain ones, [rounds, steps of the arm in a round, 1].

    Raises:
        InputError: rounds that do not hold the same steps and parts.
    """
    if any(arm not in length.arms for length in rounds):
        raise InputError(f"the rounds do not all hold the arm {arm!r}; restore the file, or measure again")
    refuse_unlike(({LAYER: length.plain.parts.get(LAYER)} for length in rounds), "layers")
    plain = [[length.plain.step_ns] for length in rounds]
    marked = [[length.arms[arm]] for length in rounds]
    return stack_passes(plain, marked, "steps and parts", one_position=True)


def _column(columns: Iterable[Column]) -> NDArray[np.int64]:
    return np.array(list(columns), np.int64)[:, :, None]


def layer_ns(rounds: Sequence[LengthSample]) -> NDArray[np.int64]:
    """All layers of each step without instruments, [rounds, steps of the arm in a round, 1]."""
    return _column(length.plain.parts[LAYER] for length in rounds)


def attention_ns(rounds: Sequence[LengthSample], name: str, parts: Iterable[str] | None = None) -> NDArray[np.float64]:
    """One way of doing `full_attention`, or some of its parts, mean of each round, [rounds]."""
    if parts is None:
        return np.array([length.attention[name].plain_ns.mean() for length in rounds])
    by_round = [length.attention[name].marked.parts for length in rounds]
    return np.array([sum(float(laps[part].mean()) for part in parts if part in laps) for laps in by_round])


def alone_ns(rounds: Sequence[LengthSample], name: str) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """One call of an operator alone, [rounds that have it], and which rounds these are."""
    having = [(index, length.alone[name]) for index, length in enumerate(rounds) if name in length.alone]
    costs = np.array([timed.block_ns / timed.calls for _, timed in having])
    return costs, np.array([index for index, _ in having], np.intp)
