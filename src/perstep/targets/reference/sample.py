"""Choosing the next token: greedy, temperature, top-k and top-p, in the order transformers applies them.

A draw is argmax(logits / temperature + Gumbel noise), which is a sample from the softmax (Gumbel 1954;
Maddison et al. 2014). The noise is a pure function of seed, row, position and token id, so that a replay
chooses the same, and a sampler that looks at the allowed ids alone chooses what the full vocabulary would
have. Keeps no state.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perstep.errors import InputError
from perstep.targets.reference.parts import Mark, no_mark

# B batch, V vocabulary, A the ids still allowed

Ids = NDArray[np.int64]
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64 (Steele, Lea, Flood 2014): its stride and its two multipliers
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


@dataclass(frozen=True)
class Sampler:
    """How a token is chosen: `temperature` 0 is greedy, `top_k` 0 and `top_p` 1 leave every token in.

    Raises:
        InputError: if a setting is out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature must be 0 (greedy) or a positive number, found {self.temperature}")
        if self.top_k < 0:
            raise InputError(f"top_k must be 0 (off) or at least 1, found {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, found {self.top_p}")
        if not 0 <= self.seed <= _MASK:
            raise InputError(f"seed must be an integer from 0 to 2**64 - 1, found {self.seed}")


GREEDY = Sampler()
"""Takes the largest logit."""


def sample(logits_BV: NDArray[np.float32], sampler: Sampler, position: int, mark: Mark = no_mark) -> Ids:
    """Choose one token a row; among equal greedy candidates the lowest id.

    Args:
        logits_BV: [batch, vocabulary]; a token at -inf is never chosen.
        sampler: the settings.
        position: the place the chosen token will take in its sequence, a key of the noise.
        mark: called with `sample`.

    Returns:
        Token ids, int64 [batch].

    Raises:
        InputError: if a row allows no token (all -inf), or holds NaN or +inf.
    """
    mark("sample")
    if sampler.temperature == 0:
        ids_B: Ids = logits_BV.argmax(axis=-1)
        for row, token_id in enumerate(ids_B.tolist()):
            _check_largest(logits_BV.item(row, token_id), row, position)
        return ids_B
    return np.array([draw(row_V, sampler, row, position) for row, row_V in enumerate(logits_BV)], dtype=np.int64)


def stop(ids_B: Ids, eos_ids: tuple[int, ...], mark: Mark = no_mark) -> NDArray[np.bool_]:
    """Which rows have just ended: bool [batch], True where the token is one of `eos_ids`."""
    mark("stop")
    return np.array([token_id in eos_ids for token_id in ids_B.tolist()], dtype=np.bool_)


def draw(logits_V: NDArray[np.float32], sampler: Sampler, row: int, position: int) -> int:
    """One draw from the tokens that top-k and top-p leave, `temperature` above 0; raises as `sample` does."""
    _check_largest(logits_V.max(), row, position)
    scaled_V = logits_V.astype(np.float64) / sampler.temperature
    ids_A = allowed(scaled_V, sampler.top_k, sampler.top_p)
    noise_A = gumbel_noise(sampler.seed, row, position, ids_A)
    return int(ids_A[(scaled_V[ids_A] + noise_A).argmax()])


def allowed(scaled_V: NDArray[np.float64], top_k: int, top_p: float) -> Ids:
    """The ids, ascending, among which a draw is made.

    Top-k keeps every token at or above the k-th largest logit, ties included. Top-p then keeps the shortest
    list of the most probable ones whose mass reaches `top_p`; among equal logits the lower id comes first.
    """
    ids_A = np.arange(len(scaled_V))
    if 0 < top_k < len(ids_A):
        ids_A = np.flatnonzero(scaled_V >= np.partition(scaled_V, -top_k)[-top_k])
    if top_p < 1:
        ranked_A = ids_A[np.argsort(-scaled_V[ids_A], kind="stable")]
        mass_A = np.exp(scaled_V[ranked_A] - scaled_V[ranked_A[0]]).cumsum()
        num_kept = int(np.searchsorted(mass_A, top_p * mass_A[-1])) + 1
        ids_A = np.sort(ranked_A[:num_kept])
    return ids_A


def gumbel_noise(seed: int, row: int, position: int, ids: ArrayLike) -> NDArray[np.float64]:
    """Standard Gumbel noise of the given token ids, a pure function of its four arguments.

    The uniform behind id i is output number i of the SplitMix64 stream that starts at a hash of (seed, row,
    position): random access, in nine array passes, where the ten rounds of Philox take about eighty.
    """
    state = _mix((_mix((_mix(seed) + row) & _MASK) + position) & _MASK)
    z = (np.asarray(ids, dtype=np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(state)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    z ^= z >> np.uint64(31)
    uniform = ((z >> np.uint64(12)) + 0.5) * 2.0**-52  # 52 bits and a half: never 0 and never 1
    return np.asarray(-np.log(-np.log(uniform)))


def _check_largest(logit: float, row: int, position: int) -> None:
    if not -np.inf < logit < np.inf:
        raise InputError(
            f"the largest logit of row {row} at position {position} is {logit}: "
            "no token is allowed, or the model has overflowed"
        )


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)
