"""Replay: every arm is fed the trace, what it would have chosen is compared, the first work is not recorded."""

import numpy as np
import pytest
from numpy.typing import NDArray

from perstep.measure import FakeClock, Mark, Recorder, Trace, no_mark, record_trace, replay

Ids = NDArray[np.int64]


class CountingLoop:
    """A loop that adds up what it was fed and chooses the sum modulo 1000; it remembers every call."""

    def __init__(self, batch: int = 1, offset: int = 0) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self._sum = np.zeros(batch, np.int64)
        self._offset = offset

    def reset(self) -> None:
        """Forget the context."""
        self.calls.append(("reset", []))
        self._sum[:] = 0

    def prefill(self, ids_BT: Ids, mark: Mark) -> Ids:
        """A step over a prompt."""
        mark("embed")
        self.calls.append(("prefill", ids_BT[0].tolist()))
        self._sum += ids_BT.sum(axis=1)
        return (self._sum + self._offset) % 1000

    def decode(self, ids_B: Ids, mark: Mark) -> Ids:
        """A step from one token to the next."""
        mark("embed")
        self.calls.append(("decode", ids_B.tolist()))
        self._sum += ids_B
        return (self._sum + self._offset) % 1000


PROMPT = np.array([[1, 2, 3]])


def test_a_trace_holds_what_was_generated_freely() -> None:
    """N new tokens are one prefill and N - 1 decode steps, each fed the token before it."""
    loop = CountingLoop()
    trace = record_trace(loop, PROMPT, 4)
    assert trace.chosen_BN.tolist() == [[6, 12, 24, 48]]
    assert loop.calls == [("reset", []), ("prefill", [1, 2, 3]), ("decode", [6]), ("decode", [12]), ("decode", [24])]


def test_a_trace_keeps_the_rows_of_a_batch_apart() -> None:
    """The shapes are [B, T] and [B, N]."""
    trace = record_trace(CountingLoop(batch=2), np.array([[1, 2], [3, 4]]), 3)
    assert trace.chosen_BN.tolist() == [[3, 6, 12], [7, 14, 28]]


@pytest.mark.parametrize("marked", [True, False])
def test_an_arm_is_fed_the_trace_whatever_it_chooses(marked: bool) -> None:
    """An arm that would choose other tokens does the same work, and each difference is counted."""
    trace = record_trace(CountingLoop(), PROMPT, 4)
    same, other, recorder = CountingLoop(), CountingLoop(offset=1), Recorder(FakeClock())
    assert replay(same, trace, recorder, recorder.mark if marked else no_mark) == 0
    assert replay(other, trace, recorder, recorder.mark if marked else no_mark) == 4
    assert same.calls == other.calls
    fed = [ids for what, ids in same.calls if what == "decode"]
    assert fed[1:] == [[6], [12], [24]]


def test_single_differing_choices_are_counted() -> None:
    """Row by row and position by position."""
    trace = record_trace(CountingLoop(batch=2), np.array([[1, 2], [3, 4]]), 3)
    changed = Trace(trace.prompt_BT, trace.chosen_BN.copy())
    changed.chosen_BN[1, 2] += 1  # the last token is never fed, so nothing after it changes
    recorder = Recorder(FakeClock())
    assert replay(CountingLoop(batch=2), changed, recorder, recorder.mark) == 1


def test_the_first_prefill_and_decode_step_are_not_recorded() -> None:
    """They run in the caches of the arm before; then the context is forgotten and the recorded pass begins."""
    trace = record_trace(CountingLoop(), PROMPT, 3)
    loop, recorder = CountingLoop(), Recorder(FakeClock(tick_ns=1))
    replay(loop, trace, recorder, recorder.mark)
    assert [what for what, _ in loop.calls] == ["reset", "prefill", "decode", "reset", "prefill", "decode", "decode"]
    assert recorder.kinds == ["prefill", "decode"]
    assert len(recorder.steps("prefill").step_ns) == 1
    assert len(recorder.steps("decode").step_ns) == 2


def test_a_trace_of_one_token_has_no_decode_step_at_all() -> None:
    """Not even an unrecorded one, for which a full context would have no room."""
    trace = record_trace(CountingLoop(), PROMPT, 1)
    loop, recorder = CountingLoop(), Recorder(FakeClock(tick_ns=1))
    assert replay(loop, trace, recorder, recorder.mark) == 0
    assert [what for what, _ in loop.calls] == ["reset", "prefill", "reset", "prefill"]
    assert recorder.kinds == ["prefill"]


def test_a_trace_of_two_tokens_warms_its_one_decode_step() -> None:
    """The shortest trace that has one."""
    trace = record_trace(CountingLoop(), PROMPT, 2)
    loop, recorder = CountingLoop(), Recorder(FakeClock(tick_ns=1))
    assert replay(loop, trace, recorder, recorder.mark) == 0
    assert [what for what, _ in loop.calls] == ["reset", "prefill", "decode", "reset", "prefill", "decode"]


def test_an_unmarked_replay_records_steps_without_parts() -> None:
    """The loop gets a mark that does nothing."""
    trace = record_trace(CountingLoop(), PROMPT, 3)
    recorder = Recorder(FakeClock(tick_ns=1))
    replay(CountingLoop(), trace, recorder, no_mark)
    steps = recorder.steps("decode")
    assert steps.parts == {}
    assert steps.step_ns.tolist() == steps.residual_ns.tolist() == [1, 1]
    no_mark("anything")
