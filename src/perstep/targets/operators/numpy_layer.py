"""The operators in NumPy, written to be read: each is its textbook formula; `targets.reference` is the fast one."""

import numpy as np

from perstep.targets.operators.layer import Array, Inputs, LayerWeights, Weights, operators_of
from perstep.targets.reference import Config
from perstep.targets.reference.config import layer_shapes
from perstep.targets.reference.rope import rotations

_TILE = 1_048_573  # a prime, so that no two rows of a weight are alike
_SCALE = 0.02


def embed(table_VD: Array, ids_S: Array) -> Array:
    """Rows of the table, [S, D]."""
    return table_VD[ids_S]


def norm(x_SD: Array, weight_D: Array, eps: float) -> Array:
    """RMSNorm (Zhang and Sennrich 2019)."""
    mean_square_S1 = np.mean(np.square(x_SD), axis=-1, keepdims=True)
    return x_SD / np.sqrt(mean_square_S1 + x_SD.dtype.type(eps)) * weight_D


def qkv(x_SD: Array, weight_OD: Array, bias_O: Array | None, heads: tuple[int, int, int]) -> tuple[Array, ...]:
    """Queries [H, S, d], keys and values [K, S, d]."""
    H, K, d = heads
    qkv_SO = x_SD @ weight_OD.T
    if bias_O is not None:
        qkv_SO = qkv_SO + bias_O
    cut = np.split(qkv_SO, [H * d, (H + K) * d], axis=-1)
    return tuple(part.reshape(len(x_SD), -1, d).swapaxes(0, 1) for part in cut)


def rope(q_HSd: Array, k_KSd: Array, cos_Sd: Array, sin_Sd: Array) -> tuple[Array, Array]:
    """Rotary positions (Su et al. 2021); the two halves of a head are its pairs."""
    return rotate(q_HSd, cos_Sd, sin_Sd), rotate(k_KSd, cos_Sd, sin_Sd)


def rotate(x_HSd: Array, cos_Sd: Array, sin_Sd: Array) -> Array:
    """The rotation x cos + (x turned by a right angle) sin."""
    first, second = np.split(x_HSd, 2, axis=-1)
    return x_HSd * cos_Sd + np.concatenate([-second, first], axis=-1) * sin_Sd


def append(keys_KLd: Array, values_KLd: Array, k_KSd: Array, v_KSd: Array, past: int) -> tuple[Array, Array]:
    """The cache with the new positions written behind those held."""
    keys_KLd[:, past:] = k_KSd
    values_KLd[:, past:] = v_KSd
    return keys_KLd, values_KLd


def scores(q_HSd: Array, k_KLd: Array) -> Array:
    """Queries times keys over sqrt(head_dim), [K, G, S, L]."""
    _, S, d = q_HSd.shape
    q_KGSd = (q_HSd * q_HSd.dtype.type(d**-0.5)).reshape(len(k_KLd), -1, S, d)
    return np.matmul(q_KGSd, k_KLd[:, None].swapaxes(-1, -2))


def mask_build(S: int, L: int, dtype: np.dtype[np.floating]) -> Array:
    """The additive causal mask: 0 where new position i may attend to key j <= L - S + i, -inf elsewhere."""
    return np.triu(np.full((S, L), -np.inf, dtype), L - S + 1)


def mask_apply(scores_KGSL: Array, mask_SL: Array) -> Array:
    """The mask added to the scores of every head."""
    return scores_KGSL + mask_SL


def softmax(scores_KGSL: Array) -> Array:
    """Probabilities over the keys."""
    exponentials = np.exp(scores_KGSL - scores_KGSL.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def pv(probabilities_KGSL: Array, v_KLd: Array) -> Array:
    """Probabilities times values, heads side by side: [S, Q]."""
    K, G, S, _ = probabilities_KGSL.shape
    context_KGSd = np.matmul(probabilities_KGSL, v_KLd[:, None])
    return context_KGSd.reshape(K * G, S, -1).swapaxes(0, 1).reshape(S, -1)


def out(context_SQ: Array, weight_DQ: Array, x_SD: Array) -> Array:
    """The output projection, added to the residual stream."""
    return x_SD + context_SQ @ weight_DQ.T


def mlp(normed_SD: Array, gate_up_2ID: Array, down_DI: Array, x_SD: Array) -> Array:
    """SwiGLU (Shazeer 2020), added to the residual stream."""
    gate_SI, up_SI = np.split(normed_SD @ gate_up_2ID.T, 2, axis=-1)
    # silu(x) = x / (1 + exp(-x)); with tanh it cannot overflow.
    silu_SI = gate_SI * (0.5 * (1 + np.tanh(0.5 * gate_SI)))
    return x_SD + (silu_SI * up_SI) @ down_DI.T


def head(x_D: Array, table_VD: Array) -> Array:
    """Logits, [V]."""
    return table_VD @ x_D


OPERATORS = operators_of(globals())


def random_weights(config: Config, dtype: str, seed: int) -> Weights:
    """Normal numbers from one repeated tile: matrix work costs the same (law "random weights are a statement")."""
    tile = (np.random.default_rng(seed).standard_normal(_TILE) * _SCALE).astype(dtype)
    shapes = layer_shapes(config)

    def matrix(start: int, rows: int, columns: int) -> Array:
        return np.resize(np.roll(tile, start), (rows, columns))

    def made(index: int) -> LayerWeights:
        q_rows, hidden = shapes["self_attn.q_proj.weight"]
        O = q_rows + 2 * config.kv_width  # noqa: E741 - the legend's name
        return LayerWeights(
            attn_norm_D=np.ones(hidden, dtype),
            qkv_OD=matrix(index + 1, O, hidden),
            qkv_bias_O=matrix(index + 2, 1, O)[0] if config.qkv_bias else None,
            out_DQ=matrix(index + 3, hidden, q_rows),
            mlp_norm_D=np.ones(hidden, dtype),
            gate_up_2ID=matrix(index + 4, 2 * config.intermediate, hidden),
            down_DI=matrix(index + 5, hidden, config.intermediate),
        )

    return Weights(
        layers=[made(7 * index) for index in range(config.num_layers)],
        final_norm_D=np.ones(config.hidden, dtype),
        head_VD=matrix(0, config.vocab, config.hidden),
    )


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Normal numbers for an operator of the user's."""
    return rng.standard_normal(shape).astype(dtype)


def make_inputs(config: Config, seq: int, past: int, dtype: str, seed: int) -> Inputs:
    """Random token ids behind a cache of random keys and values."""
    rng = np.random.default_rng([seed, seq, past])
    angles_Sp = np.angle(rotations(config, past + seq)[past:, 0])
    angles_Sd = np.concatenate([angles_Sp, angles_Sp], axis=-1)
    shape = (config.kv_heads, past + seq, config.head_dim)
    return Inputs(
        ids_S=rng.integers(0, config.vocab, seq),
        past=past,
        cos_Sd=np.cos(angles_Sd).astype(dtype),
        sin_Sd=np.sin(angles_Sd).astype(dtype),
        caches=[
            (rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype))
            for _ in range(config.num_layers)
        ],
        heads=(config.heads, config.kv_heads, config.head_dim),
        eps=config.norm_eps,
    )
