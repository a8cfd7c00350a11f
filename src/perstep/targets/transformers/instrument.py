"""Record the steps of unchanged `model.generate(...)` calls, part by part.

Parts add up to the step, and steps without marks show what the marks cost (laws "parts add up" and "the observer is
measured"). Everything is done by wrapping. No code of transformers is copied, and the call and its tokens stay the
same. On exit every wrapper is gone, after an exception too. Where a forward is compiled, only the time outside it is
split into parts, and a note says so.
"""

import inspect
import sys
from functools import partial
from typing import Literal, Self

from perstep.errors import InputError
from perstep.targets.interrupts import uninterrupted
from perstep.targets.transformers import version, words
from perstep.targets.transformers._loop import Call, Loop, Marks
from perstep.targets.transformers._modules import wrap_cache, wrap_functions, wrap_inside, wrap_modules
from perstep.targets.transformers._phases import Around, wrap_forward, wrap_hooks, wrap_loop, wrap_streamer, wrap_update
from perstep.targets.transformers._schedule import Schedule
from perstep.targets.transformers._wrap import Function, Value, Wraps
from perstep.targets.transformers.compilations import Compilations
from perstep.targets.transformers.protocols import Cache, Model

Detail = Literal["phases", "modules", "layers"]
"""How finely a forward is looked into."""

DETAILS: tuple[Detail, ...] = ("phases", "modules", "layers")
"""All of them, the coarsest first."""


