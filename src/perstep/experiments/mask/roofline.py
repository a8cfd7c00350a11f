"""Where the mask lies on this machine's roofline: its operations and bytes a second against measured ceilings.

Operations and bytes are counted, not guessed: a look-up of the naive walk is one byte of a token and one entry of
the automaton (3 bytes, one operation); applying a mask reads and writes a logit (8 bytes a token, one comparison);
the head is 2 V D operations over 4 V D bytes of weights. What reaches under a tenth of both ceilings is bound by
neither: in Python that is the interpreter.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from perstep.automata import Dfa, Vocabulary
from perstep.machine import Machine, load_ceilings, measure_ceilings

BYTES_PER_LOOKUP = 3
BYTES_PER_LOGIT = 8
BOUND_FROM = 0.5
"""From this share of a ceiling on, a part is bound by it."""
UNBOUND_BELOW = 0.1
"""Below this share of both, it is bound by neither."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
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
        level: the memory its bytes come from, by how many there are.
        share_of_bandwidth: of that level's measured ceiling; None where there is none.
        share_of_compute: of the measured ceiling of matrix products; None where there is none.
        bound_by: `bandwidth`, `compute`, `the interpreter`, `no single ceiling`, or `unknown`.
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


def ceilings_for(machine: Machine) -> dict[str, Any]:
    """The ceilings that are needed: stored ones if they hold for this machine, else quickly measured ones."""
    loaded = load_ceilings(machine, threads=1)
    found = loaded.ceilings or measure_ceilings(machine, quick=True, threads=(1,))
    figures = {name: found.get(name) for name in ("read.l2", "read.l3", "read.memory", "gemm.float32")}
    return {
        "measured": "stored" if loaded.ceilings else "quickly, before the first round",
        "l2_bytes": machine.cpu.l2_bytes,
        "l3_bytes": machine.cpu.l3_bytes,
        "figures": {name: figure.value for name, figure in figures.items() if figure is not None},
    }


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
    cell: str, engine: str, part: str, *, ns: float, operations: float, moved: float, ceilings: Mapping[str, Any]
) -> Place:
    """Where a part lies.

    Args:
        cell: key of the cell.
        engine: the arm.
        part: the part.
        ns: what it takes, above 0.
        operations: how many it has to do.
        moved: bytes it has to move, above 0.
        ceilings: from `ceilings_for`.
    """
    level = _level(moved, ceilings)
    bandwidth, compute = ceilings["figures"].get(f"read.{level}"), ceilings["figures"].get("gemm.float32")
    of_bandwidth = None if bandwidth is None else moved / ns / bandwidth  # bytes a nanosecond are GB/s
    of_compute = None if compute is None else operations / ns / compute
    return Place(
        cell=cell,
        engine=engine,
        part=part,
        ns=ns,
        operations=operations,
        bytes=moved,
        operations_per_s=operations / ns * 1e9,
        bytes_per_s=moved / ns * 1e9,
        intensity=operations / moved,
        level=level,
        share_of_bandwidth=of_bandwidth,
        share_of_compute=of_compute,
        bound_by=_bound_by(of_bandwidth, of_compute),
    )


def _level(moved: float, ceilings: Mapping[str, Any]) -> str:
    """The nearest level that holds so many bytes and has a ceiling; the farthest measured one otherwise."""
    measured = [name for name in ("l2", "l3", "memory") if f"read.{name}" in ceilings["figures"]]
    for name in measured:
        size = ceilings.get(f"{name}_bytes")
        if isinstance(size, int) and moved <= size:
            return name
    return measured[-1] if measured else "unknown"


def _bound_by(of_bandwidth: float | None, of_compute: float | None) -> str:
    if of_bandwidth is None or of_compute is None:
        return "unknown"
    if max(of_bandwidth, of_compute) >= BOUND_FROM:
        return "bandwidth" if of_bandwidth >= of_compute else "compute"
    return "the interpreter" if max(of_bandwidth, of_compute) < UNBOUND_BELOW else "no single ceiling"
