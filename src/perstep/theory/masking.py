"""The least bytes of a token mask on a device: rows of a table or packed bits read, logits read and written.

Counted is what each kernel of a way must read and write at least, every input and every output once. A row that
several sequences of the batch share may be read once, so one is counted. Time and bandwidth are passed in.
"""

from collections.abc import Mapping
from typing import Literal

from perstep.theory.cost import Cost
from perstep.theory.device import DeviceBound, DeviceRates

Way = Literal["table", "packed table", "bits", "in place", "bits in place"]
"""How a mask is found and applied on a device.

`table`: rows of booleans there, written into logits of their own; `packed table`: rows of bits there, unpacked first;
`bits`: packed on the host, copied, unpacked and applied; `in place`: only what is forbidden must be written; `bits in
place`: likewise, from bits that are copied and read.
"""
_STATE_BYTES, _CLASS_BYTES, _WORD_BYTES, _WORD_BITS = 8, 4, 4, 32


def masking_costs(way: Way, *, rows: int, width: int, forbidden: float, logit_bytes: int = 4) -> dict[str, Cost]:
    """Part -> the least that it must move in a step.

    Args:
        way: how it is done.
        rows: of the batch.
        width: logits of a row.
        forbidden: of these, the mean of those that a mask forbids; 0 if it is not known.
        logit_bytes: of a logit.
    """
    words, logits = -(-width // _WORD_BITS), rows * width
    bits = rows * words * _WORD_BYTES
    if way in ("table", "packed table"):
        row = width if way == "table" else words * _WORD_BYTES
        return {
            "mask.accept": Cost(weight_bytes=2 * rows * _CLASS_BYTES, activation_write_bytes=rows * _STATE_BYTES),
            "mask.fill": Cost(weight_bytes=row, activation_write_bytes=logits),
            "mask.apply": _filled(logits, logit_bytes),
        }
    if way == "bits":
        unpacked = bits * _WORD_BITS
        copied = Cost(activation_write_bytes=bits)
        masked = Cost(activation_read_bytes=bits, activation_write_bytes=unpacked)
        compared = Cost(activation_read_bytes=unpacked, activation_write_bytes=unpacked // _WORD_BYTES)
        return {"mask.apply": sum([copied, masked, compared], _filled(logits, logit_bytes))}
    written = Cost(activation_write_bytes=int(rows * forbidden * logit_bytes))
    copied = Cost(activation_read_bytes=bits, activation_write_bytes=bits) if way == "bits in place" else Cost()
    return {"mask.apply": written + copied}


def _filled(logits: int, logit_bytes: int) -> Cost:
    """Logits and a boolean for each read, and logits written."""
    return Cost(activation_read_bytes=logits * (logit_bytes + 1), activation_write_bytes=logits * logit_bytes)


def masking_bounds(
    costs: Mapping[str, Cost], rates: Mapping[str, DeviceRates], launches: Mapping[str, float]
) -> dict[str, DeviceBound]:
    """Part -> its bound: all of its bytes over the bandwidth, and its launches times the shortest kernel.

    Args:
        costs: of the parts; one without bytes is bound by its launches.
        rates: of the device, for a set of each part's bytes: logits may lie in its caches.
        launches: kernels, copies and fills of each part in a step.
    """
    return {
        part: DeviceBound(
            compute_ns=0.0,
            bandwidth_ns=costs.get(part, Cost()).total_bytes / rates[part].bytes_per_s * 1e9,
            launches_ns=count * rates[part].shortest_kernel_ns,
        )
        for part, count in launches.items()
    }
