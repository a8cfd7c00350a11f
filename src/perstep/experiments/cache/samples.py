"""The samples of `cache`: the durations of a round by arm and context."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from perstep.errors import InputError
from perstep.experiments.cache.fits import WITH, WITHOUT
from perstep.experiments.columns import require_rounds
from perstep.machine import Noise
from perstep.runs import Column


class Sample(msgspec.Struct):
    """One round: each point visited twice, in an order and then in the reverse.

    Attributes:
        round: its number.
        step_ns: `with` or `without` -> context -> the repetitions of both visits, the discarded ones left out.
        ceilings: what the ladder of ceilings found in this round, by arm; both visits.
        noise: of the round.
    """

    round: int
    step_ns: dict[str, dict[str, Column]]
    ceilings: list[dict[str, float]]
    noise: Noise


def stacked(samples: Sequence[Sample]) -> dict[tuple[str, int], NDArray[np.float64]]:
    """(arm, context) -> the round's median step in ns, [rounds]; points that every round holds.

    Raises:
        InputError: there are no samples, or a point without repetitions.
    """
    require_rounds(samples)
    found = {}
    for arm in (WITH, WITHOUT):
        contexts = set.intersection(*(set(sample.step_ns.get(arm, {})) for sample in samples))
        for context in sorted(contexts, key=int):
            rounds = [sample.step_ns[arm][context] for sample in samples]
            if not all(len(each) and each.min() > 0 for each in rounds):
                raise InputError(
                    f"a step {arm} a cache at context {context} has no duration; restore the file, or measure again"
                )
            found[arm, int(context)] = np.array([np.median(each) for each in rounds])
    return found
