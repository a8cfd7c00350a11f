"""A Llama-family decoder in NumPy, to be read top to bottom: the weights, prefill, decode one token, and their parts.

The arithmetic is that of transformers' Llama, Mistral and Qwen2 in float32. It is rearranged only where results stay
equal to rounding. Query, key and value weights are one matrix, and gate and up are one. The query weights contain
1/sqrt(head_dim), and the gate weights the 1/2 of SiLU's tanh form. Rotary pairs lie side by side, so that rotation is
one complex product. `mark(part)` is called when each part begins. All rows of a batch have the same length; there is no
padding. A model owns its decode buffers, so two threads must not use it at once.
"""

# Shape suffixes: B batch, T new positions, N = B*T, L held + new positions, D hidden, H head_dim, P = H/2 rotary pairs,
# K key/value heads, G query heads for each key/value head, Q = K*G*H, O = Q + 2*K*H, I intermediate (I2 = 2*I), V
# vocabulary. The product with the cache has X matrices of R rows: X = G and R = T, or X = 1 and R = G if T = 1.

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perstep.errors import InputError
from perstep.targets.reference.cache import KVCache
from perstep.targets.reference.config import Config
from perstep.targets.reference.memory import refuse_if_too_large
from perstep.targets.reference.parts import Mark, no_mark
from perstep.targets.reference.rope import rotations
from perstep.targets.reference.sample import Ids
from perstep.targets.reference.tokenizer import FolderTokenizer

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """The weights of one decoder layer; a bias is None where the model has none."""

    index: int
    attn_norm_D: Floats
    qkv_DO: Floats
    qkv_bias_O: Floats | None
    out_QD: Floats
    out_bias_D: Floats | None
    mlp_norm_D: Floats
    gate_up_DI2: Floats
    gate_up_bias_I2: Floats | None
    down_ID: Floats
    down_bias_D: Floats | None


