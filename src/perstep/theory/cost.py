"""What a part costs: FLOPs, bytes and calls, as one record that adds up.

Floating-point operations of products are apart from those of vectors, and special functions apart from both, as
in XLA's cost analysis, because each has a ceiling of its own. Knows no formula and no time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from perstep.theory.backends import Backend
from perstep.theory.shape import ModelShape
from perstep.theory.step import Precision, Step


@dataclass(frozen=True)
class Cost:
    """The cost of a part in one step, over all its occurrences.

    Attributes:
        matmul_flops: of matrix products, a multiplication and an addition counted as two.
        vector_flops: additions, multiplications, divisions and comparisons elsewhere, one for each number.
        special_functions: exponentials, tanh, erf and reciprocal roots, one for each number.
        weight_bytes: weights read, each once; an expectation in a mixture of experts.
        cache_read_bytes: keys and values written by earlier steps.
        cache_write_bytes: keys and values written into the cache.
        activation_read_bytes: everything else that is read; it was written in the same step.
        activation_write_bytes: everything else that is written.
        calls: library calls.
        working_set_bytes: activations that one call of the part touches; in a sum of costs the maximum.
        packed_bytes: BLAS packing: weights that the library copies into its own layout before a product of several
            rows, read once and written once; the product begins afterwards.
    """

    matmul_flops: int = 0
    vector_flops: int = 0
    special_functions: int = 0
    weight_bytes: float = 0
    cache_read_bytes: int = 0
    cache_write_bytes: int = 0
    activation_read_bytes: int = 0
    activation_write_bytes: int = 0
    calls: int = 0
    working_set_bytes: int = 0
    packed_bytes: float = 0

    @property
    def flops(self) -> int:
        """All operations of products and vectors."""
        return self.matmul_flops + self.vector_flops

    @property
    def streamed_bytes(self) -> float:
        """Weights and cache: bytes that were last read one step earlier."""
        return self.weight_bytes + self.cache_read_bytes + self.cache_write_bytes

    @property
    def activation_bytes(self) -> int:
        """Bytes that are written and read within the same step."""
        return self.activation_read_bytes + self.activation_write_bytes

    @property
    def total_bytes(self) -> float:
        """All bytes moved."""
        return self.streamed_bytes + self.activation_bytes + self.packed_bytes

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.matmul_flops + other.matmul_flops,
            self.vector_flops + other.vector_flops,
            self.special_functions + other.special_functions,
            self.weight_bytes + other.weight_bytes,
            self.cache_read_bytes + other.cache_read_bytes,
            self.cache_write_bytes + other.cache_write_bytes,
            self.activation_read_bytes + other.activation_read_bytes,
            self.activation_write_bytes + other.activation_write_bytes,
            self.calls + other.calls,
            max(self.working_set_bytes, other.working_set_bytes),
            self.packed_bytes + other.packed_bytes,
        )

    def __mul__(self, times: int) -> "Cost":
        """The cost of this many occurrences."""
        return Cost(
            self.matmul_flops * times,
            self.vector_flops * times,
            self.special_functions * times,
            self.weight_bytes * times,
            self.cache_read_bytes * times,
            self.cache_write_bytes * times,
            self.activation_read_bytes * times,
            self.activation_write_bytes * times,
            self.calls * times,
            self.working_set_bytes,
            self.packed_bytes * times,
        )


@dataclass(frozen=True)
class StepCost:
    """The costs of one step, part by part; parts that do not occur are left out.

    `resident_bytes`: bytes that must stay in a level of memory for the next step to read its weights and cache from it:
    all weights except rows of an embedding table that no token looks up, the cache and the largest working set.
    """

    shape: ModelShape
    step: Step
    precision: Precision
    backend: Backend
    parts: Mapping[str, Cost]
    resident_bytes: int

    @property
    def layer_bytes(self) -> float:
        """Bytes that a step touches between a call and the next layer's: the footprint without the head, per layer."""
        return (self.resident_bytes - self.parts["lm_head"].weight_bytes) / self.shape.num_layers

    @property
    def total(self) -> Cost:
        """The sum of the parts."""
        return sum(self.parts.values(), Cost())
