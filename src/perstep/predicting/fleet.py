"""Several machines that each hold the whole model: memory and tokens a second, derived from one prediction.

Data parallelism alone: each machine decodes batches of its own and waits for no other. A model that does not fit into
one machine would be split, and what a step then waits for the others is not known here.
"""

import msgspec

from perstep._words import plural
from perstep.errors import InputError
from perstep.predicting.predict import Prediction
from perstep.predicting.subject import Subject


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """Machines side by side; everything is derived.

    Attributes:
        machines: how many.
        bytes_each: weights and cache on each of them.
        tokens_per_s: of all together, if none waits for another.
        low_tokens_per_s: lower end; None without an interval of the step.
        high_tokens_per_s: upper end.
    """

    machines: int
    bytes_each: int
    tokens_per_s: float
    low_tokens_per_s: float | None
    high_tokens_per_s: float | None


def check_fleet(subject: Subject, machines: int, memory_bytes: float | None) -> None:
    """See that each machine can hold the whole model.

    Args:
        subject: the step on one of them.
        machines: how many.
        memory_bytes: of each, of its device where steps run on one; None if it is not known.

    Raises:
        InputError: fewer than one machine, or the model does not fit into one.
    """
    if machines < 1:
        raise InputError(f"--fleet {machines}: it must be at least 1")
    needed = subject.weight_bytes + subject.cache_bytes
    if memory_bytes is not None and needed > memory_bytes:
        raise InputError(
            f"{subject.name} needs {needed / 2**30:,.1f} GiB for weights and cache, and each machine has"
            f" {memory_bytes / 2**30:,.1f} GiB. To split it over {plural(machines, 'machine')} (tensor parallelism) is"
            " refused: no ceiling of an all-reduce was measured. Take a smaller batch, context or dtype"
        )


def fleet_of(prediction: Prediction, machines: int, batch: int) -> Fleet:
    """A fleet that was checked.

    Args:
        prediction: of the step on one of them.
        machines: how many.
        batch: sequences on each.
    """
    rate = machines * batch * 1e9
    return Fleet(
        machines=machines,
        bytes_each=prediction.weight_bytes + prediction.cache_bytes,
        tokens_per_s=rate / prediction.step_ns,
        low_tokens_per_s=None if prediction.high_ns is None else rate / prediction.high_ns,
        high_tokens_per_s=None if prediction.low_ns is None else rate / prediction.low_ns,
    )