class Instrument:
    """A context manager in which the generate calls of one model are recorded.

    A call becomes one step of the kind `prefill`, from the call of generate to the first token, and
    one step of the kind `decode` for each further pass of the loop. Steps of which only the duration
    was taken are of the kinds `prefill.plain` and `decode.plain`. What lies in which part stands in
    `words.BOUNDARIES`. Calls made inside a part (a processor that generates), and a call in another
    thread while one is recorded, run unwatched.

    Examples:
        >>> recorder = Recorder()  # doctest: +SKIP
        >>> with Instrument(model, recorder):  # doctest: +SKIP
        ...     model.generate(**inputs, logits_processor=[mine])
        >>> recorder.steps("decode").parts["logits/Mine"]  # doctest: +SKIP

    It may be entered again, when it goes on where it was. Compile a model before it is entered, not while.

    Args:
        model: a transformers model that generates, a pipeline, or a model compiled by `torch.compile`.
        recorder: takes the marks: a `measure.Recorder`, a `SyncRecorder`, a `DeviceRecorder` ...
        detail: `phases` (about ten marks a step), `modules` (the forward by type of module), or
            `layers` (the same by layer, as in `attn/3`).
        alternate: take only the duration of every other step, without looking inside, so that what the
            marks cost can be seen; blocks of four steps, M P P M (law "the observer is measured").
        every: record one block of decode steps in this many (blocks of one step, or of four with `alternate`).
        plain: take only the duration of every step; then only what tells steps apart is wrapped.
        count: give a few steps to counting syncs, of the kinds `prefill.counted` and `decode.counted`: the fifth
            decode step of a call, and one after 512 more, and where calls are shorter the third call. The
            recorder counts in them; where something is compiled there are none.
        turn: 0 or 1 where every call alternates as the first or as the second one would (`measure.is_marked`).

    Attributes:
        model: the model that was found in what was given.
        notes: what the reader of the ledger must know, each said once.

    Raises:
        InputError: not a transformers model that generates, an unknown detail, or a missing extra.
    """

    def __init__(
        self,
        model: object,
        recorder: Marks,
        detail: Detail = "phases",
        *,
        alternate: bool = False,
        every: int = 1,
        plain: bool = False,
        count: bool = False,
        turn: int | None = None,
    ) -> None:
        version.require()
        if detail not in DETAILS:
            raise InputError(f"unknown detail {detail!r}: choose from {', '.join(DETAILS)}")
        if every < 1:
            raise InputError(f"every is {every}: it must be at least 1 (record every step)")
        self.model = find_model(model)
        self.notes: list[str] = []
        self._detail = detail
        self._loop = Loop(recorder, Schedule(alternate, every, plain, count, turn))
        self._plain, self._count = plain, count
        self._outer = Wraps()
        self._inner = Wraps()
        self._of_call = Wraps()
        self._of_cache = Wraps()
        self._compilations = Compilations()
        self._active = False
        self._looks_inside = self._is_compiled = self._may_call_again = False
        self._this: object = None  # what stands for the call that is being recorded
        for note in version.missing_hooks(self.model):
            self._note(note)

    @property
    def calls(self) -> list[Call]:
        """The generate calls recorded so far, in the order in which they ended."""
        return self._loop.calls

    @uninterrupted(undo="_restore")
    def __enter__(self) -> Self:
        if self._active:
            raise InputError("this Instrument is active already; make a second one to nest them")
        self._loop.reset()
        try:
            around = Around(self._loop, self._of_call, self._leave_to_compiler, self._wrap_cache)
            wrap_loop(self._outer, self.model, around, steps_alone=self._plain)
            self._outer.method(self.model, "generate", lambda generate: partial(self.call, generate))
            self._wrap_inside()
        except BaseException:
            self._restore()
            raise
        self._active = True
        return self

    @uninterrupted()
    def __exit__(self, *exception: object) -> None:
        self._restore()

    @uninterrupted()
    def _restore(self) -> None:
        self._active = False
        for wraps in (self._of_cache, self._of_call, self._inner, self._outer):
            wraps.restore()
        self._loop.unlist()

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def call(self, generate: Function, *args: object, **kwargs: object) -> object:
        """Call `generate(model, ...)` and record it; the Instrument must be entered.

        `model.generate(...)` comes here by itself; this is for who holds the function.
        """
        loop = self._loop
        if not self._active:  # left, with the wrapper of a later Instrument still over this one
            return generate(*args, **kwargs)
        if not (loop.claim() or self._take_over()):
            return self._unwatched(generate, *args, **kwargs)
        this = self._this = object()
        try:
            self._call_begins()
            given = _arguments(generate, args, kwargs)
            self._may_call_again = given.get("custom_generate") is not None
            if given.get("streamer") is not None and not self._plain:
                wrap_streamer(self._of_call, given["streamer"], loop)
            if given.get("custom_generate") is not None:
                wrap_update(self._of_call, self.model, loop)
            loop.countable = self._countable()
            self._compilations.begin(lambda: loop.steps)
            loop.begin_call()
            result = generate(*args, **kwargs)
            if self._this is this:
                self._note_way(given.get("custom_generate"))
                self._end_call(result)
            return result
        except BaseException:
            if self._this is this:
                loop.abandon_call()
            raise
        finally:
            if self._this is this:
                self._leave_call()

    def _take_over(self) -> bool:
        """Whether a call made by a `custom_generate` is recorded in the place of the one that it was given to."""
        loop = self._loop
        if not self._may_call_again or loop.forwards or loop.outside():
            return False
        self._note("custom_generate called generate again: its calls are recorded, not what it does around them")
        loop.abandon_call()
        self._forget_call()
        loop.release()
        return loop.claim()

    def _call_begins(self) -> None:
        """Told when a call is about to be recorded."""

    def _call_ends(self) -> None:
        """Told when it has been recorded, or an exception has left it."""

    @uninterrupted()
    def _leave_call(self) -> None:
        self._forget_call()
        try:
            self._call_ends()
        finally:
            self._loop.release()

    @uninterrupted()
    def _forget_call(self) -> None:
        self._this, self._may_call_again = None, False
        self._compilations.end()
        self._of_cache.restore()
        self._of_call.restore()
        if self._loop.compiled and self._active:
            self._wrap_inside()

    def _end_call(self, result: object) -> None:
        if not self._active:
            self._note("the Instrument was removed while a call in another thread was running: that call is incomplete")
            self._loop.abandon_call()
            return
        call = self._loop.call
        _count_output(call, result)
        call.forwards = self._loop.forwards
        call.compilations, call.breaks = self._compilations.end()
        if not call.forwards:
            self._note("no forward of a generate call was observed: it has no steps")
        self._loop.end_call()

    def _note_way(self, decode: Value) -> None:
        """How `fast.decode` did the call: a replayed graph has no parts, and marks must not change the way."""
        last = getattr(decode, "last", None)
        self._loop.call.other_way = getattr(last, "other_way", "")
        if getattr(last, "replayed", False):
            self._note(
                "decode steps were replayed CUDA graphs: `forward` is the host's time for the whole step, with the "
                "processors and the choice; its inside comes from the kernels of the graph"
            )

    def _unwatched(self, generate: Function, *args: object, **kwargs: object) -> object:
        loop = self._loop
        if loop.outside():
            if loop.elsewhere():
                self._note("a generate call in another thread was not recorded, because one was being recorded")
            return generate(*args, **kwargs)
        before, watched, live = loop.part, loop.watched, loop.live
        loop.watched = loop.live = 0
        try:
            return generate(*args, **kwargs)
        finally:
            loop.watched, loop.live = watched, live
            loop.enter(before)

    def _wrap_inside(self) -> None:
        """Wrap the forward and, by the level of detail, what is inside it."""
        inner, model, loop = self._inner, self.model, self._loop
        compiled = _compiled(model)
        self._is_compiled = bool(compiled)
        self._looks_inside = self._detail != "phases" and not compiled and not self._plain
        if compiled:
            self._note(f"{compiled} is compiled: its forward is timed only as a whole")
            attribute = "forward" if model._compiled_call_impl is None else "_compiled_call_impl"
            wrap_forward(inner, model, loop, words.FORWARD, attribute)
            return
        if not self._plain:
            wrap_hooks(inner, model, loop)
        if not self._looks_inside:
            wrap_forward(inner, model, loop, words.FORWARD)
        else:
            wrap_forward(inner, model, loop, words.FORWARD_OTHER)
            wrap_modules(inner, model, loop, layers=self._detail == "layers")
            wrap_functions(inner, model, loop)

    def _countable(self) -> bool:
        """Whether syncs can be counted: the modes that see them would make a compiler compile again."""
        if not self._count:
            return False
        if self._is_compiled or _compiled(self.model) or anything_compiled():
            self._note("something in this process is compiled, so syncs were not counted: that would compile it again")
            return False
        return True

    def _wrap_cache(self, cache: Cache) -> None:
        if self._looks_inside:
            wrap_cache(self._of_cache, cache, self._loop)

    @uninterrupted()
    def _leave_to_compiler(self) -> None:
        """Take away, for this call, everything that a compiler would trace."""
        self._loop.compiled = True
        wrap_update(self._of_call, self.model, self._loop)
        self._inner.restore()
        self._of_cache.restore()
        self._note(
            "transformers compiled the forward by itself (static cache): only what lies outside the compiled call is "
            "timed"
        )


