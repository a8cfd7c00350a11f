"""Suppressed tokens and the repetition penalty: the same logits as transformers', with one copy and no search.

transformers asks at every step of every column whether it is suppressed, and copies the logits twice for the penalty.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch

from perstep._words import plural
from perstep.errors import InputError
from perstep.fast import _launch
from perstep.fast._inside import State, Stateless
from perstep.fast._processor import Processor, signed

__all__ = ["RepetitionPenalty", "SuppressTokens"]


class SuppressTokens(Stateless, Processor):
    """Sets the logits of given ids to -inf, as transformers' `SuppressTokensLogitsProcessor` does, bit for bit.

    Args:
        suppress_tokens: the ids; ids beyond the logits are ignored.

    Raises:
        InputError: no ids, or a negative one.
    """

    def __init__(self, suppress_tokens: Iterable[int]) -> None:
        self.suppress_tokens = tuple(sorted(set(map(int, suppress_tokens))))
        if not self.suppress_tokens or self.suppress_tokens[0] < 0:
            raise InputError("suppress_tokens are the ids to suppress: at least one, none of them negative")
        self._indices: dict[tuple[torch.device, int], torch.Tensor] = {}

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The scores [rows, columns] with -inf at these ids; `scores` itself is left as it is."""
        return scores.index_fill(-1, self._inside(scores), -torch.inf)

    def overwrite(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The same, written into `scores`; this saves the copy."""
        return scores.index_fill_(-1, self._inside(scores), -torch.inf)

    def graph_key(self) -> Hashable:
        """Its kind and its ids."""
        return SuppressTokens, self.suppress_tokens

    def graph_scores(self, scores: torch.Tensor, state: State, length: object) -> torch.Tensor:  # noqa: ARG002
        """The same, written into `scores`."""
        return self.overwrite(scores, scores)

    def _inside(self, scores: torch.Tensor) -> torch.Tensor:
        """The ids that there are logits of, int64 on the device of the scores."""
        key = (scores.device, scores.shape[-1])
        indices = self._indices.get(key)
        if indices is None:
            inside = [token for token in self.suppress_tokens if token < scores.shape[-1]]
            indices = self._indices[key] = torch.tensor(inside, dtype=torch.int64, device=scores.device)
        return indices


class RepetitionPenalty(Processor):
    """Makes tokens that occur in the text less likely, as transformers' `RepetitionPenaltyLogitsProcessor` does.

    Bit for bit the same logits: those of tokens in `input_ids` are divided by the penalty, or multiplied if negative.

    Args:
        penalty: above 0; 1 changes nothing. prompt_ignore_length: the number of first tokens that do not count; a list
        has a number for each row. generate itself
            gives the padding on the left of every row.

    Raises:
        InputError: a value outside its range.
    """

    def __init__(self, penalty: float, prompt_ignore_length: int | Sequence[int] = 0) -> None:
        if not penalty > 0:
            raise InputError(f"penalty {penalty}: it is a factor above 0, such as 1.1")
        alike = isinstance(prompt_ignore_length, int)
        ignored = [prompt_ignore_length] if alike else list(prompt_ignore_length)  # type: ignore[arg-type]
        if not all(isinstance(length, int) and length >= 0 for length in ignored):
            raise InputError(f"prompt_ignore_length {prompt_ignore_length!r}: a number of tokens, 0 or more")
        self.penalty = float(penalty)
        self.prompt_ignore_length = prompt_ignore_length
        self._ignored = torch.tensor(ignored, dtype=torch.int64)[:, None]
        self._any_ignored = any(ignored)

    capturable = True

    @signed
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [rows, columns] with the penalty; `scores` itself is left as it is."""
        if not input_ids.shape[1]:
            return scores
        if _launch.takes(scores):
            self._check_rows(input_ids)
            changed = _launch.penalised(scores, input_ids, self._ignored, self.penalty)
            if changed is not None:
                return changed
        ids = input_ids
        if self._any_ignored:
            ids = self._without_ignored(ids, scores.shape[-1])
        last = scores.shape[-1] - 1
        gathered = scores.gather(1, ids.clamp(max=last))
        penalised = torch.where(gathered < 0, gathered * self.penalty, gathered / self.penalty)
        # Ids beyond the logits write to the last column what it is anyway: penalised if that token occurs itself.
        unchanged = (ids > last) & ~(ids == last).any(dim=1, keepdim=True)
        return scores.scatter(1, ids.clamp(max=last), torch.where(unchanged, gathered, penalised))

    def graph_key(self) -> Hashable:
        """Its kind and its factor."""
        return RepetitionPenalty, self.penalty

    def graph_begin(self, ids: torch.Tensor, width: int) -> State:
        """Which tokens occur in each row, bool [rows, width + 1], and from where on they count, int64 [rows]."""
        counted = self._without_ignored(ids, width).clamp(max=width)
        seen = torch.zeros(len(ids), width + 1, dtype=torch.bool, device=ids.device).scatter_(1, counted, True)
        return seen, self._ignored[:, 0].to(ids.device).expand(len(ids))

    def graph_scores(self, scores: torch.Tensor, state: State, length: object) -> torch.Tensor:  # noqa: ARG002
        """The same by what has been seen."""
        penalised = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
        return torch.where(state[0][:, :-1], penalised, scores)

    def graph_advance(self, state: State, tokens: torch.Tensor, length: torch.Tensor) -> State:
        """One more token a row that has been seen."""
        seen, ignored = state
        beyond = seen.shape[1] - 1
        counted = torch.where(length > ignored, tokens, beyond).clamp(max=beyond)
        return seen.scatter_(1, counted[:, None], True), ignored

    def graph_end(self, ids: torch.Tensor, state: State, undone: int) -> None:
        """Nothing is kept."""

    def _without_ignored(self, ids: torch.Tensor, beyond: int) -> torch.Tensor:
        """The ids with `beyond` in place of those that do not count."""
        self._check_rows(ids)
        positions = torch.arange(ids.shape[1], device=ids.device)
        return ids.masked_fill(positions < self._ignored, beyond)

    def _check_rows(self, ids: torch.Tensor) -> None:
        """See that there is a number for each row, and bring the numbers to the device of the ids."""
        if len(self._ignored) not in (1, ids.shape[0]):
            raise InputError(
                f"prompt_ignore_length has {plural(len(self._ignored), 'number')}, the batch "
                f"{plural(ids.shape[0], 'row')}"
            )
        self._ignored = self._ignored.to(ids.device)
