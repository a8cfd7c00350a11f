"""Stop sequences given as ids: a row has ended if its last ids are one of them. For texts there is `StopStrings`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from transformers import StoppingCriteria

from perstep.errors import InputError
from perstep.fast._reading import on_host

__all__ = ["StopIds"]


class StopIds(StoppingCriteria):  # type: ignore[misc] # transformers is not typed
    """Says of each row whether its last ids are one of some sequences, which may begin in the prompt.

    The same text in other tokens does not stop a row: `StopStrings` is for that. A verdict depends on the ids of its
    row alone; on a device no step waits for the host.

    Args:
        sequences: of ids; an id by itself is a sequence of one.

    Raises:
        InputError: no sequence, or an empty one.

    Examples:
        >>> stop = StopIds([[1, 2], 7])
        >>> stop(torch.tensor([[0, 1, 2], [0, 2, 1], [0, 0, 7]])).tolist()
        [True, False, True]
    """

    def __init__(self, sequences: Iterable[int | Sequence[int]]) -> None:
        given = [(one,) if isinstance(one, int) else tuple(map(int, one)) for one in sequences]
        self.sequences = tuple(dict.fromkeys(given))
        if not self.sequences or not all(self.sequences):
            raise InputError("sequences are the ids that end a row: at least one sequence, none of them empty")
        self._by_last: dict[int, list[list[int]]] = {}
        for ids in self.sequences:
            self._by_last.setdefault(ids[-1], []).append(list(ids))
        self._longest = max(map(len, self.sequences))
        self._tables: dict[torch.device, list[torch.Tensor]] = {}

    def __deepcopy__(self, _memo: object) -> StopIds:
        return self  # no verdict depends on a step before

    def __call__(self, input_ids: torch.Tensor, scores: object = None, **_kwargs: object) -> torch.Tensor:  # noqa: ARG002
        """Whether each row of `input_ids` [rows, length] ends with a sequence, bool [rows]."""
        if on_host(input_ids):
            return torch.tensor(
                [self._ends(text) for text in input_ids[:, -self._longest :].tolist()], dtype=torch.bool
            )
        ended = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        for table in self._tables_on(input_ids.device):
            length = table.shape[1]
            if length <= input_ids.shape[1]:
                last = input_ids[:, input_ids.shape[1] - length :]
                ended = ended | (last[:, None] == table).all(dim=-1).any(dim=-1)
        return ended

    def _ends(self, text: list[int]) -> bool:
        return bool(text) and any(text[-len(ids) :] == ids for ids in self._by_last.get(text[-1], ()))

    def _tables_on(self, device: torch.device) -> list[torch.Tensor]:
        """The sequences of each length, int64 [sequences, length]."""
        tables = self._tables.get(device)
        if tables is None:
            by_length: dict[int, list[tuple[int, ...]]] = {}
            for ids in self.sequences:
                by_length.setdefault(len(ids), []).append(ids)
            tables = self._tables[device] = [torch.tensor(group, device=device) for group in by_length.values()]
        return tables