def find_model(given: object) -> Model:
    """The model that generates in what was given: itself, a pipeline's, a compiled or an adapted model's.

    Raises:
        InputError: there is none.
    """
    from transformers import GenerationMixin

    model: Value = given
    for attribute in ("model", "_orig_mod"):  # of a pipeline; of what torch.compile gives
        if not isinstance(model, GenerationMixin):
            inside = getattr(model, attribute, None)
            model = inside if isinstance(inside, GenerationMixin) else model
    if not isinstance(model, GenerationMixin) and hasattr(model, "get_base_model"):  # of an adapter library
        model = model.get_base_model()
    if not isinstance(model, GenerationMixin):
        raise InputError(
            f"{type(given).__name__} is not a transformers model that generates: give one with a language-model head, "
            "such as AutoModelForCausalLM loads"
        )
    generating: Model = model
    return generating


def _compiled(model: Model) -> str:
    """What of the model is compiled, or the empty string."""
    if model._compiled_call_impl is not None or hasattr(model.forward, "_torchdynamo_orig_callable"):
        return "the model"
    names = (
        str(name)
        for name, module in model.named_modules()
        if module._compiled_call_impl is not None or hasattr(module.forward, "_torchdynamo_orig_callable")
    )
    return next(names, "")


def wrap_forward_of(wraps: Wraps, model: Value, loop: Loop, detail: Detail) -> str:
    """Wrap what is inside the forward of a module that a loop calls.

    Args:
        wraps: takes the wrappers.
        model: any module, or a function that holds one.
        loop: the state of its runs.
        detail: how finely.

    Returns:
        The part that the rest of the forward is.
    """
    if detail == "phases" or not hasattr(model, "named_modules") or _compiled(model):
        return words.FORWARD
    wrap_inside(wraps, model, loop, layers=detail == "layers")
    return words.FORWARD_OTHER


def anything_compiled() -> bool:
    """Whether `torch.compile` has compiled anything in this process so far."""
    utils = sys.modules.get("torch._dynamo.utils")
    return utils is not None and bool(utils.counters["stats"]["unique_graphs"])


def _arguments(generate: Function, args: tuple[Value, ...], kwargs: dict[str, Value]) -> dict[str, Value]:
    """The arguments of a generate call by name."""
    try:
        return inspect.signature(generate).bind_partial(*args, **kwargs).arguments
    except TypeError:  # wrong arguments: generate says so itself
        return {}


def _count_output(call: Call, result: object) -> None:
    """Fill in what the output of a generate call tells."""
    sequences = getattr(result, "sequences", result)
    shape: tuple[int, ...] = getattr(sequences, "shape", ())
    if len(shape) == 2:
        call.rows = int(shape[0])
        if call.prompt_tokens is not None:
            call.new_tokens = int(shape[1]) - call.prompt_tokens
