"""Choosing the next token: greedy, or a draw by keyed noise; over all logits, or over the allowed ids alone.

A draw is argmax(scores + Gumbel noise). The noise is a pure function of seed, row, position and token id, so that the
allowed ids alone give the same choice as the full vocabulary (law "a drop-in proves its guarantee"). Where two
candidates are nearer to each other than the order of summation can tell, the whole head decides, as it would in
`generate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from perstep.automata import TokenAutomaton, apply
from perstep.errors import InputError
from perstep.fast._processor import Process
from perstep.fast.decode_head import FEWER, DeferredHead, allowed_ids
from perstep.fast.noise import gumbel, row_keys
from perstep.fast.sampling import MinP, TopK, TopP
from perstep.targets.reference.sample import gumbel_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from perstep.automata import Row

# B batch, V logits, A allowed tokens

_OVER_ALLOWED = (
    TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper, TopK, TopP, MinP,
)  # fmt: skip
"""Processors that give the allowed tokens the same scores whether they see the others at -inf or not at all."""


def works_over_allowed(processor: object) -> bool:
    """Whether a processor behind a mask may be given the scores of the allowed tokens alone."""
    return type(processor) in _OVER_ALLOWED and getattr(processor, "filter_value", -np.inf) == -np.inf


class Chooser:
    """Chooses from scores.

    Args:
        seed: of the noise; None chooses greedily.
        batch: rows.
    """

    def __init__(self, seed: int | None, batch: int) -> None:
        self.seed = seed
        self._batch = batch
        self._keys_B: torch.Tensor | None = None

    def on_host(self, scores_BTV: torch.Tensor, position: int) -> list[int]:
        """One token a row, from the scores behind the last position; waits for them."""
        if scores_BTV.device.type != "cpu":
            chosen: list[int] = self.on_device(scores_BTV[:, -1], position).tolist()
            return chosen
        array = as_array(scores_BTV)[:, -1]
        if self.seed is None:
            return [int(row_V.argmax()) for row_V in array]
        return [self.draw(row_V, None, row, position)[0] for row, row_V in enumerate(array)]

    def on_device(self, scores_BV: torch.Tensor, position: int) -> torch.Tensor:
        """One token a row, int64 [B], without waiting for the device."""
        if self.seed is None:
            return scores_BV.argmax(dim=-1)
        if self._keys_B is None:
            self._keys_B = row_keys(self.seed, self._batch, scores_BV.device)
        return (scores_BV.double() + gumbel(self._keys_B, position, scores_BV.shape[1])).argmax(dim=-1)

    def draw(
        self, scores: NDArray[np.floating], ids: NDArray[np.integer] | None, row: int, position: int
    ) -> tuple[int, float]:
        """One draw from a row's scores, of the given ids or of all; and by how much it won."""
        assert self.seed is not None  # noqa: S101
        left = np.flatnonzero(scores > -np.inf)
        if len(left) == 0 or not np.isfinite(scores[left]).all():
            raise InputError(
                f"no token can be drawn in row {row} at position {position}: "
                "every score is -inf, or one is not a number"
            )
        kept = left if ids is None else ids[left]
        noisy = scores[left].astype(np.float64) + gumbel_noise(self.seed, row, position, kept)
        best = int(noisy.argmax())
        return int(kept[best]), _margin(noisy, best)

    def pick(
        self, scores: NDArray[np.floating], ids: NDArray[np.integer] | None, row: int, position: int
    ) -> tuple[int, float]:
        """The token of a row, greedy or drawn, and by how much it won."""
        if self.seed is not None:
            return self.draw(scores, ids, row, position)
        best = int(scores.argmax())
        return (best if ids is None else int(ids[best])), _margin(scores, best)


