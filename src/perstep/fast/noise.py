"""Gumbel noise as tensors: a pure function of seed, row, position and token id, on any device.

argmax(logits + noise) is a draw from the softmax (Gumbel 1954). The same hash as the reference's
`gumbel_noise` (SplitMix64 by random access), in torch's signed integers: equal bits of the uniform, and equal
noise up to the last digit of two logarithms. So a sampler that looks at the allowed ids alone chooses what the
full vocabulary would have.
"""

from __future__ import annotations

import torch

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as torch's int64 holds them
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def row_keys(seed: int, rows: int, device: torch.device) -> torch.Tensor:
    """What the noise of each row begins with, int64 [rows]."""
    signed = seed - (1 << 64) if seed >> 63 else seed
    return _mix(_mix(torch.tensor(signed, device=device)) + torch.arange(rows, device=device))


def gumbel(keys_B: torch.Tensor, position: int | torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Standard Gumbel noise of every token id for each row, float64 [rows, tokens]; a position may be int64 []."""
    ids_V = torch.arange(1, num_tokens + 1, device=keys_B.device) * _GOLDEN
    z_BV = _mix(_mix(keys_B + position)[:, None] + ids_V)
    uniform_BV = (_shift(z_BV, 12).double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(uniform_BV))


def _mix(z: torch.Tensor) -> torch.Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: torch.Tensor, by: int) -> torch.Tensor:
    """A logical shift to the right."""
    return (z >> by) & ((1 << (64 - by)) - 1)
