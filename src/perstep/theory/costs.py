"""The cost of each part of a step: shapes in, FLOPs and bytes out.

A product of [m, k] with [k, n] is 2mkn FLOPs (Kaplan et al. 2020, who leave out what is not a product; here it is
counted apart). A step reads each weight once and each held key and value once (Pope et al. 2022); a part reads
its inputs once and writes its outputs once. What lies in a part is what the built-in decoder puts there, with
the norms of queries and keys in `attn.qkv`. Constants (eps, 1/head_dim, scalings) are folded away. No times here.
"""

from collections import Counter
from math import expm1, log1p

from perstep._words import plural
from perstep.errors import InputError
from perstep.theory.backends import IDEAL, Backend
from perstep.theory.cache import held_positions, kv_bytes
from perstep.theory.cost import Cost, StepCost
from perstep.theory.parts import (
    PARTS,
    expert_parameters,
    head_norm,
    num_norms,
    out_parameters,
    parameters,
    qkv_parameters,
    router_parameters,
)
from perstep.theory.shape import ACTIVATIONS, Layer, Mlp, ModelShape, Norm
from perstep.theory.step import Precision, Step, bytes_each

# B batch, T new positions, N = B*T tokens, R rows that reach the head, L positions attended to, D hidden, H heads,
# Q width of all query heads, K width of all key heads, I intermediate, V vocabulary


def step_cost(shape: ModelShape, step: Step, precision: Precision | None = None, backend: Backend = IDEAL) -> StepCost:
    """The cost of one step, part by part; parts that do not occur are left out.

    Args:
        shape: the model.
        step: how many positions of how many sequences; see `prefill` and `decode`.
        precision: the dtypes; float32 throughout by default.
        backend: how the library works; by default the least that must be done.

    Raises:
        InputError: more positions than there are rows for, a backend that attends to all allocated positions
            without a `capacity`, or one that counts calls but not those of a mixture of experts.
    """
    if shape.position_rows and step.past + step.new > shape.max_positions:
        raise InputError(
            f"the model has {plural(shape.max_positions, 'position')}, {step.past + step.new} were requested "
            f"({step.past} held and {step.new} new)"
        )
    if backend.attends_capacity and step.capacity is None:
        raise InputError(f"backend {backend.name} attends to all allocated positions; give the step a capacity")
    if backend.calls and shape.is_mixture:
        raise InputError(f"backend {backend.name} counts no calls of a mixture of experts; use one without calls")
    formulas = _Formulas(shape, step, precision or Precision(), backend)
    costs = dict.fromkeys(PARTS, Cost())
    for part, cost in formulas.once():
        costs[part] += cost
    for layer, times in Counter(shape.layers).items():
        for part, cost in formulas.layer(layer):
            costs[part] += cost * times
    parts = {part: cost for part, cost in costs.items() if cost != Cost()}
    return StepCost(shape, step, formulas.precision, backend, parts, formulas.resident_bytes(parts))


def expected_experts(experts: int, active: int, tokens: int) -> float:
    """How many distinct experts `tokens` tokens touch in expectation: E (1 - (1 - k/E)^n).

    Each token takes k different ones of E, independently and uniformly: one expert is missed by a token with
    probability 1 - k/E, and expectations add (occupancy, Feller 1968; for decoding Huang et al. 2025, MoESD).
    Trained routers are not uniform and touch fewer.
    """
    if tokens == 1 or active == experts:
        return active
    return -experts * expm1(tokens * log1p(-active / experts))


def attended_positions(step: Step, window: int | None, backend: Backend = IDEAL) -> int:
    """Number of positions that a query attends to in one layer, including the new ones."""
    if not backend.attends_capacity or step.capacity is None:
        return held_positions(step.past, window) + step.new
    room = min(step.capacity, window or step.capacity)
    return max(room, min(step.past, room - 1) + step.new)  # beyond its room, a full layer shows what it had and the new


def num_scores(step: Step, window: int | None, backend: Backend = IDEAL) -> int:
    """How many scores one head of one sequence computes in one layer.

    T x L, or only those that the causal mask lets through: query i sees min(past + i + 1, window) positions.
    """
    if backend.computes_masked:
        return step.new * attended_positions(step, window, backend)
    growing = step.new if window is None else min(max(window - step.past, 0), step.new)
    full = (step.new - growing) * (window or 0)
    return growing * step.past + growing * (growing + 1) // 2 + full


