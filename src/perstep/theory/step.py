"""What is counted: one step of a batch, and the precision its numbers are held in.

A decode step is a forward of one new position behind `past` held ones; a prefill is a forward of many. Times
belong to `roofline.py`, bytes and FLOPs to `costs.py`.
"""

from dataclasses import dataclass

from perstep._words import plural
from perstep.errors import InputError

DTYPE_BYTES: dict[str, int] = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
}
"""Bytes of one number, by dtype."""


def bytes_each(dtype: str) -> int:
    """The bytes of one number, without scales; InputError for a name that is not in `DTYPE_BYTES`."""
    if dtype not in DTYPE_BYTES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES[dtype]


@dataclass(frozen=True)
class Precision:
    """The dtypes of weights, activations and cache; products are computed in that of the activations."""

    weights: str = "float32"
    activations: str = "float32"
    cache: str = "float32"

    def __post_init__(self) -> None:
        for dtype in (self.weights, self.activations, self.cache):
            bytes_each(dtype)

    @classmethod
    def all(cls, dtype: str) -> "Precision":
        """Everything in one dtype."""
        return cls(dtype, dtype, dtype)


@dataclass(frozen=True)
class Step:
    """One forward: `new` positions after `past` cached ones, for each of `batch` sequences.

    `all_logits`: the head runs for every new position, not only for the last. `capacity`: how many positions
    were allocated, which counts where attention runs over all of them (`Backend.attends_capacity`).
    """

    new: int
    past: int = 0
    batch: int = 1
    all_logits: bool = False
    capacity: int | None = None

    def __post_init__(self) -> None:
        if self.new < 1 or self.batch < 1 or self.past < 0:
            raise InputError(
                "a step has 1 or more new positions of 1 or more sequences behind 0 or more, "
                f"found new={self.new}, batch={self.batch}, past={self.past}"
            )
        if self.capacity is not None and self.past + self.new > self.capacity:
            raise InputError(
                f"{plural(self.past + self.new, 'position does', 'positions do')} not fit into a capacity of "
                f"{self.capacity}"
            )

    @property
    def tokens(self) -> int:
        """New positions of all sequences."""
        return self.batch * self.new

    @property
    def head_rows(self) -> int:
        """Number of positions whose logits are computed."""
        return self.tokens if self.all_logits else self.batch


def prefill(
    tokens: int, *, past: int = 0, batch: int = 1, all_logits: bool = False, capacity: int | None = None
) -> Step:
    """A forward over a prompt of `tokens`, or over the next chunk of one behind `past` positions."""
    return Step(tokens, past, batch, all_logits, capacity)


def decode(context: int, *, batch: int = 1, capacity: int | None = None) -> Step:
    """A forward of one token after `context` cached positions: it attends to `context` + 1, including its own."""
    return Step(1, context, batch, capacity=capacity)