@dataclass
class Reference:
    """A loaded decoder: its shapes, its weights and the tokenizer of its folder."""

    config: Config
    config_hash: str
    stored_dtypes: tuple[str, ...]
    tokenizer: FolderTokenizer
    embedding_VD: Floats
    layers: list[Layer]
    final_norm_D: Floats
    head_DV: Floats
    _rotations_L1P: NDArray[np.complex64] = field(init=False, repr=False)
    _decode_buffers: dict[int, "Buffers"] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._rotations_L1P = rotations(self.config, 0)

    @property
    def num_parameters(self) -> int:
        """The number of weights. A head that is tied to the embedding counts once."""
        return self.config.num_parameters

    @property
    def weight_bytes(self) -> int:
        """The bytes of the weights in memory: float32, whatever the file stores."""
        return 4 * self.num_parameters

    def new_cache(self, batch: int = 1, capacity: int | None = None) -> KVCache:
        """A cache for `batch` sequences of up to `capacity` positions (the model's maximum if None).

        Raises:
            InputError: if the model has fewer positions, or the cache would not fit into free memory.
        """
        c = self.config
        capacity = c.max_positions if capacity is None else capacity
        num_bytes = 2 * c.num_layers * batch * c.kv_width * capacity * 4
        refuse_if_too_large(f"a KV cache of batch {batch} and capacity {capacity}", num_bytes)
        self._rotations_to(capacity)
        return KVCache(c.num_layers, batch, c.kv_heads, c.head_dim, capacity)

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`; InputError if the folder has no tokenizer.json."""
        return self.tokenizer.encode(text)

    def decode(self, ids: ArrayLike) -> str:
        """The text of token ids; InputError if the folder has no tokenizer.json."""
        return self.tokenizer.decode(np.asarray(ids).tolist())

    def _rotations_to(self, stop: int) -> NDArray[np.complex64]:
        if stop > self.config.max_positions:
            raise InputError(f"the model's max_positions is {self.config.max_positions}, {stop} were requested")
        if stop > len(self._rotations_L1P):
            self._rotations_L1P = rotations(self.config, stop)
        return self._rotations_L1P

    def _buffers(self, B: int, T: int) -> "Buffers":
        """The buffers of decode steps are kept, one set for each batch size; those of a prefill are new each time."""
        if T > 1:
            return Buffers(self.config, B, T)
        if B not in self._decode_buffers:
            self._decode_buffers[B] = Buffers(self.config, B, 1)
        return self._decode_buffers[B]


class Buffers:
    """The arrays that one forward of B rows and T positions writes, and the views through which its parts read them."""

    def __init__(self, c: Config, B: int, T: int):
        N, K, G, H = B * T, c.kv_heads, c.heads // c.kv_heads, c.head_dim
        self.x_ND = np.empty((N, c.hidden), np.float32)
        self.normed_ND = np.empty((N, c.hidden), np.float32)
        self.delta_ND = np.empty((N, c.hidden), np.float32)
        self.qkv_NO = np.empty((N, c.q_width + 2 * c.kv_width), np.float32)
        self.context_NQ = np.empty((N, c.q_width), np.float32)
        self.gate_up_NI2 = np.empty((N, 2 * c.intermediate), np.float32)
        self.silu_NI = np.empty((N, c.intermediate), np.float32)
        self.half_gate_NI = self.gate_up_NI2[:, : c.intermediate]
        self.up_NI = self.gate_up_NI2[:, c.intermediate :]

        heads_BTJH = self.qkv_NO.reshape(B, T, c.heads + 2 * K, H)  # J: query heads, then key, then value heads
        self.q_and_k_BTJP = heads_BTJH[:, :, : c.heads + K].view(np.complex64)
        q_BKGTH = heads_BTJH[:, :, : c.heads].reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4)
        self.k_BKHT = heads_BTJH[:, :, c.heads : c.heads + K].transpose(0, 2, 3, 1)
        self.v_BKTH = heads_BTJH[:, :, c.heads + K :].transpose(0, 2, 1, 3)
        context_BKGTH = self.context_NQ.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4)
        one_position = T == 1
        self.q_BKXRH = q_BKGTH.swapaxes(2, 3) if one_position else q_BKGTH
        self.context_BKXRH = context_BKGTH.swapaxes(2, 3) if one_position else context_BKGTH
        self.scores_BKXRL = np.empty((*self.q_BKXRH.shape[:-1], 0), np.float32)  # L grows: new in each forward
        self.row_stat_BKXR1 = np.empty((*self.q_BKXRH.shape[:-1], 1), np.float32)


def forward(model: Reference, ids_BT: ArrayLike, cache: KVCache | None = None, mark: Mark = no_mark) -> Floats:
    """The logits of every position, [B, T, V]. Without a cache all positions are computed from `ids_BT` alone.

    Raises:
        InputError: for ids out of range, a cache of other shapes, or more positions than model or cache hold.
    """
    x_BTD = decoder(model, ids_BT, cache, mark)
    B, T, D = x_BTD.shape
    return head(model, x_BTD.reshape(B * T, D), mark).reshape(B, T, -1)


def prefill(model: Reference, ids_BT: ArrayLike, cache: KVCache, mark: Mark = no_mark) -> Floats:
    """Append a prompt, or the next chunk of one, to the cache; return the logits of its last position, [B, V].

    Scores take batch x heads x T x L x 4 bytes. Cut a long prompt into chunks and call this for each.
    Raises as `forward` does.
    """
    return head(model, decoder(model, ids_BT, cache, mark)[:, -1], mark)


def decode_one_token(model: Reference, ids_B: ArrayLike, cache: KVCache, mark: Mark = no_mark) -> Floats:
    """Append one token for each row to the cache; return the logits after it, [B, V]. Raises as `forward` does."""
    return head(model, decoder(model, np.asarray(ids_B)[..., None], cache, mark)[:, -1], mark)


def decoder(model: Reference, ids_BT: ArrayLike, cache: KVCache | None, mark: Mark) -> Floats:
    """All layers: token ids to hidden states before the final norm, [B, T, D]. The cache grows by T positions."""
    mark("embed")
    c = model.config
    ids_BT = checked_ids(ids_BT, c.vocab)
    B, T = ids_BT.shape
    if cache is not None and cache.geometry != (c.num_layers, B, c.kv_heads, c.head_dim):
        raise InputError(
            f"the KV cache is for (layers, batch, kv_heads, head_dim) {cache.geometry}, "
            f"this call needs {(c.num_layers, B, c.kv_heads, c.head_dim)}"
        )
    start = cache.room_for(T) if cache is not None else 0
    rotation_T1P = model._rotations_to(start + T)[start : start + T]
    b = model._buffers(B, T)
    b.scores_BKXRL = np.empty((*b.q_BKXRH.shape[:-1], start + T), np.float32)
    model.embedding_VD.take(ids_BT.ravel(), axis=0, out=b.x_ND, mode="clip")  # ids are checked; "clip" does not copy
    mask_TL = None
    if T > 1:
        mark("attn.mask.build")
        mask_TL = causal_mask(T, start)
    for layer in model.layers:
        mark("norm")
        norm(b.x_ND, layer.attn_norm_D, c.norm_eps, out=b.normed_ND)
        attention(layer, b, rotation_T1P, mask_TL, cache, mark)
        mark("norm")
        norm(b.x_ND, layer.mlp_norm_D, c.norm_eps, out=b.normed_ND)
        mlp(layer, b, mark)
    if cache is not None:
        cache.advance(T)
    return b.x_ND.reshape(B, T, c.hidden)


def attention(
    layer: Layer,
    b: Buffers,
    rotation_T1P: NDArray[np.complex64],
    mask_TL: Floats | None,
    cache: KVCache | None,
    mark: Mark,
) -> None:
    """Grouped-query attention: reads `b.normed_ND`, adds to `b.x_ND`."""
    mark("attn.qkv")
    np.matmul(b.normed_ND, layer.qkv_DO, out=b.qkv_NO)
    if layer.qkv_bias_O is not None:
        np.add(b.qkv_NO, layer.qkv_bias_O, out=b.qkv_NO)

    mark("attn.rope")
    np.multiply(b.q_and_k_BTJP, rotation_T1P, out=b.q_and_k_BTJP)

    k_BKHL, v_BKLH = b.k_BKHT, b.v_BKTH
    if cache is not None:
        mark("kv.append")
        k_BKHL, v_BKLH = cache.append(layer.index, k_BKHL, v_BKLH)

    mark("attn.scores")
    scores_BKXRL = np.matmul(b.q_BKXRH, k_BKHL[:, :, None], out=b.scores_BKXRL)

    if mask_TL is not None:
        mark("attn.mask.apply")
        np.add(scores_BKXRL, mask_TL, out=scores_BKXRL)

    mark("attn.softmax")
    np.maximum.reduce(scores_BKXRL, axis=-1, keepdims=True, out=b.row_stat_BKXR1)
    np.subtract(scores_BKXRL, b.row_stat_BKXR1, out=scores_BKXRL)
    np.exp(scores_BKXRL, out=scores_BKXRL)
    np.add.reduce(scores_BKXRL, axis=-1, keepdims=True, out=b.row_stat_BKXR1)

    mark("attn.pv")
    np.matmul(scores_BKXRL, v_BKLH[:, :, None], out=b.context_BKXRH)
    np.divide(b.context_BKXRH, b.row_stat_BKXR1, out=b.context_BKXRH)  # the softmax's division: of H numbers, not L

    mark("attn.out")
    np.matmul(b.context_NQ, layer.out_QD, out=b.delta_ND)
    if layer.out_bias_D is not None:
        np.add(b.delta_ND, layer.out_bias_D, out=b.delta_ND)
    np.add(b.x_ND, b.delta_ND, out=b.x_ND)


def mlp(layer: Layer, b: Buffers, mark: Mark) -> None:
    """SwiGLU: reads `b.normed_ND`, adds to `b.x_ND`. With h = gate / 2, silu(gate) = h * (1 + tanh(h))."""
    mark("mlp")
    np.matmul(b.normed_ND, layer.gate_up_DI2, out=b.gate_up_NI2)
    if layer.gate_up_bias_I2 is not None:
        np.add(b.gate_up_NI2, layer.gate_up_bias_I2, out=b.gate_up_NI2)
    np.tanh(b.half_gate_NI, out=b.silu_NI)  # unlike exp(-gate) it cannot overflow
    np.add(b.silu_NI, 1.0, out=b.silu_NI)
    np.multiply(b.silu_NI, b.half_gate_NI, out=b.silu_NI)
    np.multiply(b.silu_NI, b.up_NI, out=b.silu_NI)
    np.matmul(b.silu_NI, layer.down_ID, out=b.delta_ND)
    if layer.down_bias_D is not None:
        np.add(b.delta_ND, layer.down_bias_D, out=b.delta_ND)
    np.add(b.x_ND, b.delta_ND, out=b.x_ND)


def head(model: Reference, x_ND: Floats, mark: Mark) -> Floats:
    """The final norm and the language-model head: hidden states to logits, [N, V], in a new array."""
    mark("norm")
    normed_ND = norm(x_ND, model.final_norm_D, model.config.norm_eps, out=np.empty(x_ND.shape, np.float32))
    mark("lm_head")
    return np.asarray(np.matmul(normed_ND, model.head_DV))


def norm(x_ND: Floats, weight_D: Floats, eps: float, out: Floats) -> Floats:
    """RMSNorm, x * weight / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019)."""
    N, D = x_ND.shape
    if N == 1:  # the scale of one row is a Python number: 1.7 us in place of 2.9 at D = 128
        np.multiply(x_ND, 1.0 / math.sqrt(float(np.vdot(x_ND, x_ND)) / D + eps), out=out)
    else:
        mean_square_N = np.einsum("nd,nd->n", x_ND, x_ND) / np.float32(D)
        np.divide(x_ND, np.sqrt(mean_square_N + np.float32(eps))[:, None], out=out)
    return np.multiply(out, weight_D, out=out)


def causal_mask(num_new: int, num_held: int) -> Floats:
    """The additive mask [T, L]: 0 where new position i may attend to position j, j <= held + i; otherwise -inf."""
    mask_TL = np.full((num_new, num_held + num_new), -np.inf, dtype=np.float32)
    return np.triu(mask_TL, k=num_held + 1)


def checked_ids(ids: ArrayLike, vocab: int) -> Ids:
    """Token ids as an integer array [B, T]. Raises InputError unless all are within the vocabulary."""
    ids_BT = np.asarray(ids)
    if ids_BT.ndim != 2 or ids_BT.size == 0 or ids_BT.dtype.kind not in "iu":
        raise InputError(f"token ids must be integers [batch, positions], found {ids_BT.dtype} {list(ids_BT.shape)}")
    flat = ids_BT.ravel().tolist()  # 0.3 us for one id; ids_BT.min() and .max() take 3 us
    if min(flat) < 0 or max(flat) >= vocab:
        raise InputError(f"token ids must be from 0 to {vocab - 1}, found {min(flat)} to {max(flat)}")
    return ids_BT
