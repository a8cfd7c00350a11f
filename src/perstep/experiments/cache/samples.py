"""The samples of `cache`: the durations of a round by arm and context. And what its manifest holds."""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep.errors import InputError
from perstep.experiments.cache.fits import WITH, WITHOUT, Memory
from perstep.experiments.columns import require_rounds
from perstep.experiments.conditions import ModelWorkload, RoundConditions
from perstep.machine import Noise
from perstep.report.export import Measured
from perstep.runs import Column, Manifest


class Conditions(RoundConditions, kw_only=True):
    """How `cache` measured.

    Attributes:
        config: of the model, as in its config.json.
        backend: how a step with a cache is carried out, a name of `experiments.bounds.BACKENDS`.
        backend_without: likewise without one.
        random_weights: whether the weights are random.
        unknown_arithmetic: why theory has no curve although it has a formula: what the layers compute is unknown.
        rewound: what is put back before each step, in words.
        prompt: what the contexts are made of, in words.
        memory: the bytes at each context.
        left_out: points that the budget does not hold, in words.
        repetitions_a_round: arm and context -> timed steps a round.
    """

    config: dict[str, Json]
    backend: str
    backend_without: str
    random_weights: bool
    rewound: str
    prompt: str
    memory: list[Memory]
    left_out: list[str]
    repetitions_a_round: dict[str, int]
    unknown_arithmetic: str = ""


class Workload(ModelWorkload, kw_only=True):
    """The work of `cache`.

    Attributes:
        contexts: positions held before the step, ascending.
        batch: sequences.
        cache: `built-in`, `dynamic` or `static`.
        capacity: positions that are allocated beforehand; None where the cache grows.
        token_ids_sha256: of the prompt.
    """

    contexts: list[int]
    batch: int
    cache: str
    capacity: int | None
    token_ids_sha256: str


class Sample(msgspec.Struct):
    """One round: each point visited twice, in an order and then in the reverse.

    Attributes:
        round: its number.
        step_ns: `with` or `without` -> context -> the repetitions of both visits, the discarded ones left out.
        ceilings: figures of the ceiling sweep in this round, by arm; one for each of the two visits.
        noise: of the round.
    """

    round: int
    step_ns: dict[str, dict[str, Column]]
    ceilings: list[dict[str, float]]
    noise: Noise


def timeline(_manifest: Manifest, samples: Sequence[Sample]) -> Iterator[list[Measured]]:
    """The steps of each round, arm by arm and context by context; in which order they ran is not kept."""
    for sample in samples:
        where = {"round": sample.round}
        yield [
            Measured(f"{arm} a cache", f"context {context}", "decode", ns, where={**where, "position": at})
            for arm, by_context in sample.step_ns.items()
            for context, steps in by_context.items()
            for at, ns in enumerate(steps.tolist())
        ]


def stacked(samples: Sequence[Sample]) -> dict[tuple[str, int], NDArray[np.float64]]:
    """(arm, context) -> the round's median step in ns, [rounds]; points that every round holds.

    Raises:
        InputError: there are no samples, or a point without repetitions.
    """
    require_rounds(samples)
    by_point = {}
    for arm in (WITH, WITHOUT):
        contexts = set.intersection(*(set(sample.step_ns.get(arm, {})) for sample in samples))
        for context in sorted(contexts, key=int):
            rounds = [sample.step_ns[arm][context] for sample in samples]
            if not all(len(each) and each.min() > 0 for each in rounds):
                raise InputError(
                    f"a step {arm} a cache at context {context} has no duration; restore the file, or measure again"
                )
            by_point[arm, int(context)] = np.array([np.median(each) for each in rounds])
    return by_point
