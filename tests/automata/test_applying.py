"""Applying a mask equals its definition: what is not allowed is -inf, the rest is as it was, bit for bit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstep.automata import Row, apply
from perstep.automata.rows import RowStore
from perstep.errors import InputError

SIZE = 1000
COUNTS = [0, 1, 8, 15, 16, 31, 32, 500, 937, 938, 999, 1000]


def _row(count: int, seed: int) -> Row:
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[np.random.default_rng(seed).permutation(SIZE)[:count]] = True
    return Row(SIZE, count, lambda: mask, RowStore(10**9))


def _logits(seed: int, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """Normal values with the awkward ones among them: both infinities and both zeros."""
    values = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    values.reshape(-1)[::7] = np.array([np.inf, -np.inf, 0.0, -0.0], dtype=dtype).repeat(values.size)[
        : values.reshape(-1)[::7].size
    ]
    values.reshape(-1)[::11] = dtype(-0.0)
    return values


def _reference(logits: Any, rows: list[Row]) -> Any:
    wanted = np.full_like(logits, -np.inf)
    for index, row in enumerate(rows):
        mask = row.mask()
        wanted[index, : row.size][mask] = logits[index, : row.size][mask]
    return wanted


def _same_bits(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one.view(np.uint8), other.view(np.uint8)))


@given(st.lists(st.sampled_from(COUNTS), min_size=1, max_size=9), st.integers(0, 99), st.sampled_from([0, 24]))
@settings(max_examples=150, deadline=None)
def test_numpy_equals_the_definition(counts: list[int], seed: int, padding: int) -> None:
    """At every density, for batches of different rows, and for a head wider than the vocabulary."""
    shared = {count: _row(count, seed + count) for count in COUNTS[::2]}
    rows = [shared.get(count) or _row(count, seed + index) for index, count in enumerate(counts)]
    logits = _logits(seed, (len(rows), SIZE + padding))
    wanted = _reference(logits, rows)
    given_back = apply(logits, rows)
    assert given_back is logits
    assert _same_bits(logits, wanted)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("count", COUNTS)
def test_every_float_and_one_row_for_all(count: int, dtype: Any) -> None:
    """Half, single and double precision; one row for a whole batch, and for logits without a batch."""
    row = _row(count, 1)
    logits = _logits(2, (3, SIZE), dtype)
    wanted = _reference(logits, [row] * 3)
    assert _same_bits(apply(logits.copy(), row), wanted)
    assert _same_bits(apply(logits[1].copy(), row), wanted[1])
    assert _same_bits(apply(logits[1].copy(), [row]), wanted[1])


@pytest.mark.hf
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("count", COUNTS)
def test_torch_equals_the_definition(count: int, dtype: str) -> None:
    """The same on tensors, in every precision models use."""
    import torch

    rows = [_row(count, 3), _row(max(count - 1, 0), 4)]
    logits = torch.from_numpy(_logits(5, (2, SIZE + 8))).to(getattr(torch, dtype))
    mask = torch.zeros(2, SIZE + 8, dtype=torch.bool)
    for index, row in enumerate(rows):
        mask[index, :SIZE] = torch.from_numpy(row.mask())
    wanted = torch.where(mask, logits, -torch.inf)
    assert apply(logits, rows) is logits
    assert torch.equal(logits, wanted)
    assert torch.equal(torch.signbit(logits), torch.signbit(wanted))


@pytest.mark.hf
def test_what_torch_needs_is_made_once() -> None:
    """Tensors derived from a row are kept with it, within the same budget."""
    import torch

    store = RowStore(10**6)
    mask = np.arange(SIZE) % 2 == 0
    row = Row(SIZE, 500, lambda: mask, store)
    for _ in range(3):
        apply(torch.zeros(2, SIZE, dtype=torch.bfloat16), row)
    assert store.used_bytes == 2 * SIZE


@pytest.mark.parametrize(
    ("shape", "rows", "what"),
    [
        ((2, SIZE), 3, "a row for each"),
        ((SIZE,), 2, "a row for each"),
        ((1, 1, SIZE), 1, "takes logits"),
        ((1, SIZE - 1), 1, "only 999 logits"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...], rows: int, what: str) -> None:
    """A wrong number of rows, a third dimension, or fewer logits than tokens."""
    with pytest.raises(InputError, match=what):
        apply(np.zeros(shape, dtype=np.float32), [_row(3, index) for index in range(rows)])
