"""Constrained decoding on the reference model: only the head's rows of the allowed tokens are computed.

The tokens are those of masking all logits and choosing from them, since noise is keyed by token id (law "a drop-in
proves its guarantee"). There are fewer products. Where only one token is allowed there is no head, and long runs of
forced tokens go through the model as one chunk. Where two candidates are nearer than rounding, the whole head decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perstep._words import plural
from perstep.automata import TokenAutomaton
from perstep.errors import InputError
from perstep.targets.reference.model import Floats, Reference, decoder, norm
from perstep.targets.reference.parts import Mark, no_mark
from perstep.targets.reference.sample import GREEDY, Ids, Sampler, allowed, gumbel_noise

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from perstep.automata import Row

# B batch, T prompt, D hidden, V vocabulary, A allowed tokens

__all__ = ["MaskedText", "generate_masked"]

LEAST_CHUNK, LARGE_LAYER_BYTES = (8, 4), 4 << 20
"""The shortest run that is one chunk, where a layer's weights are smaller than this and where they are larger.

A product of 2 or 3 rows takes longer than as many products of one: on mini, of 0.8 MB a layer, 2 tokens take 561 µs in
a chunk and 278 in single steps, 4 take 1.05 times the single steps' time and 8 take 0.72. At 6.3 MB a layer 2 take 1.65
times the time, 4 take 0.79.
"""


@dataclass(frozen=True)
class MaskedText:
    """What was generated.

    Attributes:
        ids: the new ids [B, n]; a row that ended early repeats its end token.
        forwards: forwards of the model including the prefill; fewer than tokens if long runs of them were forced.
        near_ties: choices between nearly equal tokens, decided by the whole head.
    """

    ids: Ids
    forwards: int
    near_ties: int


def generate_masked(
    model: Reference,
    prompt_BT: ArrayLike,
    max_new_tokens: int,
    tables: TokenAutomaton | Sequence[TokenAutomaton],
    sampler: Sampler = GREEDY,
    mark: Mark = no_mark,
) -> MaskedText:
    """Up to `max_new_tokens` new ids that the tables allow.

    Args:
        model: the decoder.
        prompt_BT: token ids [B, T]; the mask begins after them.
        max_new_tokens: the limit; it ends earlier once every row has.
        tables: one, or one for each row.
        sampler: how tokens are chosen, the noise keyed as in `sample`.
        mark: called with `mask.accept`, `lm_head` and `sample`, and by the forward with its parts.

    Raises:
        InputError: if the vocabulary is wider than the model's, or has no end-of-sequence id.
    """
    prompt_BT = np.asarray(prompt_BT)
    B, T = prompt_BT.shape
    each = [tables] * B if isinstance(tables, TokenAutomaton) else list(tables)
    _check(model, each, B, max_new_tokens)
    cache = model.new_cache(B, T + max_new_tokens - 1)
    states = [table.start for table in each]
    rows = [table.row(state) for table, state in zip(each, states, strict=True)]
    chooser, least = _Chooser(model, sampler), _least_chunk(model)
    columns: list[list[int]] = []
    chunks, forwards = [prompt_BT], 0
    while True:
        for chunk_BT in chunks:
            x_BD = decoder(model, chunk_BT, cache, mark)[:, -1]
        forwards += len(chunks)
        mark("lm_head")
        normed_BD = norm(x_BD, model.final_norm_D, model.config.norm_eps, out=np.empty(x_BD.shape, np.float32))
        mark("sample")
        tokens = [chooser.choose(normed_BD, row, mask, T + len(columns)) for row, mask in enumerate(rows)]
        begun = len(columns)
        while True:
            columns.append(tokens)
            mark("mask.accept")
            states = [table.next(state, token) for table, state, token in zip(each, states, tokens, strict=True)]
            ended = all(state == table.ended for table, state in zip(each, states, strict=True))
            if ended or len(columns) == max_new_tokens:
                return MaskedText(np.array(columns, dtype=np.int64).T, forwards, chooser.near_ties)
            rows = [table.row(state) for table, state in zip(each, states, strict=True)]
            if any(row.count != 1 for row in rows):
                break
            tokens = [row.allowed.item(0) for row in rows]
        run_BT = np.array(columns[begun:], dtype=np.int64).T
        num = run_BT.shape[1]
        chunks = [run_BT] if num == 1 or num >= least else [run_BT[:, at : at + 1] for at in range(num)]


def _least_chunk(model: Reference) -> int:
    """The shortest run of forced tokens that takes less time in one forward than in a forward each."""
    layer = model.layers[0]
    layer_bytes = sum(one.nbytes for one in (layer.qkv_DO, layer.out_QD, layer.gate_up_DI2, layer.down_ID))
    return LEAST_CHUNK[layer_bytes >= LARGE_LAYER_BYTES]


class _Chooser:
    def __init__(self, model: Reference, sampler: Sampler) -> None:
        self._model = model
        self._sampler = sampler
        # After RMSNorm no hidden state is longer than this. The same products summed in another order differ by a few
        # units in the last place of the largest partial sums.
        longest = float(np.sqrt(model.config.hidden) * np.abs(model.final_norm_D).max())
        self._rounding = 8 * float(np.finfo(np.float32).eps) * longest / (sampler.temperature or 1.0)
        self.near_ties = 0

    def choose(self, normed_BD: Floats, row: int, mask: Row, position: int) -> int:
        """The token of one row of the batch."""
        if mask.count == 1:
            return int(mask.allowed[0])
        weight_DA, longest = self._rows_of_head(mask)
        logits_A = normed_BD[row] @ weight_DA
        token, margin = self._pick(logits_A, mask.allowed, row, position)
        if margin > self._rounding * longest:
            return token
        self.near_ties += 1
        logits_V = np.matmul(normed_BD, self._model.head_DV)[row]
        return self._pick(logits_V[mask.allowed], mask.allowed, row, position)[0]

    def _pick(self, logits_A: Floats, ids_A: NDArray[np.integer], row: int, position: int) -> tuple[int, float]:
        sampler = self._sampler
        if sampler.temperature == 0:
            scores: NDArray[np.floating] = logits_A
        else:
            scaled = logits_A.astype(np.float64) / sampler.temperature
            kept = allowed(scaled, sampler.top_k, sampler.top_p)
            ids_A = ids_A[kept]
            scores = scaled[kept] + gumbel_noise(sampler.seed, row, position, ids_A)
        best = int(scores.argmax())
        largest = scores.item(best)
        if not -math.inf < largest < math.inf:
            raise InputError(f"the largest logit of row {row} at position {position} is {largest}")
        if len(scores) == 1:
            return ids_A.item(best), math.inf
        scores[best] = -math.inf  # nobody looks at the scores again
        return ids_A.item(best), largest - scores.max().item()

    def _rows_of_head(self, mask: Row) -> tuple[Floats, float]:
        """The head's columns of the allowed tokens, [D, A], and the length of the longest."""
        head_DV = self._model.head_DV

        def gather(mask: Row) -> tuple[Floats, float, Floats]:
            columns_DA = np.ascontiguousarray(head_DV[:, mask.allowed])
            return columns_DA, float(np.sqrt(np.square(columns_DA).sum(0).max())), head_DV

        # The head is kept beside what was made of it, so that its address is nobody else's meanwhile.
        columns_DA, longest, _ = mask.derived(("head", id(head_DV)), gather, lambda gathered: gathered[0].nbytes)
        return columns_DA, longest


def _check(model: Reference, tables: list[TokenAutomaton], batch: int, max_new_tokens: int) -> None:
    vocabulary = tables[0].vocabulary
    if len(tables) != batch:
        raise InputError(
            f"{plural(len(tables), 'table does', 'tables do')} not fit a batch of {batch}: give one, or one for each "
            "row"
        )
    if vocabulary.size > model.config.vocab:
        raise InputError(
            f"the tables are over {plural(vocabulary.size, 'token')}, the model has {model.config.vocab:,}"
        )
    if not all(table.vocabulary.eos_ids for table in tables):
        raise InputError("the vocabulary has no end-of-sequence id, so a complete text could not end")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, found {max_new_tokens}")
