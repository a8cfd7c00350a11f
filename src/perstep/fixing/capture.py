"""The first generate call of each line of a program, kept so that it can be made again.

What a call changes is copied before it: processors, criteria, random generators. The model and the inputs are held,
not copied, and so is what processors only read (tokenizers, other models). A call that cannot be made twice (its
cache was made by the caller) is named and left alone.
"""

import copy
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from perstep.measure import Clock
from perstep.targets.interrupts import uninterrupted
from perstep.targets.transformers import Function, Value, Wraps, line_of, user_frame
from perstep.targets.transformers.protocols import Generated, Model, sequences_of

if TYPE_CHECKING:
    import torch

REMOVED: Final = object()
"""Stands for an argument of generate that is left out."""

Part = Any
"""A processor or criterion, the script's own, transformers' or a drop-in: what else it has, its class says."""

Span = tuple[int, int, int, int]
"""Where an expression stands: first and last line, column in bytes where it begins and where it ends."""

_LISTS = ("logits_processor", "stopping_criteria")
_UNREPEATABLE = ("past_key_values",)
_LEARNED = ("num_assistant_tokens", "assistant_confidence_threshold")
"""What a drafting assistant keeps in its generation config from call to call."""


@dataclass(eq=False)
class Captured:
    """One generate call.

    Attributes:
        site: the line, as `folder/file.py:12`.
        file: the source file; `line` in it.
        span: of the call in the file; None where Python does not keep it.
        pipeline: whether the line calls a text-generation pipeline, which hands its arguments on to generate.
        model: the model.
        arguments: what generate was given, without processors, criteria and streamer.
        lists: its processors and criteria as they were before the call.
        names: what the call's line could see: names of the function and of the module.
        generators: the states of the random generators before it.
        learned: what its drafting assistant had learned before it.
        refused: why it cannot be made again, or empty.
        shared: what of its processors and criteria could not be copied, as `Class.attribute (a type)`; every repeated
            call has the original's.
        streams: it had a streamer, which repeated calls do not have.
        calls: made from this line, this one included.
        result: what it returned.
    """

    site: str
    file: Path
    line: int
    span: Span | None
    pipeline: bool
    model: Model
    arguments: tuple[tuple[Value, ...], dict[str, Value]]
    lists: dict[str, list[Part]]
    names: Mapping[str, object]
    generators: list[Value]
    refused: str
    shared: list[str] = field(default_factory=list)
    learned: dict[str, Value] = field(default_factory=dict)
    streams: bool = False
    calls: int = 1
    result: Generated = None

    @property
    def custom_generate(self) -> object:
        """The decode loop that the call was given, or None."""
        return self.arguments[1].get("custom_generate")

    def ready(self, lists: Mapping[str, list[Part]] | None = None, **changes: Value) -> Callable[[], Generated]:
        """The call, seed for seed, with other processors, criteria or arguments, ready to be made once.

        Copies are made here, so that they are no part of the call's time; what a `Line` makes is made in the call.
        """
        mine, _ = _copied_lists(self.lists)
        for name, parts in (lists or {}).items():
            mine[name] = [part.fresh(mine[name]) if isinstance(part, Original) else part for part in parts]
        args, kwargs = self.arguments
        merged = {**kwargs, **{name: parts for name, parts in mine.items() if parts}, **changes}
        given = {name: value for name, value in merged.items() if value is not REMOVED}
        self._restore_generators()
        for name, value in self.learned.items():
            setattr(kwargs["assistant_model"].generation_config, name, value)

        def made() -> Generated:
            for name in mine:
                if name in given:
                    given[name] = [part.make() if isinstance(part, Line) else part for part in given[name]]
            return self.model.generate(*args, **given)

        return made

    def again(self, lists: Mapping[str, list[Part]] | None = None, **changes: Value) -> "torch.Tensor":
        """Make the call again, seed for seed, with other processors, criteria or arguments, and return its tokens."""
        return sequences_of(self.ready(lists, **changes)())

    def _restore_generators(self) -> None:
        import torch

        python, numpy, host, *devices = self.generators
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - the script's own processors may draw from it
        torch.set_rng_state(host)
        if devices:
            torch.cuda.set_rng_state_all(devices)


