"""The least bytes of a token mask on a device, counted by hand."""

import pytest

from perstep.theory.device import DeviceRates
from perstep.theory.masking import masking_bounds, masking_costs

V, B, WORDS = 131_072, 32, 4096


def test_a_table_reads_its_row_and_the_logits_and_writes_both() -> None:
    """32 sequences over 131,072 tokens: a row of booleans is read, 32 are written, and logits move twice."""
    costs = masking_costs("table", rows=B, width=V, forbidden=0)
    assert costs["mask.fill"].total_bytes == V + B * V
    assert costs["mask.apply"].total_bytes == B * V * (4 + 1) + B * V * 4
    assert costs["mask.accept"].total_bytes == B * (4 + 4 + 8)
    packed = masking_costs("packed table", rows=B, width=V, forbidden=0)
    assert packed["mask.fill"].total_bytes == 4 * WORDS + B * V
    assert packed["mask.apply"] == costs["mask.apply"]


def test_bits_are_copied_unpacked_compared_and_applied() -> None:
    """Each kernel reads what the one before it wrote; a last word that is not full is unpacked like the others."""
    cost = masking_costs("bits", rows=2, width=70, forbidden=0)["mask.apply"]
    bits = 2 * 3 * 4
    assert cost.total_bytes == bits + (bits + 32 * bits) + (32 * bits + 8 * bits) + 2 * 70 * (4 + 1 + 4)


def test_in_place_only_what_is_forbidden_must_be_written() -> None:
    """From bits that are copied and read, or from ids; half a token is a mean."""
    assert masking_costs("in place", rows=2, width=70, forbidden=60.5)["mask.apply"].total_bytes == 2 * 60.5 * 4
    copied = masking_costs("bits in place", rows=2, width=70, forbidden=60.5)["mask.apply"]
    assert copied.total_bytes == 2 * 60.5 * 4 + 2 * (2 * 3 * 4)
    assert masking_costs("in place", rows=2, width=70, forbidden=0, logit_bytes=2)["mask.apply"].total_bytes == 0


def test_the_bound_is_the_larger_of_bytes_and_launches() -> None:
    """At 1,000 GB/s and 400 ns a kernel: 37.7 µs of logits, 4 launches of a step of the states; what has no bytes."""
    rates = DeviceRates(1e12, 1e15, 400.0)
    costs = masking_costs("table", rows=B, width=V, forbidden=0)
    launches = {"mask.accept": 4.0, "mask.apply": 1.0, "other": 2.0}
    bounds = masking_bounds(costs, dict.fromkeys(launches, rates), launches)
    assert (bounds["mask.apply"].bound_ns, bounds["mask.apply"].binds) == (pytest.approx(37_748.736), "bandwidth")
    assert (bounds["mask.accept"].bound_ns, bounds["mask.accept"].binds) == (1600.0, "launches")
    assert bounds["other"].bound_ns == 800.0
