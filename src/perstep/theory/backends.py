"""How a library carries out a step, as far as it changes what must be moved, computed or called: data.

The numbers of calls were counted, not estimated: the tests count them again in the decoder of this package and
in transformers. A backend of your own is one more record. Times of a call belong to `roofline.Rates`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from perstep.errors import InputError
from perstep.theory.parts import PARTS


@dataclass(frozen=True)
class Packing:
    """Which products of several rows a library computes without BLAS packing.

    Attributes:
        most_products: the largest number of multiply-adds without packing, where the weights of one input are adjacent.
        most_results: the largest number of results without packing, where the weights of one output are adjacent.
        least_rows: fewer are multiplied as vectors are, without packing.
        most_bytes: larger weights are stored output by output, as in a file; so are those with fewer outputs than
            inputs.
    """

    most_products: int
    most_results: int
    most_bytes: int
    least_rows: int

    def packs(self, rows: float, inputs: int, outputs: int, number: int) -> bool:
        """Whether `rows` rows times weights [inputs, outputs] of `number` bytes each pack the weights."""
        by_output = outputs < inputs or inputs * outputs * number > self.most_bytes
        small = rows * inputs * outputs <= self.most_products and not (by_output and rows * outputs > self.most_results)
        return rows >= self.least_rows and not small


@dataclass(frozen=True)
class Backend:
    """How a library executes a step.

    Attributes:
        name: what it is called in messages.
        calls: library calls each time a part occurs, in a decode step of one sequence; views that touch no
            data are not counted. Empty: calls are not counted.
        calls_many_rows: those that differ where there is more than one row.
        bias_calls: calls that each bias adds.
        computes_masked: products of all queries with all keys are computed, and those that the causal mask forbids are
            discarded; otherwise they are skipped, which saves half of a long prefill (Dao 2023).
        keeps_scores: scores are written to memory and read again; otherwise they stay in the kernel (Dao et
            al. 2022).
        softmax_reads: how often stored scores are read in `attn.softmax`, once by each call.
        softmax_writes: how often they are written.
        scores_in_place: mask and softmax work in place, so they touch half as many bytes.
        packing: when a product of several rows first copies its weights into the library's own layout (BLAS packing,
            Goto and van de Geijn 2008); None: no such copy is counted.
        copies_cache: appending copies the whole cache (a concatenation).
        repeats_kv: keys and values are copied out to every query head before the products.
        masks_decode: a mask is built and applied even for one new position, which needs none.
        attends_capacity: attention runs over all allocated positions, filled or not.
    """

    name: str
    calls: Mapping[str, int] = field(default_factory=dict)
    calls_many_rows: Mapping[str, int] = field(default_factory=dict)
    bias_calls: int = 0
    computes_masked: bool = True
    keeps_scores: bool = True
    softmax_reads: int = 1
    softmax_writes: int = 1
    scores_in_place: bool = False
    packing: Packing | None = None
    copies_cache: bool = False
    repeats_kv: bool = False
    masks_decode: bool = False
    attends_capacity: bool = False

    def __post_init__(self) -> None:
        missing = [part for part in PARTS if part not in self.calls]
        if self.calls and missing:
            raise InputError(f"backend {self.name}: no number of calls for {', '.join(missing)}; give all or none")

    def calls_of(self, part: str, rows: int) -> int:
        """Library calls each time `part` occurs with this many rows; 0 where calls are not counted."""
        if rows > 1 and part in self.calls_many_rows:
            return self.calls_many_rows[part]
        return self.calls.get(part, 0)


_MKL = Packing(most_products=0, most_results=0, most_bytes=0, least_rows=4)
"""torch's products from four rows on pack their weights, whatever their size, unless that was done beforehand
(`cblas_gemm_pack` in MKL's reference); the README has the figures."""

IDEAL = Backend("ideal", computes_masked=False, keeps_scores=False)
"""The least that must be done: nothing computed in vain, nothing moved twice, calls free."""

REFERENCE = Backend(
    "reference",
    calls={
        "embed": 1,
        "norm": 3,
        "attn.qkv": 1,
        "attn.rope": 1,
        "kv.append": 2,
        "attn.mask.build": 2,
        "attn.mask.apply": 1,
        "attn.scores": 1,
        "attn.softmax": 4,
        "attn.pv": 2,
        "attn.out": 2,
        "mlp": 7,
        "lm_head": 1,
        "sample": 1,
    },
    calls_many_rows={"norm": 6},
    bias_calls=1,
    softmax_reads=4,  # maximum, subtraction, exponential, sum
    softmax_writes=2,
    scores_in_place=True,
    packing=Packing(most_products=100**3, most_results=1200, most_bytes=1 << 20, least_rows=2),
)
"""The built-in NumPy decoder. When its OpenBLAS packs is written in `sgemm_small_kernel_permit_skylakex.c`, for
processors with AVX-512; how the decoder stores a weight, in `laid_out`."""

_LLAMA_CALLS = {
    "embed": 10,  # positions and their sines and cosines, once a step
    "norm": 6,
    "attn.qkv": 3,
    "attn.rope": 10,
    "kv.append": 2,
    "attn.mask.build": 0,
    "attn.mask.apply": 0,
    "attn.scores": 1,  # one kernel for scores, softmax and weighted sum
    "attn.softmax": 0,
    "attn.pv": 0,
    "attn.out": 2,
    "mlp": 6,
    "lm_head": 1,
    "sample": 1,
}

TRANSFORMERS = Backend(
    "transformers",
    calls=_LLAMA_CALLS,
    computes_masked=False,
    keeps_scores=False,
    copies_cache=True,
    packing=_MKL,
)
"""transformers 5 on a CPU with its defaults, fused attention and a dynamic cache; calls counted on Llama."""

TRANSFORMERS_STATIC = Backend(
    "transformers, static cache",
    calls=_LLAMA_CALLS | {"kv.append": 5, "attn.mask.build": 7, "attn.mask.apply": 3},
    keeps_scores=False,
    masks_decode=True,
    attends_capacity=True,
    packing=_MKL,
)
"""The same with a static cache: appending in place, attention over all that was allocated."""

TRANSFORMERS_EAGER = Backend(
    "transformers, eager attention",
    calls=_LLAMA_CALLS
    | {"attn.mask.build": 10, "attn.mask.apply": 1, "attn.scores": 3, "attn.softmax": 1, "attn.pv": 2},
    copies_cache=True,
    repeats_kv=True,
    masks_decode=True,
    packing=_MKL,
)
"""transformers with `attn_implementation="eager"` and a dynamic cache; calls with fewer key/value than query heads."""