@dataclass(frozen=True)
class Original:
    """Stands for the processor or criterion that the call had at a place of its list."""

    index: int

    def fresh(self, parts: list[Part]) -> Part:
        """Its copy for this call."""
        return parts[self.index]


class Line:
    """Stands for a drop-in that is made anew in each call, as the line that is to be written does.

    Attributes:
        taken_ns: what making it has taken so far.

    Args:
        source: the drop-in as it is written.
        names: what the call's line could see.
        clock: times the making.
    """

    def __init__(self, source: str, names: Mapping[str, object], clock: Clock) -> None:
        import transformers

        import perstep

        self._code = compile(source, "<the line to write>", "eval")
        self._names = {**names, "perstep": perstep, "transformers": transformers}
        self._now = clock.now
        self.taken_ns = 0

    def make(self) -> Part:
        """The drop-in, made as the script would make it."""
        begun_ns = self._now()
        part = eval(self._code, self._names)  # noqa: S307 - our own line, among the script's own names
        self.taken_ns += self._now() - begun_ns
        return part


def copied(parts: list[Part]) -> list[Part]:
    """Copies of processors or criteria; what they only read, and what cannot be copied, is shared."""
    return _copies(parts)[0]


def _copied_lists(lists: Mapping[str, list[Part]]) -> tuple[dict[str, list[Part]], list[str]]:
    """Copies of lists of parts, which may share an object, and what of them could not be copied."""
    copies, shared = _copies([part for parts in lists.values() for part in parts])
    rest = iter(copies)
    return {name: [next(rest) for _ in parts] for name, parts in lists.items()}, shared


def _copies(parts: list[Part]) -> tuple[list[Part], list[str]]:
    """Copies of parts, and what of them could not be copied."""
    memo = _shared(parts)
    try:
        return copy.deepcopy(parts, dict(memo)), []
    except Exception:  # somebody's own class: an open file, a lock, a compiled grammar
        pieces = _Pieces(memo)
        return [pieces.copy(part, type(part).__name__) for part in parts], pieces.shared


