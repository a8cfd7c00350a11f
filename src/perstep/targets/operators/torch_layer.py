"""The operators in torch, written to be read; the fused path is the one operator that NumPy does not have."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from perstep.targets.operators import numpy_layer as numpy_operators
from perstep.targets.operators.layer import Inputs, LayerWeights, Operators, Weights
from perstep.targets.reference import Config


def embed(table_VD: Any, ids_S: Any) -> Any:
    """Rows of the table, [S, D]."""
    return table_VD[ids_S]


def norm(x_SD: Any, weight_D: Any, eps: float) -> Any:
    """RMSNorm (Zhang and Sennrich 2019), in float32 as transformers computes it."""
    wide_SD = x_SD.float()
    mean_square_S1 = wide_SD.square().mean(-1, keepdim=True)
    return weight_D * (wide_SD * torch.rsqrt(mean_square_S1 + eps)).to(x_SD.dtype)


def qkv(x_SD: Any, weight_OD: Any, bias_O: Any, heads: tuple[int, int, int]) -> tuple[Any, ...]:
    """Queries [H, S, d], keys and values [K, S, d]."""
    H, K, d = heads
    cut = functional.linear(x_SD, weight_OD, bias_O).split([H * d, K * d, K * d], dim=-1)
    return tuple(part.unflatten(-1, (-1, d)).transpose(0, 1) for part in cut)


def rope(q_HSd: Any, k_KSd: Any, cos_Sd: Any, sin_Sd: Any) -> tuple[Any, Any]:
    """Rotary positions (Su et al. 2021); the two halves of a head are its pairs."""
    return rotate(q_HSd, cos_Sd, sin_Sd), rotate(k_KSd, cos_Sd, sin_Sd)


def rotate(x_HSd: Any, cos_Sd: Any, sin_Sd: Any) -> Any:
    """The rotation x cos + (x turned by a right angle) sin."""
    first, second = x_HSd.chunk(2, dim=-1)
    return x_HSd * cos_Sd + torch.cat([-second, first], dim=-1) * sin_Sd


def append(keys_KLd: Any, values_KLd: Any, k_KSd: Any, v_KSd: Any, past: int) -> tuple[Any, Any]:
    """The cache with the new positions written behind those held."""
    keys_KLd[:, past:] = k_KSd
    values_KLd[:, past:] = v_KSd
    return keys_KLd, values_KLd


def scores(q_HSd: Any, k_KLd: Any) -> Any:
    """Queries times keys over sqrt(head_dim), [K, G, S, L]."""
    _, S, d = q_HSd.shape
    q_KGSd = (q_HSd * d**-0.5).reshape(len(k_KLd), -1, S, d)
    return q_KGSd @ k_KLd[:, None].mT


def mask_build(S: int, L: int, dtype: Any) -> Any:
    """The additive causal mask: 0 where new position i may attend to key j <= L - S + i, -inf elsewhere."""
    return torch.full((S, L), -torch.inf, dtype=dtype).triu(L - S + 1)


def mask_apply(scores_KGSL: Any, mask_SL: Any) -> Any:
    """The mask added to the scores of every head."""
    return scores_KGSL + mask_SL


def softmax(scores_KGSL: Any) -> Any:
    """Probabilities over the keys."""
    return torch.softmax(scores_KGSL, -1)


def pv(probabilities_KGSL: Any, v_KLd: Any) -> Any:
    """Probabilities times values, heads side by side: [S, Q]."""
    context_KGSd = probabilities_KGSL @ v_KLd[:, None]
    return context_KGSd.flatten(0, 1).transpose(0, 1).flatten(1)


def core(q_HSd: Any, k_KLd: Any, v_KLd: Any) -> Any:
    """All of attention in torch's kernel, [S, Q]; causal as a flag, so that no mask exists."""
    several = q_HSd.shape[1] > 1
    context_1HSd = functional.scaled_dot_product_attention(
        q_HSd[None], k_KLd[None], v_KLd[None], is_causal=several, enable_gqa=len(q_HSd) != len(k_KLd)
    )
    return context_1HSd[0].transpose(0, 1).flatten(1)


def out(context_SQ: Any, weight_DQ: Any, x_SD: Any) -> Any:
    """The output projection, added to the residual stream."""
    return x_SD + functional.linear(context_SQ, weight_DQ)


def mlp(normed_SD: Any, gate_up_2ID: Any, down_DI: Any, x_SD: Any) -> Any:
    """SwiGLU (Shazeer 2020), added to the residual stream."""
    gate_SI, up_SI = functional.linear(normed_SD, gate_up_2ID).chunk(2, dim=-1)
    return x_SD + functional.linear(functional.silu(gate_SI) * up_SI, down_DI)


def head(x_D: Any, table_VD: Any) -> Any:
    """Logits, [V]."""
    return functional.linear(x_D, table_VD)


OPERATORS = Operators(
    embed=embed,
    norm=norm,
    qkv=qkv,
    rope=rope,
    append=append,
    scores=scores,
    mask_build=mask_build,
    mask_apply=mask_apply,
    softmax=softmax,
    pv=pv,
    out=out,
    mlp=mlp,
    final_norm=norm,
    head=head,
)
FUSED = replace(OPERATORS, core=core)


def random_weights(config: Config, dtype: str, seed: int) -> Weights:
    """Those of the NumPy backend, in any dtype of torch; in float32 the same memory."""
    made = numpy_operators.random_weights(config, "float32", seed)
    kind = getattr(torch, dtype)

    def converted(array: Any) -> Any:
        return None if array is None else torch.from_numpy(array).to(kind)

    return Weights(
        layers=[
            LayerWeights(**{name: converted(array) for name, array in vars(layer).items()}) for layer in made.layers
        ],
        final_norm_D=converted(made.final_norm_D),
        head_VD=converted(made.head_VD),
    )


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Normal numbers for an operator of the user's."""
    return torch.from_numpy(rng.standard_normal(shape)).to(getattr(torch, dtype))


def make_inputs(config: Config, seq: int, past: int, dtype: str, seed: int) -> Inputs:
    """Those of the NumPy backend, in any dtype of torch."""
    made = numpy_operators.make_inputs(config, seq, past, "float32", seed)
    kind = getattr(torch, dtype)

    def converted(array: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array)).to(kind)

    return replace(
        made,
        ids_S=torch.from_numpy(made.ids_S),
        cos_Sd=converted(made.cos_Sd),
        sin_Sd=converted(made.sin_Sd),
        caches=[(converted(keys), converted(values)) for keys, values in made.caches],
    )