class MaskedChooser:
    """Chooses among what token tables allow, on the host, touching the rest of the vocabulary only where it must.

    Args:
        tables: the table of each row of the batch.
        warpers: processors behind the mask; all of them work over the allowed tokens alone.
        chooser: how to choose.
        head: the model's head, put off; None where it stays.

    Attributes:
        near_ties: choices that the whole head had to decide.
        restricted: choices for which only rows of the head were used.
    """

    def __init__(
        self, tables: Sequence[TokenAutomaton], warpers: Sequence[Process], chooser: Chooser, head: DeferredHead | None
    ) -> None:
        self._tables = tables
        self._warpers = warpers
        self._no_ids = torch.empty(0, 0, dtype=torch.long)
        self._chooser = chooser
        self._head = head
        self._steepness = 1.0
        for warper in warpers:
            if isinstance(warper, TemperatureLogitsWarper):
                self._steepness /= abs(warper.temperature)
        self.states = [table.start for table in tables]
        self.near_ties = 0
        self.restricted = 0

    def accept(self, row: int, token: int) -> None:
        """A row's text goes on with a token."""
        from perstep.fast.token_mask import follow

        self.states[row] = follow(self._tables[row], self.states[row], token)

    def forced(self, row: int) -> int | None:
        """The only token that may follow, if there is one alone."""
        return self._tables[row].forced(self.states[row])

    def choose(self, logits_BV: torch.Tensor | None, rows: list[int], position: int) -> dict[int, int]:
        """The tokens of some rows of the batch.

        Args:
            logits_BV: all logits, to be written over; None where the head was put off.
            rows: those whose text is not finished.
            position: the place that the tokens take in their text.
        """
        chosen: dict[int, int] = {}
        dense: list[tuple[int, Row]] = []
        groups: dict[Row, list[int]] = {}
        for row in rows:
            mask = self._tables[row].row(self.states[row])
            if mask.count == 1:
                chosen[row] = int(mask.allowed[0])
            elif logits_BV is None and mask.count * FEWER <= mask.size:
                groups.setdefault(mask, []).append(row)
            else:
                dense.append((row, mask))
        for mask, members in groups.items():
            chosen |= self._from_rows_of_head(mask, members, position)
        if dense:
            chosen |= self._from_all(logits_BV, dense, position)
        return chosen

    def _from_rows_of_head(self, mask: Row, rows: list[int], position: int) -> dict[int, int]:
        assert self._head is not None  # noqa: S101
        logits_RA, rounding = self._head.allowed_logits(rows, mask)
        precision = 2 * torch.finfo(logits_RA.dtype).eps
        scores_RA, ids_A = as_array(self._warped(logits_RA.float())), mask.allowed
        chosen, unsure = {}, []
        for place, row in enumerate(rows):
            token, margin = self._chooser.pick(scores_RA[place], ids_A, row, position)
            chosen[row] = token
            if margin <= self._steepness * (rounding + precision * float(logits_RA[place].abs().max())):
                unsure.append((row, mask))
        self.restricted += len(rows) - len(unsure)
        if unsure:
            self.near_ties += len(unsure)
            chosen |= self._from_all(self._head.all_logits(), unsure, position)
        return chosen

    def _from_all(self, logits_BV: torch.Tensor | None, wanted: list[tuple[int, Row]], position: int) -> dict[int, int]:
        if logits_BV is None:
            assert self._head is not None  # noqa: S101
            logits_BV = self._head.all_logits()
        chosen = {}
        for row, mask in wanted:
            logits_1V = logits_BV[row : row + 1].float()
            ids: NDArray[np.integer] | None = None
            if mask.count * FEWER <= mask.size:
                ids = mask.allowed
                logits_1V = logits_1V.index_select(1, allowed_ids(mask, logits_1V.device))
            else:
                apply(logits_1V, mask)
            chosen[row] = self._chooser.pick(as_array(self._warped(logits_1V))[0], ids, row, position)[0]
        return chosen

    def _warped(self, scores: torch.Tensor) -> torch.Tensor:
        for warper in self._warpers:
            scores = warper(self._no_ids, scores)
        return scores


def as_array(scores: torch.Tensor) -> NDArray[np.floating]:
    """Scores as a NumPy array, whose argmax is ten times as fast (9 µs for 131,072; torch 146)."""
    if scores.dtype.itemsize < 4:
        scores = scores.float()
    if scores.device.type != "cpu":
        scores = scores.cpu()
    array: NDArray[np.floating] = scores.numpy()
    return array


def _margin(scores: NDArray[np.floating], best: int) -> float:
    """By how much the best score is above the next."""
    if len(scores) < 2:
        return float("inf")
    before = float(scores[:best].max()) if best else -np.inf
    behind = float(scores[best + 1 :].max()) if best + 1 < len(scores) else -np.inf
    return float(scores[best]) - max(before, behind)
