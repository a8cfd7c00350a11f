"""The KV cache: what it holds, what it refuses, and the bytes it reports."""

import numpy as np
import pytest

from perstep.errors import InputError
from perstep.targets.reference import CacheFull, KVCache

LAYERS, BATCH, KV_HEADS, HEAD_DIM, CAPACITY = 3, 2, 2, 4, 10


@pytest.fixture
def cache() -> KVCache:
    """A small empty cache."""
    return KVCache(LAYERS, BATCH, KV_HEADS, HEAD_DIM, CAPACITY)


def fill(cache: KVCache, num_positions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Append random positions to every layer and count them; keys as appended [layer, B, K, H, T] and values."""
    layers, B, K, H = cache.geometry
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((layers, B, K, H, num_positions)).astype(np.float32)
    values = rng.standard_normal((layers, B, K, num_positions, H)).astype(np.float32)
    for layer in range(layers):
        cache.append(layer, keys[layer], values[layer])
    cache.advance(num_positions)
    return keys, values


def test_append_shows_everything_held(cache: KVCache) -> None:
    """Appending a chunk and then one position shows both, in order, layer by layer."""
    first_keys, first_values = fill(cache, 4, seed=1)
    rng = np.random.default_rng(2)
    k = rng.standard_normal((BATCH, KV_HEADS, HEAD_DIM, 1)).astype(np.float32)
    v = rng.standard_normal((BATCH, KV_HEADS, 1, HEAD_DIM)).astype(np.float32)
    for layer in range(LAYERS):
        keys, values = cache.append(layer, k, v)
        np.testing.assert_array_equal(keys, np.concatenate([first_keys[layer], k], axis=-1))
        np.testing.assert_array_equal(values, np.concatenate([first_values[layer], v], axis=-2))


def test_append_returns_views(cache: KVCache) -> None:
    """What append shows is the cache's own memory, never a copy."""
    k = np.ones((BATCH, KV_HEADS, HEAD_DIM, 2), np.float32)
    v = np.ones((BATCH, KV_HEADS, 2, HEAD_DIM), np.float32)
    keys, values = cache.append(1, k, v)
    assert np.shares_memory(keys, cache.keys)
    assert np.shares_memory(values, cache.values)


def test_length_moves_only_with_advance(cache: KVCache) -> None:
    """A forward that is interrupted between layers leaves the length as it was, and a repeat overwrites."""
    fill(cache, 3)
    before = cache.keys[:, ..., :3].copy()
    k = np.full((BATCH, KV_HEADS, HEAD_DIM, 2), 7, np.float32)
    v = np.full((BATCH, KV_HEADS, 2, HEAD_DIM), 7, np.float32)
    cache.append(0, k, v)
    assert cache.current_length() == 3
    keys, _ = cache.append(0, k + 1, v)
    assert keys.shape[-1] == 5
    np.testing.assert_array_equal(keys[..., 3:], k + 1)
    np.testing.assert_array_equal(cache.keys[:, ..., :3], before)


def test_bytes_follow_from_shapes(cache: KVCache) -> None:
    """Allocated and used bytes are 2 x layers x batch x kv_heads x positions x head_dim x 4, and match the buffers."""
    per_position = 2 * LAYERS * BATCH * KV_HEADS * HEAD_DIM * 4
    assert cache.bytes_allocated() == per_position * CAPACITY == cache.keys.nbytes + cache.values.nbytes
    assert cache.bytes_used() == 0
    fill(cache, 7)
    assert cache.bytes_used() == per_position * 7


def test_the_last_position_fits_and_the_next_is_refused(cache: KVCache) -> None:
    """A full cache raises CacheFull, an InputError, names both numbers and keeps what it holds."""
    fill(cache, CAPACITY)
    before = cache.keys.copy()
    k = np.zeros((BATCH, KV_HEADS, HEAD_DIM, 1), np.float32)
    with pytest.raises(CacheFull, match="capacity 10 cannot hold 10 and 1 more"):
        cache.append(0, k, k.swapaxes(-1, -2))
    assert issubclass(CacheFull, InputError)
    assert cache.current_length() == CAPACITY
    np.testing.assert_array_equal(cache.keys, before)
    with pytest.raises(CacheFull):
        cache.advance(1)


def test_rollback_forgets_the_last_positions(cache: KVCache) -> None:
    """After a rollback the next append lands where the forgotten positions were."""
    fill(cache, 6)
    cache.rollback(2)
    assert cache.current_length() == 4
    cache.rollback(0)
    assert cache.current_length() == 4
    k = np.full((BATCH, KV_HEADS, HEAD_DIM, 1), 5, np.float32)
    keys, _ = cache.append(0, k, k.swapaxes(-1, -2))
    np.testing.assert_array_equal(keys[..., 4:], k)


@pytest.mark.parametrize("num_positions", [-1, 4])
def test_impossible_rollback_is_refused(cache: KVCache, num_positions: int) -> None:
    """A negative rollback, or one longer than what is held, is an InputError and changes nothing."""
    fill(cache, 3)
    with pytest.raises(InputError, match=f"by {num_positions}; .* 0 to 3"):
        cache.rollback(num_positions)
    assert cache.current_length() == 3


def test_reset_keeps_the_buffers(cache: KVCache) -> None:
    """A reset empties the cache without a new allocation."""
    fill(cache, 5)
    keys = cache.keys
    cache.reset()
    assert (cache.current_length(), cache.bytes_used()) == (0, 0)
    assert cache.keys is keys
    fill(cache, CAPACITY)


@pytest.mark.parametrize(
    ("k_shape", "v_shape"),
    [
        ((1, KV_HEADS, HEAD_DIM, 1), (BATCH, KV_HEADS, 1, HEAD_DIM)),
        ((BATCH, KV_HEADS, HEAD_DIM, 1), (1, KV_HEADS, 1, HEAD_DIM)),
        ((BATCH, KV_HEADS, HEAD_DIM, 3), (BATCH, KV_HEADS, 1, HEAD_DIM)),
    ],
)
def test_other_shapes_are_refused(cache: KVCache, k_shape: tuple[int, ...], v_shape: tuple[int, ...]) -> None:
    """Keys or values that NumPy would broadcast into place are refused instead."""
    with pytest.raises(InputError, match="the KV cache takes keys"):
        cache.append(0, np.zeros(k_shape, np.float32), np.zeros(v_shape, np.float32))


@pytest.mark.parametrize(("batch", "capacity", "word"), [(0, 4, "batch"), (1, 0, "capacity")])
def test_an_empty_cache_is_refused(batch: int, capacity: int, word: str) -> None:
    """A cache without rows or without positions is an InputError that says which."""
    with pytest.raises(InputError, match=word):
        KVCache(LAYERS, batch, KV_HEADS, HEAD_DIM, capacity)
