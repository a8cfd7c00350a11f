"""What the last tokens say: automata whose state is settled by a few tokens, whatever came before.

Every token is a function from state to state; tokens with the same function are one class. The state after a text is
the composition of the functions of its last tokens, so it is computed anew at every step from `input_ids` alone:
nothing is remembered between calls that another call, another batch or a reordered beam could make wrong. On the CPU
the last token nearly always settles it by itself; on a device the functions are composed pair by pair, without a sync.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray


FEW_ROWS = 8  # up to this many rows are read one by one
_CODED = 3  # last tokens by whose classes the state is tabled: those that a character can need
_MOST_CODES = 20_000


def on_host(tensor: torch.Tensor) -> bool:
    """Whether reading values costs no wait: the tensor is in the host's memory, and nothing is being traced."""
    return tensor.is_cpu and not torch.compiler.is_compiling()  # to ask for the device takes 9 µs behind a forward


@dataclass(eq=False, repr=False)
class Reading:
    """The functions of all tokens.

    Args:
        class_of_token: the class of each token, int [tokens]; ids from `tokens` on have the class of `unknown`.
        maps: next state by class and state, int [classes, states]; state 0 is the start.
        window: the number of last tokens that determine the state.
        unknown: the class of ids that are no tokens.
    """

    class_of_token: NDArray[np.integer]
    maps: NDArray[np.integer]
    window: int
    unknown: int = 0

    def __post_init__(self) -> None:
        self.class_of_token = np.append(self.class_of_token, self.unknown).astype(np.int64)
        constant = (self.maps == self.maps[:, :1]).all(axis=1)
        settled = np.where(constant, self.maps[:, 0], -1)
        self._settled: list[int] = settled[self.class_of_token].tolist()
        self._classes: list[int] = self.class_of_token.tolist()
        self._maps: list[list[int]] = self.maps.tolist()
        self._identity = len(self.maps)
        whole = np.concatenate([self.maps, np.arange(self.maps.shape[1])[None]])
        self._tensors = {
            torch.device("cpu"): (
                torch.from_numpy(self.class_of_token.astype(np.int64)),
                torch.from_numpy(whole.astype(np.int64)),
            )
        }
        few = self.window == _CODED and len(self.maps) ** _CODED <= _MOST_CODES
        self._coded = _Coded(self.class_of_token, self.maps) if few else None
        # A power of two, so that pairs come out even.
        self._width = 1 << max(self.window - 1, 0).bit_length()

    def __deepcopy__(self, _memo: object) -> Reading:
        return self  # nothing of it changes from step to step

    @property
    def size(self) -> int:
        """Tokens."""
        return len(self._classes) - 1

    def class_list(self, tokens: Sequence[int]) -> list[int]:
        """The classes of token ids, on the host."""
        size, classes = self.size, self._classes
        return [classes[token if token < size else size] for token in tokens]

    def states_on_host(self, rows: NDArray[np.int64]) -> list[int] | NDArray[np.int64]:
        """The state of each row of ids [rows, length], by NumPy and lists: many as an array.

        Behind a forward, which empties the cache, an operation of torch that `generate` has not just used takes 10 µs,
        and a Python function 2.
        """
        last = rows[:, -self.window :] if self.window else rows[:, :0]
        coded = self._coded
        if coded is None or last.shape[1] < _CODED:
            return [self._read(tokens) for tokens in last.tolist()]
        if len(rows) > FEW_ROWS:
            return coded.states(last)
        one, two, three = coded.few_addends
        try:
            return [coded.few_states[one[x] + two[y] + three[z]] for x, y, z in last.tolist()]
        except IndexError:  # ids beyond the vocabulary
            return coded.states(last)

    def advance_on_host(self, states: Sequence[int], tokens: Sequence[int]) -> list[int]:
        """The states after one more token each."""
        classes, maps = self._classes, self._maps
        try:
            return [maps[classes[token]][state] for state, token in zip(states, tokens, strict=True)]
        except IndexError:  # ids beyond the vocabulary
            return [maps[one][state] for one, state in zip(self.class_list(tokens), states, strict=True)]

    def _read(self, tokens: list[int]) -> int:
        """The state after a row's last tokens, begun behind the last of them that settles it by itself."""
        size, settled = self.size, self._settled
        for index in range(len(tokens) - 1, -1, -1):
            state = settled[min(tokens[index], size)]
            if state >= 0:
                return self.state_after(tokens[index + 1 :], state)
        return self.state_after(tokens, 0)

    def state_after(self, tokens: list[int], state: int) -> int:
        """The state after tokens that are read in `state`."""
        size, classes, maps = self.size, self._classes, self._maps
        for token in tokens:
            state = maps[classes[min(token, size)]][state]
        return state

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The classes int64 [tokens + 1] and the maps int64 [classes + 1, states], the last of them the identity."""
        tensors = self._tensors.get(device)
        if tensors is None:
            class_of, maps = self._tensors[torch.device("cpu")]
            tensors = self._tensors[device] = class_of.to(device), maps.to(device)
        return tensors

    def classes(self, ids: torch.Tensor) -> torch.Tensor:
        """The class of every id, int64, of the shape of `ids`."""
        class_of, _ = self.tensors(ids.device)
        return class_of[ids.clamp(max=self.size)]

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """The state of each row of `ids` [rows, length], int64 [rows], by tensors alone."""
        _, maps = self.tensors(ids.device)
        classes_BW = self.classes(ids[:, -self.window :] if self.window else ids[:, :0])
        classes_BW = torch.nn.functional.pad(classes_BW, (self._width - classes_BW.shape[1], 0), value=self._identity)
        f_BWS = maps[classes_BW]
        while f_BWS.shape[1] > 1:
            f_BWS = f_BWS[:, 1::2].gather(2, f_BWS[:, 0::2])  # the later token after the earlier one
        return f_BWS[:, 0, 0]

    def states_after_each(self, ids: torch.Tensor) -> torch.Tensor:
        """The state of each row after each token of `ids` [rows, length], int64 [rows, length], by tensors alone.

        Functions are composed pair by pair, each pair for twice as many tokens, until they span the window.
        """
        _, maps = self.tensors(ids.device)
        f_BTS = maps[self.classes(ids)]
        span = 1
        while span < min(self._width, ids.shape[1]):
            f_BTS = torch.cat([f_BTS[:, :span], f_BTS[:, span:].gather(2, f_BTS[:, :-span])], dim=1)
            span *= 2
        return f_BTS[:, :, 0]

    def advance(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The states [rows] after one more token each [rows], by tensors alone."""
        _, maps = self.tensors(tokens.device)
        return maps[self.classes(tokens), states]


