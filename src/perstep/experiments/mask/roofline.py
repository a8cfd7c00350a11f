"""Where the mask lies on this machine's roofline: its operations and bytes a second against measured ceilings.

Operations and bytes are counted, not guessed: a look-up of the naive walk is one byte of a token and one entry of
the automaton (3 bytes, one operation); applying a mask reads and writes a logit (8 bytes a token, one comparison);
the head is 2 V D operations over 4 V D bytes of weights. What reaches under a tenth of both ceilings is bound by
neither: in Python that is the interpreter. Ceilings are measured in the rounds of the masks, as `ledger` does.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from perstep.automata import Dfa, Vocabulary
from perstep.experiments.bounds import EXCEEDED, rates_between
from perstep.machine import CeilingSweep, SweepCeilings

BYTES_PER_LOOKUP = 3
BYTES_PER_LOGIT = 8
BOUND_FROM = 0.5
"""From this share of a ceiling on, a part is bound by it."""
UNBOUND_BELOW = 0.1
"""Below this share of both, it is bound by neither."""

Work = tuple[float, float]
"""Operations, and bytes to move."""


class RooflinePoint(msgspec.Struct, frozen=True, kw_only=True):
    """A part on the roofline, per step of one row.

    Attributes:
        cell: key of the cell.
        engine: the arm.
        part: the part.
        ns: what it takes.
        operations: how many it has to do.
        bytes: how many it has to move.
        operations_per_s: what was reached.
        bytes_per_s: what was reached.
        intensity: operations a byte.
        level: the size of the set at which reading was measured, the nearest to its bytes; empty without ceilings.
        share_of_bandwidth: of the best round of reading that set; None where there is no ceiling or it is withdrawn.
        share_of_compute: of the best round of products; None likewise.
        bound_by: `bandwidth`, `compute`, `bandwidth or compute` where the ceilings' intervals do not tell them apart,
            `the interpreter`, `no single ceiling`; empty where nothing is judged.
        withdrawn: why nothing is judged, or empty.
    """

    cell: str
    engine: str
    part: str
    ns: float
    operations: float
    bytes: float
    operations_per_s: float
    bytes_per_s: float
    intensity: float
    level: str
    share_of_bandwidth: float | None
    share_of_compute: float | None
    bound_by: str
    withdrawn: str = ""


class AboutCell(msgspec.Struct, kw_only=True):
    """What analysis needs of a cell: counted, not timed.

    Attributes:
        vocab: name of the vocabulary.
        own: it is the model's own.
        vocab_size: tokens.
        batch: sequences.
        complexity: of the schema.
        states: of the automaton; None where there is none.
        hidden: width of the model.
        allowed_mean: allowed tokens at a place of the text, mean over places; None where that was not counted.
        allowed_median: likewise.
        lookups_per_fill: of the naive walk, mean over places; None without it.
        texts_end: end tokens in the texts.
    """

    vocab: str
    own: bool
    vocab_size: int
    batch: int
    complexity: int
    states: int | None
    hidden: int
    allowed_mean: float | None
    allowed_median: float | None
    lookups_per_fill: float | None
    texts_end: int


def works(about: AboutCell) -> dict[str, Work]:
    """Part -> its operations and bytes in a step of one row, of those that can be counted."""
    size, hidden, lookups = about.vocab_size, about.hidden, about.lookups_per_fill
    fill = {"mask.fill": (lookups, BYTES_PER_LOOKUP * lookups)} if lookups else {}
    head = {"lm_head": (2 * size * hidden, 4 * size * hidden)}
    return {**head, **fill, "mask.apply": (size, BYTES_PER_LOGIT * size)}


def open_sweep(cells: Sequence[AboutCell], *, dtype: str, threads: int) -> CeilingSweep | None:
    """The ceilings that judge the cells, at the very sizes that their parts move; None without a batch of one.

    Args:
        cells: of the run.
        dtype: of the model.
        threads: in force.
    """
    single = [about for about in cells if about.batch == 1]
    sizes = {int(moved) for about in single for _, moved in works(about).values()}
    if not sizes:
        return None
    return CeilingSweep(sorted(sizes), call_up_to=1, dtype=dtype, row=single[0].hidden, threads=threads)


def count_lookups(dfa: Dfa, vocabulary: Vocabulary, state: int) -> int:
    """How many bytes the naive walk looks up in one state: each token until its state is dead."""
    if not state:
        return 0
    lengths = np.array([len(token) for token in vocabulary.tokens])
    starts = np.concatenate([[0], np.cumsum(lengths[:-1])])
    text = dfa.byte_class[np.frombuffer(b"".join(vocabulary.tokens), np.uint8)]
    alive, at, depth, total = np.flatnonzero(lengths), np.full(int((lengths > 0).sum()), state), 0, 0
    while alive.size:
        total += alive.size
        at = dfa.transitions[at, text[starts[alive] + depth]]
        depth += 1
        going = (at != 0) & (lengths[alive] > depth)
        alive, at = alive[going], at[going]
    return total


def place(
    cell: str,
    engine: str,
    part: str,
    *,
    ns: float,
    work: Work,
    ceilings: SweepCeilings | None,
    dtype: str = "float32",
) -> RooflinePoint:
    """Where a part lies.

    Args:
        cell: key of the cell.
        engine: the arm.
        part: the part.
        ns: what it takes, above 0.
        work: what it has to do, its bytes above 0.
        ceilings: of the rounds; None in runs of older versions.
        dtype: of the products.
    """
    operations, moved = work
    one = RooflinePoint(
        cell=cell,
        engine=engine,
        part=part,
        ns=ns,
        operations=operations,
        bytes=moved,
        operations_per_s=operations / ns * 1e9,
        bytes_per_s=moved / ns * 1e9,
        intensity=operations / moved,
        level="",
        share_of_bandwidth=None,
        share_of_compute=None,
        bound_by="",
        withdrawn="not judged: the rounds hold no ceilings" if ceilings is None else ceilings.why_no_bounds(),
    )
    if ceilings is None or one.withdrawn:
        return one
    best, typical = rates_between(ceilings, dtype)
    of_bandwidth, of_bandwidth_typical = (one.bytes_per_s / r.level_for(moved).bytes_per_s for r in (best, typical))
    of_compute, of_compute_typical = (one.operations_per_s / r.peak_flops[dtype] for r in (best, typical))
    sides = [
        *(["bandwidth"] if of_bandwidth_typical >= of_compute else []),
        *(["compute"] if of_compute_typical > of_bandwidth else []),
    ]
    return msgspec.structs.replace(
        one,
        level=best.level_for(moved).name,
        share_of_bandwidth=of_bandwidth,
        share_of_compute=of_compute,
        bound_by=_bound_by(max(of_bandwidth, of_compute), " or ".join(sides)),
    )


def _bound_by(share: float, sides: str) -> str:
    if share >= BOUND_FROM:
        return sides
    return "the interpreter" if share < UNBOUND_BELOW else "no single ceiling"


def without_exceeded(places: Sequence[RooflinePoint]) -> list[RooflinePoint]:
    """The same, where a part that is faster than a ceiling's best round withdraws it for all (law "a bound bounds")."""
    levels = {one.level for one in places if (one.share_of_bandwidth or 0) > 1}
    compute = any((one.share_of_compute or 0) > 1 for one in places)
    return [
        msgspec.structs.replace(
            one,
            share_of_bandwidth=None if one.level in levels else one.share_of_bandwidth,
            share_of_compute=None if compute else one.share_of_compute,
            bound_by="",
            withdrawn=EXCEEDED,
        )
        if not one.withdrawn and (compute or one.level in levels)
        else one
        for one in places
    ]