class _Pieces:
    """Copies of what `deepcopy` refuses as a whole, attribute by attribute.

    So an object that holds a lock, or a grammar compiled by another language, still has state of its own; what
    refuses to be copied by itself is shared. That a call may be repeated with such a copy is for the tokens to say.

    Attributes:
        shared: what is the original's.

    Args:
        memo: what is shared on purpose, as `deepcopy` wants it.
    """

    def __init__(self, memo: dict[int, object]) -> None:
        self._memo = memo
        self.shared: list[str] = []

    def copy(self, value: Part, name: str) -> Part:
        """A copy of a value, which is called `name` if it is shared."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        memo = dict(self._memo)  # of one that fails half-made copies are left in it
        try:
            clone = copy.deepcopy(value, memo)
        except Exception:
            return self._in_pieces(value, name)
        self._memo = memo
        return clone

    def _in_pieces(self, value: Part, name: str) -> Part:
        if type(value) is tuple:
            return tuple(self.copy(one, f"{name}[{index}]") for index, one in enumerate(value))
        try:
            clone = copy.copy(value)
        except Exception:
            clone = value
        if clone is value or not (type(value) in (list, dict) or hasattr(clone, "__dict__")):
            self.shared.append(f"{name} (a {type(value).__name__})")
            self._memo[id(value)] = value
            return value
        self._memo[id(value)] = clone
        if type(value) is list:
            clone[:] = [self.copy(one, f"{name}[{index}]") for index, one in enumerate(value)]
        elif type(value) is dict:
            clone.update({key: self.copy(one, f"{name}[{key!r}]") for key, one in value.items()})
        else:
            vars(clone).update({key: self.copy(one, f"{name}.{key}") for key, one in vars(value).items()})
        return clone


def _shared(parts: list[Part]) -> dict[int, object]:
    """A memo for `deepcopy`: tokenizers (a copy of 131,072 tokens takes a second), models, vocabularies."""
    return {id(value): value for part in parts for value in _held(part) if _is_read_only(value)}


def _held(part: Part) -> Iterator[object]:
    for value in getattr(part, "__dict__", {}).values():
        yield value
        if isinstance(value, (list, tuple)):
            yield from value


def _is_read_only(value: object) -> bool:
    is_tokenizer = hasattr(value, "decode") and (hasattr(value, "get_vocab") or hasattr(value, "encode"))
    return (is_tokenizer and not isinstance(value, (str, bytes))) or hasattr(value, "named_parameters")


@dataclass
class Captures:
    """A context manager that keeps the first generate call of each line, of any transformers model."""

    calls: dict[str, Captured] = field(default_factory=dict)
    _wraps: Wraps = field(default_factory=Wraps)
    _inside: bool = False

    @uninterrupted(undo="_restore")
    def __enter__(self) -> "Captures":
        from transformers import GenerationMixin

        self._wraps.function(GenerationMixin, "generate", self._keep)
        return self

    @uninterrupted()
    def __exit__(self, *_error: object) -> None:
        self._restore()

    def _restore(self) -> None:
        self._wraps.restore()

    def _keep(self, original: Function) -> Function:
        def generate(model: Model, *args: Value, **kwargs: Value) -> object:
            frame, pipeline = _script_frame(sys._getframe(1))
            site = "" if frame is None else line_of(frame)
            if frame is None or self._inside:
                return original(model, *args, **kwargs)
            if site in self.calls:
                self.calls[site].calls += 1
                return original(model, *args, **kwargs)
            try:
                self._inside = True
                call = _before(model, *_by_name(original, args, kwargs), frame, site)
                call.pipeline = pipeline
                call.result = original(model, *args, **kwargs)
                self.calls[site] = call
                return call.result
            finally:
                self._inside = False

        return generate


def _script_frame(frame: FrameType | None) -> tuple[FrameType | None, bool]:
    """The nearest frame, from this one outwards, outside installed packages: of a file that the user may change.

    And whether a text-generation pipeline lies between.
    """
    script, pipeline = user_frame(frame), False
    while frame is not None and frame is not script:
        pipeline = pipeline or type(frame.f_locals.get("self")).__name__ == "TextGenerationPipeline"
        frame = frame.f_back
    return script, pipeline


def _by_name(
    generate: Function, args: tuple[Value, ...], kwargs: dict[str, Value]
) -> tuple[tuple[Value, ...], dict[str, Value]]:
    """The arguments of a call, all but the inputs by their names."""
    names = list(inspect.signature(generate).parameters)[1:]  # without self
    return args[:1], {**dict(zip(names[1:], args[1:], strict=False)), **kwargs}


def _before(model: Model, args: tuple[Value, ...], kwargs: dict[str, Value], frame: FrameType, site: str) -> Captured:
    import torch

    generators: list[Value] = [random.getstate(), np.random.get_state(), torch.get_rng_state()]  # noqa: NPY002
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        generators += torch.cuda.get_rng_state_all()
    rest = {name: value for name, value in kwargs.items() if name not in (*_LISTS, "streamer")}
    lists, shared = _copied_lists({name: list(kwargs.get(name) or []) for name in _LISTS})
    return Captured(
        site=site,
        file=Path(frame.f_code.co_filename),
        line=frame.f_lineno,
        span=_span(frame),
        pipeline=False,
        model=model,
        arguments=(args, rest),
        lists=lists,
        names={**frame.f_globals, **frame.f_locals},
        generators=generators,
        refused=_refused(rest),
        shared=shared,
        learned=_learned(rest.get("assistant_model")),
        streams=kwargs.get("streamer") is not None,
    )


def _learned(assistant: Value) -> dict[str, Value]:
    config = getattr(assistant, "generation_config", None)
    return {name: getattr(config, name) for name in _LEARNED if hasattr(config, name)}


def _refused(given: Mapping[str, object]) -> str:
    """Why a call with these arguments cannot be made again, or empty."""
    unrepeatable = [name for name in _UNREPEATABLE if given.get(name) is not None]
    if unrepeatable:
        return f"its {' and '.join(unrepeatable)} cannot be used a second time"
    loop = given.get("custom_generate")
    if loop is None:
        return ""
    from perstep.fast import Decode

    return "" if isinstance(loop, Decode) else "its custom_generate is an unknown loop"


def _span(frame: FrameType) -> Span | None:
    """Where the call that the frame is in stands in its file."""
    positions = list(frame.f_code.co_positions())
    place = frame.f_lasti // 2  # an instruction has two bytes
    if not 0 <= place < len(positions):
        return None
    line, end_line, column, end_column = positions[place]
    if line is None or end_line is None or column is None or end_column is None:
        return None
    return line, end_line, column, end_column
