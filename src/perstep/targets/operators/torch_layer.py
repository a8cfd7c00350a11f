"""The operators in torch, written to be read; the fused path is the one operator that NumPy does not have."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from perstep.targets.operators import numpy_layer as numpy_operators
from perstep.targets.operators.layer import Array, Inputs, LayerWeights, Weights, operators_of
from perstep.targets.reference import Config


def embed(table_VD: Tensor, ids_S: Tensor) -> Tensor:
    """Rows of the table, [S, D]."""
    return table_VD[ids_S]


def norm(x_SD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMSNorm (Zhang and Sennrich 2019), in float32 as transformers computes it."""
    wide_SD = x_SD.float()
    mean_square_S1 = wide_SD.square().mean(-1, keepdim=True)
    return weight_D * (wide_SD * torch.rsqrt(mean_square_S1 + eps)).to(x_SD.dtype)


def qkv(x_SD: Tensor, weight_OD: Tensor, bias_O: Tensor | None, heads: tuple[int, int, int]) -> tuple[Tensor, ...]:
    """Queries [H, S, d], keys and values [K, S, d]."""
    H, K, d = heads
    cut = functional.linear(x_SD, weight_OD, bias_O).split([H * d, K * d, K * d], dim=-1)
    return tuple(part.unflatten(-1, (-1, d)).transpose(0, 1) for part in cut)


def rope(q_HSd: Tensor, k_KSd: Tensor, cos_Sd: Tensor, sin_Sd: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary positions (Su et al. 2021); the two halves of a head are its pairs."""
    return rotate(q_HSd, cos_Sd, sin_Sd), rotate(k_KSd, cos_Sd, sin_Sd)


def rotate(x_HSd: Tensor, cos_Sd: Tensor, sin_Sd: Tensor) -> Tensor:
    """The rotation x cos + (x turned by a right angle) sin."""
    first, second = x_HSd.chunk(2, dim=-1)
    return x_HSd * cos_Sd + torch.cat([-second, first], dim=-1) * sin_Sd


def append(keys_KLd: Tensor, values_KLd: Tensor, k_KSd: Tensor, v_KSd: Tensor, past: int) -> tuple[Tensor, Tensor]:
    """The cache with the new positions written behind those held."""
    keys_KLd[:, past:] = k_KSd
    values_KLd[:, past:] = v_KSd
    return keys_KLd, values_KLd


def scores(q_HSd: Tensor, k_KLd: Tensor) -> Tensor:
    """Queries times keys over sqrt(head_dim), [K, G, S, L]."""
    _, S, d = q_HSd.shape
    q_KGSd = (q_HSd * d**-0.5).reshape(len(k_KLd), -1, S, d)
    scores_KGSL: Tensor = q_KGSd @ k_KLd[:, None].mT
    return scores_KGSL


def mask_build(S: int, L: int, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """The additive causal mask: 0 where new position i may attend to key j <= L - S + i, -inf elsewhere."""
    return torch.full((S, L), -torch.inf, dtype=dtype, device=device).triu(L - S + 1)


def mask_apply(scores_KGSL: Tensor, mask_SL: Tensor) -> Tensor:
    """The mask added to the scores of every head."""
    return scores_KGSL + mask_SL


def softmax(scores_KGSL: Tensor) -> Tensor:
    """Probabilities over the keys."""
    return torch.softmax(scores_KGSL, -1)


def pv(probabilities_KGSL: Tensor, v_KLd: Tensor) -> Tensor:
    """Probabilities times values, heads side by side: [S, Q]."""
    context_KGSd = probabilities_KGSL @ v_KLd[:, None]
    return context_KGSd.flatten(0, 1).transpose(0, 1).flatten(1)


def core(q_HSd: Tensor, k_KLd: Tensor, v_KLd: Tensor) -> Tensor:
    """All of attention in torch's kernel, [S, Q]; causal as a flag, so that no mask exists."""
    several = q_HSd.shape[1] > 1
    context_1HSd = functional.scaled_dot_product_attention(
        q_HSd[None], k_KLd[None], v_KLd[None], is_causal=several, enable_gqa=len(q_HSd) != len(k_KLd)
    )
    return context_1HSd[0].transpose(0, 1).flatten(1)


def flash(q_HSd: Tensor, k_KLd: Tensor, v_KLd: Tensor) -> Tensor:
    """The same in torch's flash attention and in no other kernel; choosing it is part of the call, some 10 µs."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return core(q_HSd, k_KLd, v_KLd)


def out(context_SQ: Tensor, weight_DQ: Tensor, x_SD: Tensor) -> Tensor:
    """The output projection, added to the residual stream."""
    return x_SD + functional.linear(context_SQ, weight_DQ)


def mlp(normed_SD: Tensor, gate_up_2ID: Tensor, down_DI: Tensor, x_SD: Tensor) -> Tensor:
    """SwiGLU (Shazeer 2020), added to the residual stream."""
    gate_SI, up_SI = functional.linear(normed_SD, gate_up_2ID).chunk(2, dim=-1)
    return x_SD + functional.linear(functional.silu(gate_SI) * up_SI, down_DI)


def head(x_D: Tensor, table_VD: Tensor) -> Tensor:
    """Logits, [V]."""
    return functional.linear(x_D, table_VD)


OPERATORS = operators_of(globals())
FUSED = replace(OPERATORS, core=core)
FLASH = replace(OPERATORS, core=flash)


def random_weights(config: Config, dtype: str, seed: int, device: str = "cpu") -> Weights:
    """Those of the NumPy backend, in any dtype of torch; in float32 the same memory."""
    weights = numpy_operators.random_weights(config, "float32", seed)
    kind = getattr(torch, dtype)

    def converted(array: Array) -> Array:
        return None if array is None else torch.from_numpy(array).to(device, kind)

    return Weights(
        layers=[
            LayerWeights(**{name: converted(array) for name, array in vars(layer).items()}) for layer in weights.layers
        ],
        final_norm_D=converted(weights.final_norm_D),
        head_VD=converted(weights.head_VD),
    )


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, device: str = "cpu") -> Tensor:
    """Normal numbers for an operator of the user's."""
    return torch.from_numpy(rng.standard_normal(shape)).to(device, getattr(torch, dtype))


def make_inputs(config: Config, seq: int, past: int, dtype: str, seed: int, device: str = "cpu") -> Inputs:
    """Those of the NumPy backend, in any dtype of torch."""
    inputs = numpy_operators.make_inputs(config, seq, past, "float32", seed)
    kind = getattr(torch, dtype)

    def converted(array: Array) -> Array:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, kind)

    return replace(
        inputs,
        ids_S=torch.from_numpy(inputs.ids_S).to(device),
        cos_Sd=converted(inputs.cos_Sd),
        sin_Sd=converted(inputs.sin_Sd),
        caches=[(converted(keys), converted(values)) for keys, values in inputs.caches],
    )
