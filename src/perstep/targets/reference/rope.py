"""Rotary positions as unit complex numbers: pair p of position m is turned by m * frequency[p] (Su et al. 2021).

The frequencies are those of transformers for the types `default`, `linear` and `llama3`, in its float32, so
that angles agree at long contexts too. Knows no weights.
"""

import math

import numpy as np
from numpy.typing import NDArray

from perstep.targets.reference.config import Config, Rope


def rotations(config: Config, num_positions: int) -> NDArray[np.complex64]:
    """The rotation cos + i sin of every position, [num_positions, 1, head_dim / 2]; the 1 is for the heads."""
    positions = np.arange(num_positions, dtype=np.float32)
    angles = positions[:, None] * frequencies(config.rope, config.head_dim)
    turned: NDArray[np.complex64] = np.exp(1j * angles.astype(np.float64)).astype(np.complex64)
    return turned[:, None]


def frequencies(rope: Rope, head_dim: int) -> NDArray[np.float32]:
    """Radians a position for each rotary pair, [head_dim / 2]."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain: NDArray[np.float32] = (np.float32(1) / np.float32(rope.theta) ** exponents).astype(np.float32)
    if rope.kind == "default":
        return plain
    slowed = plain / np.float32(rope.factor)
    if rope.kind == "linear":
        return slowed
    # llama3: long wavelengths are slowed, short ones kept, those between blended
    wavelengths = np.float32(2 * math.pi) / plain
    low, high = np.float32(rope.low_freq_factor), np.float32(rope.high_freq_factor)
    kept = ((np.float32(rope.original_max_positions) / wavelengths - low) / (high - low)).clip(0, 1)
    blended: NDArray[np.float32] = (1 - kept) * slowed + kept * plain
    return blended
