"""Record decode loops that are written by hand: a step goes from one call of a model to its next call.

Any `torch.nn.Module` that is called from somebody's own code counts as a model, unless it trains. Its forward is a part
(with what `detail` shows inside it), and so is each source line of the calling frames that runs between two forwards.
Where several models are called in one loop, `_roles` says which of them separates the steps. Steps with marks and steps
without take turns as in a generate call; nothing is looked for inside generate. The last forward of a run has no next
one, so its step is dropped.
"""

import functools
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import get_ident
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Final, Self

from perstep.measure import RESIDUAL
from perstep.targets.interrupts import uninterrupted
from perstep.targets.loops._lines import At, Lines, open_lines
from perstep.targets.loops._models import Callee, Models, Watched
from perstep.targets.loops._places import Places
from perstep.targets.loops._positions import Kind, Positions, Seen, look
from perstep.targets.loops._roles import Role, Roles
from perstep.targets.transformers import (
    Compilation,
    Compilations,
    Detail,
    Function,
    GraphBreak,
    Loop,
    Marks,
    Schedule,
    Value,
    Wraps,
    anything_compiled,
    line_of,
    wrap_cache,
    wrap_forward_of,
)
from perstep.targets.transformers.words import FORWARD, LOOP

if TYPE_CHECKING:
    from torch.nn import Module

IDLE_S: Final = 2.0
"""A run whose model is not called for so long, while another thread calls one, is over."""

STILL_EVERY: Final = 256
_CALLED_BY_TORCH: Final = ("_compiled_call_impl", "_call_impl")
"""What torch's own `Module.__call__` uses, and nothing else: then the wrapper does it, which saves a Python call of 0.1
to 0.2 µs at each module inside a forward."""


@dataclass
class Finished:
    """A run of a loop that has ended.

    Attributes:
        marks: what took the marks.
        label: of the model whose calls separate the steps, which may be gone: its class, or a function's name; `X#2`
            where another of that name was seen before it.
        path: where it was loaded from, as transformers keeps it; else empty.
        device: where its weights are, as torch spells it.
        dtype: of its weights, likewise.
        site: the line that called it most often, as `folder/file.py:12`.
        steps: whole ones, recorded or not.
        prefills: how many of them are prefills: one a chunk.
        forwards: of the model, the last one left out.
        rows: of the batch; None where the shapes do not tell.
        prompt_tokens: positions of the first forward; None likewise.
        whole: its decode steps took in the whole text again.
        finished: no exception ended it.
        notes: what the reader must know.
        compilations: of `torch.compile` meanwhile.
        breaks: the places where what it compiled fell back to Python.
    """

    marks: Marks | None
    label: str
    path: str
    device: str
    dtype: str
    site: str
    steps: int
    prefills: int
    forwards: int
    rows: int | None
    prompt_tokens: int | None
    whole: bool
    finished: bool
    notes: list[str]
    compilations: list[Compilation]
    breaks: list[GraphBreak]


@dataclass(eq=False)
class _Line:
    """A place that calls the model."""

    site: str
    calls: int = 0


@dataclass(eq=False)
class _Run:
    """The run that is being recorded.

    Attributes:
        codes: ids of the code of its calling frames, that of the module at the bottom left out.
        chained: its calling frames have been looked through.
        lines: the places that called its model.
        opened_by: the place whose call began the open step.
        line: what is known of that place.
        ident: the number of its thread.
        elsewhere: how many forwards there were, and when, as another thread called a model.
    """

    of: Watched
    loop: Loop
    thread: threading.Thread
    ident: int
    positions: Positions
    codes: set[int] = field(default_factory=set)
    chained: bool = False
    lines: dict[tuple[int, int], _Line] = field(default_factory=dict)
    line: _Line = field(default_factory=lambda: _Line("unknown"))
    opened_by: tuple[int, int] | None = None
    prefills: int = 0
    elsewhere: tuple[int, float] = (0, 0.0)
    notes: list[str] = field(default_factory=list)

    def site(self) -> str:
        """The line that called most often; of those that did equally often the first."""
        return max(self.lines.values(), key=lambda line: line.calls).site if self.lines else "unknown"