class _Formulas:
    """The formulas of one step: each method is one part, once."""

    def __init__(self, shape: ModelShape, step: Step, precision: Precision, backend: Backend):
        self.shape, self.step, self.precision, self.backend = shape, step, precision, backend
        self.weight, self.number = bytes_each(precision.weights), bytes_each(precision.activations)
        self.cached = bytes_each(precision.cache)
        self.B, self.T, self.N, self.R = step.batch, step.new, step.tokens, step.head_rows
        self.D, self.H, self.Q, self.K = shape.hidden, shape.heads, shape.q_width, shape.kv_width
        self.has_mask = (step.new > 1 and backend.computes_masked) or backend.masks_decode

    def once(self) -> list[tuple[str, Cost]]:
        """The parts that occur once a step, and the norms."""
        masks = [self.mask_build(window) for window in self.shape.windows] if self.has_mask else []
        return [
            ("embed", self.embed()),
            ("norm", self.norm(self.N) * (num_norms(self.shape) - self.shape.final_norm)),
            ("norm", self.norm(self.R) * self.shape.final_norm),
            *(("attn.mask.build", mask) for mask in masks),
            ("lm_head", self.lm_head()),
            ("sample", self.sample()),
        ]

    def layer(self, layer: Layer) -> list[tuple[str, Cost]]:
        """The parts of one layer."""
        scores = self.B * self.H * num_scores(self.step, layer.window, self.backend)
        L = attended_positions(self.step, layer.window, self.backend)
        return [
            ("attn.qkv", self.qkv()),
            ("attn.rope", self.rope(layer.rotary)),
            ("kv.append", self.append(held_positions(self.step.past, layer.window))),
            ("attn.scores", self.scores(scores, L)),
            ("attn.mask.apply", self.mask_apply(scores, L)),
            ("attn.softmax", self.softmax(scores)),
            ("attn.pv", self.weighted_sum(scores, L)),
            ("attn.out", self.out()),
            ("mlp", self.mlp(layer.mlp)),
        ]

    def embed(self) -> Cost:
        """A row of the table for each token, and of the learned positions for each new position."""
        learned = self.shape.positions == "learned"
        rows = min(self.N, self.shape.vocab + self.shape.extra_embeddings)
        vector = self.N * self.D * (learned + self.shape.embed_scale)
        return self.cost(
            "embed", vector=vector, weights=(rows + self.T * learned) * self.D, write=self.N * self.D, rows=self.N
        )

    def norm(self, rows: int) -> Cost:
        """One normalisation of the hidden state of this many tokens."""
        vector, special = _norm_operations(self.shape.norm, rows * self.D, rows)
        weights = self.shape.norm.weights * self.D
        both = rows * self.D
        return self.cost("norm", vector=vector, special=special, weights=weights, read=both, write=both, rows=rows)

    def qkv(self) -> Cost:
        """[N, D] times [D, Q + 2K], biases, and the norms of queries and keys."""
        width = self.Q + 2 * self.K
        vector, special = self.N * width * self.shape.qkv_bias, 0
        if (normed := head_norm(self.shape)) is not None:
            more, special = _norm_operations(normed[0], self.N * (self.Q + self.K), self.N * normed[1])
            vector += more
        return self.cost(
            "attn.qkv",
            matmul=2 * self.N * self.D * width,
            vector=vector,
            special=special,
            weights=qkv_parameters(self.shape),
            packed=self.packed(self.N, (self.D, width)),
            read=self.N * self.D,
            write=self.N * width,
            biases=self.shape.qkv_bias,
        )

    def rope(self, rotary: int) -> Cost:
        """Four multiplications and two additions for each pair of rotated numbers (Su et al. 2021)."""
        if not rotary:
            return Cost()
        rotated = self.N * (self.H + self.shape.kv_heads) * rotary
        return self.cost("attn.rope", vector=3 * rotated, read=rotated, write=rotated)

    def append(self, past: int) -> Cost:
        """New keys and values into the cache; a backend that concatenates moves those held as well."""
        new, old = 2 * self.N * self.K, 2 * self.B * past * self.K * self.backend.copies_cache
        return self.cost("kv.append", cache_read=old, cache_write=old + new, read=new)

    def scores(self, scores: int, L: int) -> Cost:
        """Queries times keys, 2 head_dim for each score, and ALiBi's slope (Press et al. 2022) or a soft cap."""
        cap, slope = scores * self.shape.softcap_scores, scores * (self.shape.positions == "alibi")
        read, write = self.N * self.Q, self.kept(scores)
        return self.product("attn.scores", scores, L, read=read, write=write, vector=2 * cap + slope, special=cap)

    def mask_build(self, window: int | None) -> Cost:
        """One additive mask [T, L] for all heads and sequences."""
        numbers = self.T * attended_positions(self.step, window, self.backend)
        return self.cost("attn.mask.build", vector=numbers, write=numbers)

    def mask_apply(self, scores: int, L: int) -> Cost:
        """The mask added to each score."""
        if not self.has_mask:
            return Cost()
        kept = self.kept(scores)
        mask = self.T * L
        return self.cost(
            "attn.mask.apply", vector=scores, read=kept + mask, write=kept, working=self.touched(kept) + mask
        )

    def softmax(self, scores: int) -> Cost:
        """Maximum, subtraction, exponential and sum; the division comes after the weighted sum, over fewer numbers."""
        sinks = self.B * self.H * self.T * self.shape.sinks
        kept = self.kept(scores)
        return self.cost(
            "attn.softmax",
            vector=3 * scores + 3 * sinks,
            special=scores + sinks,
            weights=self.H * self.shape.sinks,
            read=kept * self.backend.softmax_reads,
            write=kept * self.backend.softmax_writes,
            working=self.touched(kept),
        )

    def weighted_sum(self, scores: int, L: int) -> Cost:
        """Exponentials times values, 2 head_dim for each, and the division by their sum."""
        out = self.N * self.Q
        return self.product("attn.pv", scores, L, read=self.kept(scores), write=out, vector=out, special=0)

    def product(self, part: str, scores: int, L: int, *, read: int, write: int, vector: int, special: int) -> Cost:
        """A product with all keys, or all values: those held come from the cache, the new ones were just made."""
        past, new = self.B * (L - self.T) * self.K, self.N * self.K
        if self.backend.copies_cache:  # the concatenation has just written all of them
            past, new = 0, past + new
        repeated = self.B * L * self.Q if self.backend.repeats_kv and self.Q > self.K else 0
        return self.cost(
            part,
            matmul=2 * scores * self.shape.head_dim,
            vector=vector,
            special=special,
            cache_read=past,
            read=read + new + repeated,
            write=write + repeated,
        )

    def out(self) -> Cost:
        """[N, Q] times [Q, D], bias, and the addition to the residual stream."""
        return self.cost(
            "attn.out",
            matmul=2 * self.N * self.Q * self.D,
            vector=self.N * self.D * (1 + self.shape.out_bias),
            weights=out_parameters(self.shape),
            packed=self.packed(self.N, (self.Q, self.D)),
            read=self.N * (self.Q + self.D),
            write=self.N * self.D,
            biases=self.shape.out_bias,
        )

    def mlp(self, mlp: Mlp) -> Cost:
        """Router, experts and the addition to the residual stream; a dense part is one expert and no router."""
        one = expert_parameters(self.shape, mlp)
        residual = self.cost("mlp", vector=self.N * self.D, read=self.N * self.D, biases=mlp.bias * 2)
        if not mlp.experts:
            return residual + self.expert(mlp, mlp.width, self.N, weights=one)
        touched = expected_experts(mlp.experts, mlp.active, self.N)
        tokens = self.N * mlp.active
        work = residual + self.router(mlp) + self.expert(mlp, mlp.width, tokens, weights=touched * one, experts=touched)
        return work + self.expert(mlp, mlp.shared_width, self.N) if mlp.shared_width else work

    def expert(self, mlp: Mlp, width: int, tokens: int, weights: float = 0, experts: float = 1) -> Cost:
        """[tokens, D] times [D, I], twice if gated (Shazeer 2020), the activation, and back to D.

        The tokens are divided among `experts`. Gate and up count as one matrix, as the built-in decoder
        holds them.
        """
        inner = 2 if mlp.gated else 1
        vector, special = ACTIVATIONS[mlp.activation]
        numbers = tokens * width
        biases = mlp.bias * tokens * (inner * width + self.D)
        return self.cost(
            None,
            matmul=2 * (inner + 1) * tokens * self.D * width,
            vector=numbers * (vector + inner - 1) + biases,
            special=numbers * special,
            weights=weights,
            packed=experts * self.packed(tokens / experts, (self.D, inner * width), (width, self.D)),
            read=tokens * self.D + (inner + 1) * numbers,
            write=tokens * self.D + (inner + 1) * numbers,
        )

    def router(self, mlp: Mlp) -> Cost:
        """[N, D] times [D, experts], softmax, choice of k; then k results weighted and added (Shazeer et al. 2017)."""
        scores = self.N * mlp.experts
        gate = self.N * mlp.shared_gate
        return self.cost(
            None,
            matmul=2 * scores * self.D + 2 * gate * self.D,
            vector=scores * (4 + mlp.router_bias) + 2 * self.N * mlp.active * self.D + 2 * gate * self.D,
            special=scores + gate,
            weights=router_parameters(self.shape, mlp),
            read=self.N * self.D,
            write=scores,
        )

    def lm_head(self) -> Cost:
        """[R, D] times [D, V]: the rows whose logits are asked for, with the whole table, tied or not."""
        logits, bias = self.R * self.shape.vocab, self.shape.head_bias
        return self.cost(
            "lm_head",
            matmul=2 * logits * self.D,
            vector=logits * (bias + 2 * self.shape.softcap_logits),
            special=logits * self.shape.softcap_logits,
            weights=self.shape.vocab * (self.D + bias),
            packed=self.packed(self.R, (self.D, self.shape.vocab)),
            read=self.R * self.D,
            write=logits,
            biases=bias,
        )

    def sample(self) -> Cost:
        """The greedy choice, one comparison for each logit of the last position."""
        logits = self.B * self.shape.vocab
        return self.cost("sample", vector=logits, read=logits)

    def kept(self, scores: int) -> int:
        """Scores that pass through memory between parts."""
        return scores * self.backend.keeps_scores

    def touched(self, kept: int) -> int:
        """Kept scores that one call reads and writes: twice as many where it writes elsewhere."""
        return kept if self.backend.scores_in_place else 2 * kept

    def packed(self, rows: float, *weights: tuple[int, int]) -> int:
        """Numbers read and written to pack weights [inputs, outputs] for products of this many rows."""
        if (packing := self.backend.packing) is None:
            return 0
        return sum(2 * k * n for k, n in weights if packing.packs(rows, k, n, self.weight))

    def cost(
        self,
        part: str | None,
        *,
        matmul: int = 0,
        vector: int = 0,
        special: int = 0,
        weights: float = 0,
        cache_read: int = 0,
        cache_write: int = 0,
        read: int = 0,
        write: int = 0,
        packed: float = 0,
        working: int | None = None,
        rows: int | None = None,
        biases: int = 0,
    ) -> Cost:
        """Numbers to bytes, and the calls of a part (None: it belongs to one that is counted elsewhere).

        `working`: numbers that are touched together, where they are not all that are read and written.
        """
        calls = self.backend.calls_of(part, rows or self.N) + biases * self.backend.bias_calls if part else 0
        return Cost(
            matmul_flops=matmul,
            vector_flops=vector,
            special_functions=special,
            weight_bytes=weights * self.weight,
            cache_read_bytes=cache_read * self.cached,
            cache_write_bytes=cache_write * self.cached,
            activation_read_bytes=read * self.number,
            activation_write_bytes=write * self.number,
            calls=calls,
            working_set_bytes=(read + write if working is None else working) * self.number,
            packed_bytes=packed * self.weight,
        )

    def resident_bytes(self, parts: dict[str, Cost]) -> int:
        """What a step must find where the step before has left it."""
        counted = parameters(self.shape)
        table = 0 if self.shape.tied else counted.by_part["embed"] * self.weight
        looked_up = round(parts["embed"].weight_bytes) if table else 0
        step = self.step
        cache = kv_bytes(
            self.shape,
            step.past + step.new,
            capacity=step.capacity,
            batch=step.batch,
            dtype=self.precision.cache,
        )
        working_set = max(cost.working_set_bytes for cost in parts.values())
        cached = cache.allocated if self.backend.attends_capacity else cache.used
        return counted.total * self.weight - table + looked_up + cached + working_set


def _norm_operations(norm: Norm, numbers: int, rows: int) -> tuple[int, int]:
    """(vector FLOPs, special functions): square, sum, scale; mean and subtraction if centred; learned weights."""
    return numbers * (3 + 2 * norm.centres + norm.weights), rows
