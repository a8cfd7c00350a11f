"""Replaying one recorded trace of token ids, so that every arm does the same work (law "arms do the same work").

Each arm is fed the recorded tokens, whatever it would have chosen itself. Its own choice is still computed, inside the
step, and compared with the trace outside the step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perstep.measure.turns import UNMARKED, is_marked

Mark = Callable[[str], None]
"""Ends the part before and begins the one named."""


class DecodeLoop(Protocol):
    """A model with its decode loop, advanced one whole step at a time (forward, sample, stop check)."""

    def reset(self) -> None:
        """Forget the context: an empty KV cache."""
        ...

    def prefill(self, ids_BT: NDArray[np.int64], mark: Mark) -> NDArray[np.int64]:
        """One step over a whole prompt; the token chosen after it, shape [B]."""
        ...

    def decode(self, ids_B: NDArray[np.int64], mark: Mark) -> NDArray[np.int64]:
        """One step from one token to the next; the token chosen, shape [B]."""
        ...


@dataclass(frozen=True)
class Trace:
    """Recorded token ids.

    Attributes:
        prompt_BT: the prompt, shape [B, T].
        chosen_BN: the tokens generated after it, shape [B, N]: one prefill and N - 1 decode steps.
        expected_BN: what is to be chosen at each step, shape [B, N], where that is not what is fed next.
    """

    prompt_BT: NDArray[np.int64]
    chosen_BN: NDArray[np.int64]
    expected_BN: NDArray[np.int64] | None = None


def record_trace(loop: DecodeLoop, prompt_BT: NDArray[np.int64], new_tokens: int) -> Trace:
    """Generate `new_tokens` tokens freely and keep them. End-of-sequence tokens do not end it, so that N is N."""
    loop.reset()
    chosen = [loop.prefill(prompt_BT, no_mark)]
    for _ in range(new_tokens - 1):
        chosen.append(loop.decode(chosen[-1], no_mark))
    return Trace(prompt_BT, np.stack(chosen, axis=1))


class TakesSteps(Protocol):
    """What records steps: a `Recorder`, or what lays them into ranges of a profiler."""

    def begin(self, kind: str = "decode") -> None:
        """Begin a step of a kind."""
        ...

    def end(self) -> None:
        """End it."""
        ...


def replay(loop: DecodeLoop, trace: Trace, recorder: TakesSteps, mark: Mark, turn: int | None = None) -> int:
    """Run the loop over the trace once and record every step; the number of choices that are not the expected ones.

    It begins with an unrecorded prefill and, where the trace has one, decode step: the first work after
    a switch of arms runs in the other arm's caches.

    Args:
        mark: what the loop gets: the recorder's own, one that hands some parts on to it, or `no_mark`.
        turn: 0 or 1: steps with that mark and with none take turns (`is_marked`); None gives it to every step.
    """
    tokens = trace.chosen_BN
    modes = [turn is None or turn == 0, *(turn is None or is_marked(p, turn) for p in range(tokens.shape[1] - 1))]
    marks = [mark if marked else no_mark for marked in modes]
    kinds = [("decode" if at else "prefill") + ("" if marked else UNMARKED) for at, marked in enumerate(modes)]
    loop.reset()
    loop.prefill(trace.prompt_BT, no_mark)
    if tokens.shape[1] > 1:
        loop.decode(tokens[:, 0], no_mark)
    loop.reset()
    chosen = np.empty_like(tokens)
    recorder.begin(kinds[0])
    chosen[:, 0] = loop.prefill(trace.prompt_BT, marks[0])
    recorder.end()
    for position in range(1, tokens.shape[1]):
        fed, kind, its_mark = tokens[:, position - 1], kinds[position], marks[position]
        recorder.begin(kind)
        picked = loop.decode(fed, its_mark)
        recorder.end()
        chosen[:, position] = picked
    return int((chosen != (tokens if trace.expected_BN is None else trace.expected_BN)).sum())


def no_mark(_part: str) -> None:
    """The mark of an uninstrumented step."""