class _Coded:
    """The state by the code of the last three tokens' classes: a number in a base of as many digits as classes.

    Args:
        class_of_token: as in `Reading`, with the class of ids that are no tokens behind the others.
        maps: as in `Reading`.

    Attributes:
        few_addends: what a token in each place adds to the code, as lists.
        few_states: the state of each code, as a list.
    """

    def __init__(self, class_of_token: NDArray[np.integer], maps: NDArray[np.integer]) -> None:
        base = len(maps)
        powers = base ** np.arange(_CODED)[::-1]
        codes = np.arange(base**_CODED)
        states = np.zeros(len(codes), dtype=np.int64)
        for power in powers:
            states = maps[codes // power % base, states].astype(np.int64)
        self._states = states
        self._addends = [class_of_token * power for power in powers]
        self.few_states: list[int] = states.tolist()
        self.few_addends: list[list[int]] = [addends.tolist() for addends in self._addends]

    def states(self, tokens_B3: NDArray[np.int64]) -> NDArray[np.int64]:
        """The states of many rows, int64 [rows]."""
        one, two, three = self._addends
        code_B = one.take(tokens_B3[:, 0], mode="clip")
        code_B += two.take(tokens_B3[:, 1], mode="clip")
        code_B += three.take(tokens_B3[:, 2], mode="clip")
        states_B: NDArray[np.int64] = self._states.take(code_B)
        return states_B
