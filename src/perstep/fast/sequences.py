"""Biased and forbidden sequences of tokens: transformers' logits, by a look-up of the text's last tokens.

transformers compares the end of every row with every sequence and adds a bias as wide as the vocabulary. Here, in the
host's memory, the last tokens are looked up once for each length that a sequence has, however many sequences there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from perstep._words import plural
from perstep.errors import InputError
from perstep.fast._processor import Processor, signed
from perstep.fast._reading import on_host

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BadWords", "SequenceBias"]

_Ends = dict[tuple[int, ...], list[tuple[int, "np.float32"]]]
"""What a sequence begins with -> its last tokens and their biases, in the order in which they were given."""


class SequenceBias(Processor):
    """Adds a bias to the token that would complete a sequence, as transformers' `SequenceBiasLogitsProcessor` does.

    The logits are the same; a zero may have the other sign. On a device, where the text cannot be looked up without a
    wait, all sequences are compared, as in transformers.

    Args:
        sequence_bias: the bias of each sequence of ids; or a list of such pairs, as transformers takes them.

    Raises:
        InputError: no sequence, an empty one, an id that is none, a bias that is no number.

    Examples:
        >>> biased = SequenceBias({(3,): 2.0, (1, 2): -1.0})
        >>> biased(torch.tensor([[0, 1], [1, 0]]), torch.zeros(2, 4)).tolist()
        [[0.0, 0.0, -1.0, 2.0], [0.0, 0.0, 0.0, 2.0]]
    """

    def __init__(self, sequence_bias: Mapping[Sequence[int], float] | Iterable[tuple[Sequence[int], float]]) -> None:
        pairs = sequence_bias.items() if isinstance(sequence_bias, Mapping) else sequence_bias
        self.sequence_bias = {tuple(map(int, ids)): float(bias) for ids, bias in pairs}
        if not self.sequence_bias:
            raise InputError("sequence_bias has no sequence: give at least one, such as {(5, 7): -2.0}")
        for ids, bias in self.sequence_bias.items():
            if not ids or min(ids) < 0 or math.isnan(bias):
                raise InputError(
                    f"sequence_bias {ids}: {bias}: a sequence is one id or more, none below 0, with a bias"
                )
        self._largest = max(map(max, self.sequence_bias))
        self._single = {ids[0]: np.float32(bias) for ids, bias in self.sequence_bias.items() if len(ids) == 1}
        self._single_ids = np.fromiter(self._single, np.int64, len(self._single))
        self._single_biases = np.fromiter(self._single.values(), np.float32, len(self._single))
        self._ends: dict[int, _Ends] = {}
        for ids, bias in self.sequence_bias.items():
            if len(ids) > 1:
                of_length = self._ends.setdefault(len(ids) - 1, {})
                of_length.setdefault(ids[:-1], []).append((ids[-1], np.float32(bias)))
        self._longest = max(self._ends, default=0)
        self._tensors: dict[torch.device, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = {}

    def __deepcopy__(self, _memo: object) -> SequenceBias:
        return self  # nothing changes from step to step

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [rows, columns] with the biases; `scores` itself is left as it is.

        Raises:
            InputError: a sequence has an id beyond the logits.
        """
        columns = scores.shape[1]
        if self._largest >= columns:
            raise InputError(
                f"a sequence has the id {self._largest}, but the model gives {plural(columns, 'logit')}: the ids are "
                "of another tokenizer"
            )
        if not (on_host(input_ids) and scores.is_cpu and scores.dtype == torch.float32):
            return self._by_tensors(input_ids, scores)
        given: NDArray[np.float32] = scores.detach().numpy()
        biased = scores.detach().clone()
        values: NDArray[np.float32] = biased.numpy()
        if len(self._single_ids):
            values[:, self._single_ids] += self._single_biases
        if self._longest:
            for row, text in enumerate(input_ids[:, -self._longest :].tolist()):
                for token, bias in self._completed(text).items():
                    values[row, token] = given[row, token] + bias
        return biased

    def _completed(self, text: list[int]) -> dict[int, np.float32]:
        """The bias of each token that completes a sequence of more than one, behind the last tokens of a row.

        Biases of one token are added in the order in which transformers adds them.
        """
        biases: dict[int, np.float32] = {}
        for length, ends in self._ends.items():
            for token, bias in ends.get(tuple(text[-length:]), ()) if length <= len(text) else ():
                biases[token] = biases.get(token, self._single.get(token, np.float32(0))) + bias
        return biases

    def _by_tensors(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        bias = torch.zeros_like(scores)
        for before, last, biases in self._tables(scores.device):
            length = before.shape[1]
            if length <= ids.shape[1]:
                ends = ids[:, ids.shape[1] - length :]
                matching = (ends[:, None] == before).all(dim=-1)
                bias.index_add_(1, last, torch.where(matching, biases, 0.0).to(bias.dtype))
        return scores + bias

    def _tables(self, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """By length: what sequences begin with [sequences, length], their last tokens and biases [sequences]."""
        tables = self._tensors.get(device)
        if tables is None:
            by_length: dict[int, list[tuple[tuple[int, ...], float]]] = {0: []}  # single tokens first
            for ids, bias in self.sequence_bias.items():
                by_length.setdefault(len(ids) - 1, []).append((ids, bias))
            tables = self._tensors[device] = [
                (
                    torch.tensor([ids[:-1] for ids, _ in group], dtype=torch.int64, device=device),
                    torch.tensor([ids[-1] for ids, _ in group], dtype=torch.int64, device=device),
                    torch.tensor([bias for _, bias in group], dtype=torch.float32, device=device),
                )
                for group in by_length.values()
                if group
            ]
        return tables


class BadWords(SequenceBias):
    """Forbids the token that would complete a sequence, as transformers' `NoBadWordsLogitsProcessor` does.

    Args:
        bad_words_ids: the sequences of ids.
        eos_token_id: end-of-sequence ids, which stay allowed where they are a sequence by themselves.

    Raises:
        InputError: no sequence, an empty one, an id that is none.
    """

    def __init__(self, bad_words_ids: Iterable[Sequence[int]], eos_token_id: int | Iterable[int] | None = None) -> None:
        ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or ())
        kept = [ids for ids in map(tuple, bad_words_ids) if not (len(ids) == 1 and ids[0] in ends)]
        super().__init__((ids, -math.inf) for ids in kept)
