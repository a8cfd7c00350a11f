"""Kept causal masks equal masks built afresh, bit for bit, in both backends, whatever was asked before."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstep.errors import InputError
from perstep.fast import CausalMaskCache

shapes = st.tuples(st.integers(1, 40), st.integers(0, 60)).map(lambda qp: (qp[0], qp[0] + qp[1]))
asked = st.lists(st.tuples(shapes, st.sampled_from([None, "float32", "float16", "float64"])), min_size=1, max_size=8)
limits = st.sampled_from([1 << 20, 3000, 200, 1])


def fresh(q_len: int, kv_len: int, dtype: str | None, padding: np.ndarray | None = None) -> np.ndarray:
    """The definition, key by key."""
    allowed = np.array([[j <= i + kv_len - q_len for j in range(kv_len)] for i in range(q_len)])
    if padding is not None:
        allowed = allowed[None, None] & (padding[:, None, None, :] != 0)
    if dtype is None:
        return allowed
    kind = np.dtype(dtype)
    empty = ~allowed.any(-1, keepdims=True)
    forbidden = np.where(empty, np.finfo(kind).min / kind.type(2), kind.type(-np.inf)).astype(kind)
    return np.where(allowed, kind.type(0), forbidden)


def same(found: Any, expected: np.ndarray) -> bool:
    """Equal to the bit, and of the same dtype."""
    array = np.asarray(found)
    return array.dtype == expected.dtype and array.shape == expected.shape and array.tobytes() == expected.tobytes()


@given(asked, limits)
@settings(deadline=None, max_examples=80)
def test_every_mask_equals_a_fresh_one(calls: list[Any], max_bytes: int) -> None:
    """In any order of shapes and dtypes, and under any limit: what is not kept is built for the one call."""
    cache = CausalMaskCache("numpy", max_bytes=max_bytes)
    for (q_len, kv_len), dtype in calls:
        assert same(cache.get(q_len, kv_len, dtype=dtype), fresh(q_len, kv_len, dtype))
        assert cache.nbytes <= max_bytes


@given(shapes, st.sampled_from([None, "float32", "float64", "float16"]), st.data())
@settings(deadline=None, max_examples=60)
def test_padding_is_combined_with_the_mask(shape: tuple[int, int], dtype: str | None, data: st.DataObject) -> None:
    """Each row of a batch has its own; the kept mask is not changed by it."""
    q_len, kv_len = shape
    padding = np.array(data.draw(st.lists(st.lists(st.integers(0, 1), min_size=kv_len, max_size=kv_len), min_size=1)))
    cache = CausalMaskCache("numpy")
    assert same(cache.get(q_len, kv_len, dtype=dtype, padding=padding), fresh(q_len, kv_len, dtype, padding))
    assert same(cache.get(q_len, kv_len, dtype=dtype), fresh(q_len, kv_len, dtype))


@pytest.mark.hf
@given(asked, limits, st.data())
@settings(deadline=None, max_examples=60)
def test_torch_gives_what_numpy_gives(calls: list[Any], max_bytes: int, data: st.DataObject) -> None:
    """The same bits as tensors, with and without padding."""
    import torch

    cache = CausalMaskCache(max_bytes=max_bytes)
    for (q_len, kv_len), name in calls:
        dtype = None if name is None else getattr(torch, name)
        assert same(cache.get(q_len, kv_len, dtype=dtype), fresh(q_len, kv_len, name))
        padding = np.array(data.draw(st.lists(st.integers(0, 1), min_size=kv_len, max_size=kv_len)))[None]
        found = cache.get(q_len, kv_len, dtype=dtype, padding=torch.from_numpy(padding))
        assert same(found, fresh(q_len, kv_len, name, padding))
        assert cache.nbytes <= max_bytes


@pytest.mark.hf
def test_a_row_that_may_attend_to_nothing_gives_no_nan() -> None:
    """Left padding forbids everything to the first queries; their softmax is uniform, also added to large scores."""
    import torch

    padding = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        mask = CausalMaskCache().get(4, 4, dtype=dtype, padding=padding)
        probabilities = torch.softmax(torch.full((2, 1, 4, 4), -1000.0, dtype=dtype) + mask, -1)
        assert torch.isfinite(probabilities).all()
        assert probabilities[0, 0, 0].tolist() == [0.25] * 4
        assert probabilities[0, 0, 2].tolist() == [0, 0, 1, 0]


@pytest.mark.hf
def test_attention_takes_the_mask() -> None:
    """scaled_dot_product_attention with the boolean form does what it does with is_causal."""
    import torch

    q = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    attend = torch.nn.functional.scaled_dot_product_attention
    assert torch.allclose(attend(q, q, q, attn_mask=CausalMaskCache().get(9, 9)), attend(q, q, q, is_causal=True))


@pytest.mark.hf
def test_a_buffer_made_in_inference_mode_serves_training() -> None:
    """The first call may be in generate, the next where gradients are wanted."""
    import torch

    cache = CausalMaskCache()
    with torch.inference_mode():
        cache.get(4, 4)
    scores = torch.ones(4, 4, requires_grad=True)
    scores.masked_fill(~cache.get(4, 4), 0.0).sum().backward()
    assert scores.grad is not None
    assert scores.grad.sum() == 10


def test_masks_are_views_of_one_buffer() -> None:
    """After the largest shape has been seen, nothing is built or copied."""
    cache = CausalMaskCache("numpy")
    largest = cache.get(32, 96)
    held = cache.nbytes
    for q_len, kv_len in ((2, 2), (7, 40), (32, 32), (31, 95)):
        assert np.shares_memory(cache.get(q_len, kv_len), largest)
    assert cache.nbytes == held


def test_a_long_past_and_many_queries_do_not_multiply() -> None:
    """A prefill of 512 and then decode steps behind 100,000 positions take their sum, not their product."""
    cache = CausalMaskCache("numpy")
    cache.get(512, 512)
    cache.get(1, 100_000)
    assert cache.nbytes < 500_000


def test_an_array_cannot_be_written_into() -> None:
    """It is shared by later masks."""
    with pytest.raises(ValueError, match="read-only"):
        CausalMaskCache("numpy").get(2, 2)[0, 1] = True


def test_nothing_is_kept_after_clear() -> None:
    """And masks are right again."""
    cache = CausalMaskCache("numpy")
    cache.get(3, 5, dtype="float32")
    cache.clear()
    assert cache.nbytes == 0
    assert same(cache.get(3, 5, dtype="float32"), fresh(3, 5, "float32"))


@pytest.mark.parametrize(("q_len", "kv_len"), [(0, 4), (-1, 4), (5, 4), (1, 0)])
def test_lengths_out_of_range_are_refused(q_len: int, kv_len: int) -> None:
    """No query, or fewer keys than queries."""
    cache = CausalMaskCache("numpy")
    cache.get(8, 8)
    with pytest.raises(InputError, match="at least 1 query, and a key for each"):
        cache.get(q_len, kv_len)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "int32"}, "a mask is boolean, or additive in a floating dtype"),
        ({"dtype": "nonsense"}, "the numpy backend takes NumPy's"),
        ({"device": "cuda"}, "are on the cpu"),
        ({"padding": np.ones((2, 3))}, r"padding of shape \[2, 3\]: it must be \[batch, 4\]"),
        ({"padding": np.ones(4)}, r"padding of shape \[4\]"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    """With what would be right."""
    with pytest.raises(InputError, match=words):
        CausalMaskCache("numpy").get(2, 4, **options)


def test_bad_caches_are_refused() -> None:
    """An unknown backend, and no memory at all."""
    with pytest.raises(InputError, match="torch or numpy"):
        CausalMaskCache("jax")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1"):
        CausalMaskCache("numpy", max_bytes=0)