class HandLoops:
    """A context manager in which loops around any module are recorded, one run at a time.

    Args:
        marks_of: given the device of a model that a loop is about, what takes the marks of its runs.
        begun: told of each run that begins.
        still: told as a run goes on: at forwards 1, 2, 4, 8 and so on, and every 256. Where the last one is over is
            not known before the next run begins.
        done: told of each run that has ended with at least one whole step.
        only: the one model to record; all if None.
        detail: `phases`, `modules` or `layers`.
        every: record one block of four steps in this many.
        count: give a few steps to counting syncs, as in a generate call.
        lines: makes what gives line events, unless a test passes its own.

    Attributes:
        notes: what the reader must know of loops that were not recorded, each said once.
        once: lines that called a model without a next call in the same loop -> the model's name.
        compiled: something was compiled; since then only what was compiled is seen.
    """

    def __init__(
        self,
        marks_of: Callable[[str], Marks],
        begun: Callable[[], None],
        still: Callable[[], None],
        done: Callable[[Finished], None],
        *,
        only: Callee = None,
        detail: Detail = "phases",
        every: int = 1,
        count: bool = False,
        lines: Callable[[At], Lines] = open_lines,
    ) -> None:
        self._marks_of, self._begun, self._still, self._done, self._only = marks_of, begun, still, done, only
        self._detail, self._schedule = detail, Schedule(alternate=True, every=every, count=count)
        self._of_modules, self._active, self._compilations = Wraps(), False, Compilations()
        self._wraps, self._models, self._places, self._roles = Wraps(), Models(), Places(), Roles()
        self._run: _Run | None = None
        self._lines = lines(self._at)
        self._inside: set[int] = set()
        self._owners: weakref.WeakValueDictionary[int, Callee] = weakref.WeakValueDictionary()
        self.notes: list[str] = []
        self.once: dict[str, str] = {}
        self.compiled = False

    @uninterrupted(undo="_leave")
    def __enter__(self) -> Self:
        import torch

        self._active, self.compiled = True, False
        self._inside.clear()  # not where it is left: another thread may be inside a forward
        self._of_modules.function(torch.nn.Module, "__call__", self._gate)
        self._wraps.function(torch, "compile", self._compile)
        return self

    @uninterrupted()
    def __exit__(self, *exception: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._active = False
        self._of_modules.restore()
        self._wraps.restore()
        self._finish()
        self._lines.close()
        self._models.restore()

    def unseen(self) -> AbstractContextManager[None]:
        """A block in which this thread's calls are none of a loop's: generate, whose steps others record."""
        return _Unseen(self)

    # A call of a module

    def _gate(self, original: Function) -> Function:
        inside, this_thread, outermost = self._inside, get_ident, self._outermost

        def call(module: "Module", *args: Value, **kwargs: Value) -> Value:
            if this_thread() in inside:
                return original(module, *args, **kwargs)
            return outermost(original, module, args, kwargs)

        def call_as_torch(module: "Module", *args: Value, **kwargs: Value) -> Value:
            if this_thread() not in inside:
                return outermost(original, module, args, kwargs)
            compiled = module._compiled_call_impl
            return module._call_impl(*args, **kwargs) if compiled is None else compiled(*args, **kwargs)

        names = getattr(getattr(original, "__code__", None), "co_names", None)
        return call_as_torch if names == _CALLED_BY_TORCH else call

    def _compile(self, original: Function) -> Function:
        """From `torch.compile` on the class of all modules is left alone: a compiler would trace what we put there."""

        def compile_seen(model: Callee = None, *args: Value, **kwargs: Value) -> Value:
            self._leave_modules()
            compiled = original(model, *args, **kwargs)
            if model is None or hasattr(compiled, "parameters"):  # a decorator; a module, whose class has a gate
                return compiled
            gate = self._gate(lambda _call, *args, **kwargs: compiled(*args, **kwargs))

            @functools.wraps(compiled)
            def call(*args: Value, **kwargs: Value) -> Value:
                return gate(call, *args, **kwargs) if self._active else compiled(*args, **kwargs)

            return call

        return compile_seen

    def _leave_modules(self) -> None:
        if not self.compiled:
            from torch._dynamo.eval_frame import OptimizedModule

            self.compiled = True
            self._of_modules.restore()
            self._wraps.function(OptimizedModule, "__call__", self._gate)

    def _outermost(
        self, original: Function, module: Callee, args: tuple[Value, ...], kwargs: dict[str, Value]
    ) -> Value:
        if not self._active:  # left, while this thread was on its way here
            return original(module, *args, **kwargs)
        frame, thread, run = sys._getframe(2), get_ident(), self._run
        self._inside.add(thread)
        if run is not None and run.ident != thread:
            run = None
        if run is not None and run.loop.live:  # what perstep does now belongs to no part
            self._lines.stop()
            run.loop.mark(RESIDUAL)
        if run is not None and run.of.model() is module:
            self._roles.again()
            run = self._forward(run, module, frame, args, kwargs)
        else:
            run = self._enter(thread, frame, module, args, kwargs)
        try:
            return original(module, *args, **kwargs)
        except BaseException:
            if run is not None and run is self._run:
                self._finish(finished=False)
            raise
        finally:
            self._inside.discard(thread)
            if run is not None and run is self._run:
                loop = run.loop
                loop.watched, loop.forwarded = thread, True
                if loop.live:
                    self._go_on(run, frame)

    def _enter(
        self, thread: int, frame: FrameType, module: Callee, args: tuple[Value, ...], kwargs: dict[str, Value]
    ) -> _Run | None:
        """What comes before a forward that is not the next one of a run; the run that it is part of."""
        watched, run = self._models.of(module, args), self._take_turn(thread)
        role = self._role(watched, module, frame, run)
        if role is Role.PART:
            if run is not None:
                run.loop.enter(f"{FORWARD}/{watched.label}")
            return run
        if role is Role.BECOMES_MAIN or run is None:
            self._finish()
            run = self._begin(watched, module)
        return self._forward(run, module, frame, args, kwargs)

    def _take_turn(self, thread: int) -> _Run | None:
        """The run of this thread; one of another thread ends where it is over."""
        run = self._run
        if run is None or run.ident == thread:
            return run
        forwards, since = run.elsewhere
        if forwards != run.loop.forwards:
            run.elsewhere = run.loop.forwards, time.monotonic()
        if not run.thread.is_alive() or (forwards == run.loop.forwards and time.monotonic() - since > IDLE_S):
            self._finish()
            return None
        self._note(
            f"While a loop of {run.of.label} was being recorded, another thread called a model too; those calls were"
            " not recorded, and they slow the recorded ones down."
        )
        return None

    def _role(self, watched: Watched, module: Callee, frame: FrameType, run: _Run | None) -> Role:
        if self._run is not None and run is None:
            return Role.PART  # another thread's turn
        if getattr(module, "training", False) and _has_gradients():
            return Role.PART
        if self._only is not None and (self._only is module or self._only is getattr(module, "_orig_mod", None)):
            return Role.BECOMES_MAIN
        chain = self._places.calling(frame)
        if not chain or self._is_inside_forward(chain[0]) or self._only is not None:
            return Role.PART
        here = run is not None and (chain[0].f_code.co_name == "<module>" or not run.codes.isdisjoint(_ids(chain)))
        role = self._roles.of(watched.number, watched.size, here=here)
        return Role.BECOMES_MAIN if run is None else role

    def _is_inside_forward(self, frame: FrameType) -> bool:
        """Whether a frame is the forward of a module, called as `model.forward(...)`; then it is seen from now on."""
        code = frame.f_code
        if code.co_name != "forward" or not code.co_argcount:
            return False
        values = frame.f_locals
        owner = values.get(code.co_varnames[0])
        if not (hasattr(owner, "parameters") and hasattr(owner, "__dict__")):
            return False
        if id(owner) not in self._owners:
            self._owners[id(owner)] = owner
            self._wraps.method(owner, "forward", self._gate)
            watched, names = self._models.of(owner), code.co_varnames[1 : code.co_argcount]
            watched.begun = Positions()
            watched.begun.take(look((), {name: values[name] for name in names if name in values}), None)
        return True

    @uninterrupted()
    def _begin(self, watched: Watched, module: Callee) -> _Run:
        if watched.loop is None:
            watched.marks = self._marks_of(watched.device)
            watched.loop = Loop(watched.marks, self._schedule)
            watched.part = wrap_forward_of(watched.inside, module, watched.loop, self._detail)
        watched.loop.claim()
        watched.loop.countable = not (self.compiled or anything_compiled())
        positions, watched.begun = watched.begun or Positions(), None
        run = self._run = _Run(watched, watched.loop, threading.current_thread(), get_ident(), positions)
        loop = watched.loop
        self._compilations.begin(lambda: loop.steps)
        self._begun()
        return run

    def _forward(
        self, run: _Run, module: Callee, frame: FrameType, args: tuple[Value, ...], kwargs: dict[str, Value]
    ) -> _Run:
        """Begin the step of a forward, and the part that it is. Beside a forward, in cold caches, every call counts."""
        caller, place = frame, (id(frame.f_code), frame.f_lasti)
        if place != run.opened_by:  # from another line, or through somebody's package
            caller = self._places.caller(frame)
            place = id(caller.f_code), caller.f_lasti
        if place == run.opened_by and run.positions.goes_on(args, kwargs):
            run.line.calls += 1
            run.loop.next_step()
        else:
            run = self._begin_step(run, module, caller, place, look(args, kwargs))
        loop = run.loop
        loop.forwards += 1
        if not loop.forwards & (loop.forwards - 1) or not loop.forwards % STILL_EVERY:
            self._still()
        if run.of.part != FORWARD and type(cache := kwargs.get("past_key_values")) not in run.of.caches:
            run.of.caches.add(type(cache))
            if cache is not None and hasattr(cache, "update"):
                wrap_cache(run.of.inside, cache, loop)
        loop.watched = 0
        if loop.live:
            loop.part = run.of.part
            loop.mark(run.of.part)
        return run

    def _begin_step(self, run: _Run, module: Callee, caller: FrameType, place: tuple[int, int], seen: Seen) -> _Run:
        """The step of a forward of which more must be asked; where it begins another text, in a run of its own."""
        kind = run.positions.take(seen, place)
        if kind is Kind.NEW_RUN:
            self._finish()
            run = self._begin(run.of, module)
            kind = run.positions.take(seen, place)
        loop, is_known = run.loop, place in run.lines
        if not loop.forwards:
            loop.begin_call(RESIDUAL)
            if kind is Kind.DECODE:  # of the first forward only the inside was seen
                loop.abandon_call()
                loop.next_step()
        elif kind is Kind.PREFILL or place == run.opened_by or not is_known:
            loop.next_step(prefill=kind is Kind.PREFILL)
        else:  # one step calls the model from several places
            return run
        run.line = run.lines.setdefault(place, _Line("" if is_known else line_of(caller)))
        run.line.calls += 1
        run.opened_by = place
        run.prefills += kind is Kind.PREFILL
        return run

    def _go_on(self, run: _Run, frame: FrameType) -> None:
        """Tell which lines run after a forward, in a step that is looked into."""
        if run.chained and self._lines.knows(frame):
            part = run.loop.part = self._places.part(frame.f_code, frame.f_lineno)
            run.loop.mark(part)
            self._lines.go_on()
            return
        chain = self._places.calling(frame)
        run.chained = True
        if not run.codes:
            run.codes = {id(one.f_code) for one in chain if one.f_code.co_name != "<module>"}
        run.loop.enter(self._places.part(chain[0].f_code, chain[0].f_lineno) if chain else LOOP)
        if not self._lines.start(chain):
            run.loop.enter(LOOP)
            run.notes.append(
                "A debugger, coverage or another tool takes the line events of Python, so what lies between two"
                " forwards is not split by source line."
            )

    def _at(self, code: CodeType | None, line: int) -> None:
        """A line begins or goes on."""
        run = self._run
        if run is not None and run.loop.live:
            part = run.loop.part = self._places.part(code, line)
            run.loop.mark(part)

    @uninterrupted()
    def _finish(self, *, finished: bool = True) -> None:
        """End the run, if there is one; its open step is none."""
        run, self._run = self._run, None
        if run is None:
            return
        self._lines.stop()
        loop = run.loop
        compilations, breaks = self._compilations.end()
        forwards = loop.forwards
        loop.abandon_call()
        loop.end_call()
        steps = loop.calls.pop().steps
        loop.release()
        if not steps:
            self.once.setdefault(run.site(), run.of.label)
            return
        self._done(
            Finished(
                marks=run.of.marks,
                label=run.of.label,
                path=run.of.path,
                device=run.of.device,
                dtype=run.of.dtype,
                site=run.site(),
                steps=steps,
                prefills=min(run.prefills, steps),
                forwards=forwards - 1,
                rows=run.positions.rows,
                prompt_tokens=run.positions.first,
                whole=run.positions.whole,
                finished=finished,
                notes=list(dict.fromkeys(run.notes)),
                compilations=compilations,
                breaks=breaks,
            )
        )

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


class _Unseen:
    """A block in which a thread's calls are not looked at. A generator in its place would take 0.5 µs more."""

    def __init__(self, loops: HandLoops) -> None:
        self._loops = loops
        self._was_inside = False

    def __enter__(self) -> None:
        loops, thread = self._loops, get_ident()
        self._was_inside = thread in loops._inside
        loops._inside.add(thread)
        if loops._run is not None and loops._run.ident == thread:
            loops._lines.stop()

    def __exit__(self, *exception: object) -> None:
        loops, thread = self._loops, get_ident()
        if self._was_inside:
            return
        loops._inside.discard(thread)
        run = loops._run
        if run is not None and run.ident == thread and run.loop.live:
            loops._go_on(run, sys._getframe(1))


def _ids(chain: list[FrameType]) -> set[int]:
    return {id(frame.f_code) for frame in chain}


def _has_gradients() -> bool:
    import torch

    return torch.is_grad_enabled()
