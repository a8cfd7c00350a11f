"""No n-gram twice: the logits of transformers' `NoRepeatNGramLogitsProcessor`, without comparing every n-gram.

transformers compares at every step each window of the text with its end, and fills a mask as wide as the vocabulary.
Here, in the host's memory, only the places are looked at where the last token occurs before: nothing is remembered from
step to step that another call or a reordered beam could make wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from perstep.errors import InputError
from perstep.fast._processor import Processor, signed
from perstep.fast._reading import on_host

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NoRepeatNGram"]


class NoRepeatNGram(Processor):
    """Forbids every token that would make an n-gram of the text occur twice, bit for bit as transformers does.

    On a device all places are compared, as in transformers: which are few would have to be waited for.

    Args:
        ngram_size: n, 1 or more; at 1 no token occurs twice.

    Raises:
        InputError: a value outside its range.

    Examples:
        >>> text, logits = torch.tensor([[1, 2, 3, 1, 2]]), torch.zeros(1, 5)
        >>> NoRepeatNGram(3)(text, logits).tolist()
        [[0.0, 0.0, 0.0, -inf, 0.0]]
    """

    def __init__(self, ngram_size: int) -> None:
        if not isinstance(ngram_size, int) or ngram_size < 1:
            raise InputError(f"ngram_size {ngram_size!r}: it is a whole number of tokens, 1 or more")
        self.ngram_size = ngram_size

    def __deepcopy__(self, _memo: object) -> NoRepeatNGram:
        return self  # nothing changes from step to step

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [rows, columns] with -inf at what would repeat; `scores` itself is left as it is."""
        return self.overwrite(input_ids, scores.clone())

    def overwrite(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The same, written into `scores`; this saves the copy."""
        if input_ids.shape[1] < self.ngram_size:
            return scores
        if not on_host(input_ids):
            return scores.masked_fill_(self._by_tensors(input_ids, scores.shape[1]), -torch.inf)
        columns = scores.shape[1]
        rows: list[int] = []
        tokens: list[int] = []
        for row, text in enumerate(input_ids.numpy()):
            followers = _followers(text, self.ngram_size)
            inside = followers[followers < columns].tolist()
            rows += [row] * len(inside)
            tokens += inside
        if tokens:
            scores[torch.tensor(rows), torch.tensor(tokens)] = -torch.inf
        return scores

    def _by_tensors(self, ids: torch.Tensor, columns: int) -> torch.Tensor:
        """What is forbidden, bool [rows, columns], by tensors alone."""
        length, before = ids.shape[1], self.ngram_size - 1
        tokens = ids[:, before:]
        same = torch.ones_like(tokens, dtype=torch.bool)
        for back in range(before):  # the token `back` places before the end, at every place where an n-gram may end
            at = before - 1 - back
            same &= ids[:, at : at + tokens.shape[1]] == ids[:, length - 1 - back : length - back]
        # Ids beyond the logits, and what does not repeat, go to a column of their own, which is left out.
        banned = torch.zeros(ids.shape[0], columns + 1, dtype=torch.bool, device=ids.device)
        banned.scatter_(1, torch.where(same, tokens.clamp(max=columns), columns), True)
        return banned[:, :columns]


def _followers(text: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The tokens that followed the last n - 1 tokens of a text [length, at least n] where they occur before.

    >>> _followers(np.array([7, 8, 9, 7, 8, 5, 7, 8]), 3).tolist()
    [9, 5]
    """
    if n == 1:
        return text
    at = np.flatnonzero(text[n - 2 : -1] == text[-1]) + n - 2
    for back in range(1, n - 1):
        if not at.size:
            break
        at = at[text[at - back] == text[-1 - back]]
    return text[at + 1]
