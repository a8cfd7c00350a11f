"""Record continuous batching: `generate_batch`, and a `ContinuousBatchingManager` that a program runs itself.

A step is one iteration of the scheduler that has a batch. It runs in the manager's own thread, and so does everything
here but the end of a watch. Two methods are wrapped in the manager's class; what marks parts is wrapped in the objects
of a manager, from its first iteration on. A manager that is never stopped is let go when the watch is left.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import get_ident
from types import FrameType
from typing import Final, Protocol, Self

from perstep.measure import RESIDUAL
from perstep.targets.interrupts import uninterrupted
from perstep.targets.transformers import words
from perstep.targets.transformers._lists import part_names
from perstep.targets.transformers._loop import Loop, Marks
from perstep.targets.transformers._modules import wrap_cache
from perstep.targets.transformers._phases import opaque, timed, wrap_forward, wrap_hooks
from perstep.targets.transformers._schedule import Schedule
from perstep.targets.transformers._wrap import Function, Value, Wraps
from perstep.targets.transformers.instrument import Detail, wrap_forward_of
from perstep.targets.transformers.protocols import Model

LONGEST_S: Final = 5.0
"""How long the end of a watch waits for an iteration that has begun."""
STILL_EVERY: Final = 64
_BODY: Final = "_generation_loop_body"


@dataclass(frozen=True)
class Batch:
    """What one iteration works on.

    Attributes:
        rows: requests.
        tokens: positions that the forward takes in, over all requests.
        new_tokens: that come out: a request whose prompt is not through gives none.
        prompts: requests that have no token of their own yet; without one the iteration is a decode step.
    """

    rows: int
    tokens: int
    new_tokens: int
    prompts: int


@dataclass
class Batched:
    """What a manager did, from its first recorded iteration to its end or that of the watch.

    Attributes:
        model: whose.
        site: the line that started its thread.
        steps: whole iterations, recorded or not.
        prefills: how many of them had a prompt in the batch.
        new_tokens: of all of them.
        batches: of the recorded ones, in their order.
        finished: no exception ended it.
        notes: what the reader must know.
    """

    model: Model
    site: str
    steps: int = 0
    prefills: int = 0
    new_tokens: int = 0
    batches: list[Batch] = field(default_factory=list)
    finished: bool = True
    notes: list[str] = field(default_factory=list)


class Keeper(Protocol):
    """Takes the steps of one run."""

    @property
    def marks(self) -> Marks:
        """What takes the marks."""
        ...

    def still(self) -> None:
        """Told between iterations that the run goes on; in its thread."""
        ...

    def done(self, run: Batched) -> None:
        """Told that it has ended; in any thread."""
        ...


class EveryBatching:
    """A context manager in which what continuous batching does is recorded, manager by manager.

    Args:
        keeper_of: given a model, what takes the steps of a run.
        site: given a frame, the line of the program that stands behind it.
        only: the one model to record; all if None.
        detail: `phases`, `modules` or `layers`.
        every: record one block of four iterations in this many.
        unseen: makes a block around each iteration.

    Attributes:
        notes: what the reader must know of managers that were not recorded.
    """

    def __init__(
        self,
        keeper_of: Callable[[Model], Keeper],
        site: Callable[[FrameType | None], str],
        *,
        only: object = None,
        detail: Detail = "phases",
        every: int = 1,
        unseen: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._keeper_of, self._site, self._only, self._detail = keeper_of, site, only, detail
        self._schedule, self._unseen = Schedule(alternate=True, every=every), unseen
        self._wraps = Wraps()
        self._runs: dict[int, _Run] = {}  # by the thread of the manager
        self.notes: list[str] = []

    @uninterrupted(undo="_leave")
    def __enter__(self) -> Self:
        try:
            from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
        except ImportError:  # a version without it
            return self
        self._wraps.function(ContinuousBatchingManager, "_run_generation_loop", self._loop)
        if hasattr(ContinuousBatchingManager, _BODY):
            self._wraps.function(ContinuousBatchingManager, _BODY, self._body)
        return self

    @uninterrupted()
    def __exit__(self, *exception: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._wraps.restore()
        for thread in list(self._runs):
            self._finish(thread, "The watch was left while the manager was running.")

    def _loop(self, original: Function) -> Function:
        def _run_generation_loop(manager: Value, *args: Value, **kwargs: Value) -> Value:
            if not hasattr(manager, _BODY):
                self.notes.append("Continuous batching of this version of transformers is not known: not recorded.")
            try:
                return original(manager, *args, **kwargs)
            finally:
                self._finish(get_ident())

        return _run_generation_loop

    def _body(self, original: Function) -> Function:
        def _generation_loop_body(manager: Value, processor: Value, *args: Value, **kwargs: Value) -> Value:
            run = self._run_of(manager, processor)
            with self._unseen():
                if run is None or not run.begin():
                    return original(manager, processor, *args, **kwargs)
                failed = True
                try:
                    result = original(manager, processor, *args, **kwargs)
                    failed = False
                    return result
                finally:
                    run.end(failed=failed)

        return _generation_loop_body

    def _run_of(self, manager: Value, processor: Value) -> "_Run | None":
        """The run that an iteration belongs to; its first one begins it."""
        if self._only is not None and manager.model is not self._only:
            return None
        run = self._runs.get(get_ident())
        if run is None or run.processor is not processor:
            self._finish(get_ident())
            ended = Batched(manager.model, self._site(sys._getframe(2)))
            run = self._runs[get_ident()] = _Run(ended, self._keeper_of(manager.model), processor, self._schedule)
            run.wrap(manager, self._detail)
        return run

    @uninterrupted()
    def _finish(self, thread: int, note: str = "") -> None:
        run = self._runs.pop(thread, None)
        if run is not None:
            run.close(note)


class _Run:
    """The iterations of one manager.

    The lock is held while one is going on, so that the end of a watch, which comes in another thread, finds whole ones.
    """

    def __init__(self, ended: Batched, keeper: Keeper, processor: Value, schedule: Schedule) -> None:
        self.processor, self.batch = processor, Batch(0, 0, 0, 0)
        self.loop = Loop(keeper.marks, schedule)
        self._ended, self._keeper = ended, keeper
        self._wraps, self._lock, self._closed = Wraps(), threading.Lock(), False
        self.loop.claim()
        self.loop.begin_call(RESIDUAL)
        self.loop.abandon_call()

    def wrap(self, manager: Value, detail: Detail) -> None:
        """Wrap what an iteration calls."""
        loop, wraps, processor, model = self.loop, self._wraps, self.processor, manager.model
        of_tensors, runner = processor.inputs_and_outputs, processor.model_runner
        for owner, name, part in (
            (processor, "prepare_next_batch", words.SCHEDULE),
            (processor, "_generation_step", words.INPUTS),
            (of_tensors, "retrieve_device_outputs", words.SYNC),
            (processor, "update_batch", words.UPDATE),
        ):
            wraps.method(owner, name, timed(loop, part))
        wraps.method(of_tensors, "prepare_batch_tensors", self._prepare)
        wraps.method(manager.background_thread_status, "pause_and_wait", self._pause)
        if runner.pad_inputs:
            wraps.method(runner, "compute_batch", opaque(loop, words.FORWARD))
            self._ended.notes.append(
                "The forward is compiled or a CUDA graph: `forward` holds the processors and the choice too."
            )
            return
        wraps.method(runner, "_sample", timed(loop, words.SAMPLE))
        wraps.value(runner.logit_processor, "logits_processor", _walked(runner.logit_processor.logits_processor, loop))
        part = wrap_forward_of(wraps, model, loop, detail)
        wrap_forward(wraps, model, loop, part)
        wrap_hooks(wraps, model, loop)
        if part != words.FORWARD:
            wrap_cache(wraps, processor.cache, loop)

    def begin(self) -> bool:
        """Begin an iteration; False where the watch has been left."""
        self._lock.acquire()
        if self._closed:
            self._lock.release()
            return False
        loop, self.batch = self.loop, Batch(0, 0, 0, 0)
        loop.watched, loop.guided = get_ident(), True
        loop.next_step()
        return True

    def end(self, *, failed: bool) -> None:
        """End it; one that broke off, or found nothing to do, is no step."""
        loop, batch, ended = self.loop, self.batch, self._ended
        if failed or not batch.rows:
            loop.abandon_call()
        elif loop.stepping:  # it was not interrupted by a pause
            recorded, loop.forwarded = loop.is_timed, True
            loop.turn(False)
            ended.steps += 1
            ended.prefills += batch.prompts > 0
            ended.new_tokens += batch.new_tokens
            if recorded:
                ended.batches.append(batch)
            if not ended.steps & (ended.steps - 1) or not ended.steps % STILL_EVERY:
                self._keeper.still()
        ended.finished &= not failed
        loop.watched = 0
        self._lock.release()

    def close(self, note: str) -> None:
        """End the run: the open iteration is no step."""
        waited = self._lock.acquire(timeout=LONGEST_S)
        self._closed = True
        self.loop.abandon_call()
        self._wraps.restore()
        self.loop.end_call()
        self.loop.release()
        if note:
            self._ended.notes.append(note)
        self._keeper.done(self._ended)
        if waited:
            self._lock.release()

    def _prepare(self, original: Function) -> Function:
        prepare = timed(self.loop, words.INPUTS)(original)

        def prepare_batch_tensors(
            tensors: Value, requests_in_batch: Sequence[Value], *args: Value, **kwargs: Value
        ) -> Value:
            if self.loop.watched == get_ident():
                self.batch = batch_of(requests_in_batch)
            return prepare(tensors, requests_in_batch, *args, **kwargs)

        return prepare_batch_tensors

    def _pause(self, original: Function) -> Function:
        def pause_and_wait(status: Value) -> Value:
            """An iteration in which the program paused the loop is no step, and a watch may end meanwhile."""
            self.loop.abandon_call()
            self.loop.watched = 0
            self._lock.release()
            try:
                return original(status)
            finally:
                self._lock.acquire()

        return pause_and_wait


def batch_of(requests: Sequence[Value]) -> Batch:
    """What a scheduled batch holds."""
    return Batch(
        rows=len(requests),
        tokens=sum(request.query_length for request in requests),
        new_tokens=sum(request.has_new_token for request in requests),
        prompts=sum(_in_prompt(request.state) for request in requests),
    )


def _in_prompt(state: Value) -> bool:
    """Whether a request has no token of its own; asynchronous batching schedules the second before it has the first."""
    from transformers.generation.continuous_batching.requests import TMP_TOKEN_ID

    return not state.generated_tokens and state.tokens_to_process[:1] != [TMP_TOKEN_ID]


def _walked(processors: list[object], loop: Loop) -> list[object]:
    """The list of processors, of a class whose iteration after a forward makes each a part."""
    base, names = type(processors), part_names(words.LOGITS, processors)

    class Walked(base):  # type: ignore[misc, valid-type]
        """The list as it was, which also tells to which element it turns."""

        def __iter__(self) -> Iterator[object]:
            elements = base.__iter__(self)
            if loop.live != get_ident() or loop.part != words.BOOKKEEPING:  # it is looked through, not applied
                return elements
            return _turn_to_each(elements, names, loop)

    return Walked(processors)


def _turn_to_each(elements: Iterator[object], names: Sequence[str], loop: Loop) -> Iterator[object]:
    watched, live = loop.watched, loop.live
    try:
        for name, element in zip(names, elements, strict=True):
            loop.mark(name)
            loop.watched = loop.live = 0  # nothing that happens in an element is looked at
            yield element
            loop.watched, loop.live = watched, live
    finally:
        loop.watched, loop.live = watched, live
        loop.enter(words.BOOKKEEPING)
