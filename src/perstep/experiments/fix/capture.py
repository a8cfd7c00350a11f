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
from typing import Any

import numpy as np

from perstep.targets.transformers._wrap import Wraps

REMOVED: Any = object()
"""Stands for an argument of generate that is left out."""

Span = tuple[int, int, int, int]
"""Where an expression stands: first and last line, column in bytes where it begins and where it ends."""

_OURS = ("transformers", "torch", "perstep")
_LISTS = ("logits_processor", "stopping_criteria")
_UNREPEATABLE = ("past_key_values", "assistant_model")


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
        refused: why it cannot be made again, or empty.
        calls: made from this line, this one included.
        result: what it returned.
    """

    site: str
    file: Path
    line: int
    span: Span | None
    pipeline: bool
    model: Any
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    lists: dict[str, list[Any]]
    names: Mapping[str, Any]
    generators: list[Any]
    refused: str
    calls: int = 1
    result: Any = None

    @property
    def custom_generate(self) -> Any:
        """The decode loop that the call was given, or None."""
        return self.arguments[1].get("custom_generate")

    def ready(self, lists: Mapping[str, list[Any]] | None = None, **changes: Any) -> Callable[[], Any]:
        """The call, seed for seed, with other processors, criteria or arguments, ready to be made once.

        Copies are made here, so that they are no part of the call's time.
        """
        mine = {name: copied(parts) for name, parts in self.lists.items()}
        for name, parts in (lists or {}).items():
            mine[name] = [part.fresh(mine[name]) if isinstance(part, Original) else part for part in parts]
        args, kwargs = self.arguments
        merged = {**kwargs, **{name: parts for name, parts in mine.items() if parts}, **changes}
        given = {name: value for name, value in merged.items() if value is not REMOVED}
        self._restore_generators()
        return lambda: self.model.generate(*args, **given)

    def again(self, lists: Mapping[str, list[Any]] | None = None, **changes: Any) -> Any:
        """Make the call again, seed for seed, with other processors, criteria or arguments, and return its tokens."""
        return tokens_of(self.ready(lists, **changes)())

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

    def fresh(self, parts: list[Any]) -> Any:
        """Its copy for this call."""
        return parts[self.index]


def tokens_of(result: Any) -> Any:
    """The tokens in what generate returned."""
    return getattr(result, "sequences", result)


def copied(parts: list[Any]) -> list[Any]:
    """Copies of processors or criteria; what they only read is shared, and one that cannot be copied is itself."""
    try:
        return copy.deepcopy(parts, _shared(parts))
    except Exception:  # somebody's own class: an open file, a lock
        return [_copied_alone(part) for part in parts]


def _copied_alone(part: Any) -> Any:
    try:
        return copy.deepcopy(part, _shared([part]))
    except Exception:
        return part


def _shared(parts: list[Any]) -> dict[int, Any]:
    """A memo for `deepcopy`: tokenizers (a copy of 131,072 tokens takes a second), models, vocabularies."""
    return {id(value): value for part in parts for value in _held(part) if _is_read_only(value)}


def _held(part: Any) -> Iterator[Any]:
    for value in getattr(part, "__dict__", {}).values():
        yield value
        if isinstance(value, (list, tuple)):
            yield from value


def _is_read_only(value: Any) -> bool:
    is_tokenizer = hasattr(value, "decode") and (hasattr(value, "get_vocab") or hasattr(value, "encode"))
    return (is_tokenizer and not isinstance(value, (str, bytes))) or hasattr(value, "named_parameters")


@dataclass
class Captures:
    """A context manager that keeps the first generate call of each line, of any transformers model."""

    calls: dict[str, Captured] = field(default_factory=dict)
    _wraps: Wraps = field(default_factory=Wraps)
    _inside: bool = False

    def __enter__(self) -> "Captures":
        from transformers import GenerationMixin

        self._wraps.function(GenerationMixin, "generate", self._keep)
        return self

    def __exit__(self, *_error: object) -> None:
        self._wraps.restore()

    def _keep(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def generate(model: Any, *args: Any, **kwargs: Any) -> Any:
            frame, pipeline = _script_frame(sys._getframe(1))
            site = "" if frame is None else f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno}"
            if frame is None or self._inside:
                return original(model, *args, **kwargs)
            if site in self.calls:
                self.calls[site].calls += 1
                return original(model, *args, **kwargs)
            self._inside = True
            try:
                call = _before(model, *_by_name(original, args, kwargs), frame, site)
                call.pipeline = pipeline
                call.result = original(model, *args, **kwargs)
                self.calls[site] = call
                return call.result
            finally:
                self._inside = False

        return generate


def _script_frame(frame: FrameType | None) -> tuple[FrameType | None, bool]:
    """The nearest frame, from this one outwards, that is neither ours nor torch's nor transformers'.

    And whether a text-generation pipeline lies between.
    """
    pipeline = False
    while frame is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] in _OURS:
        pipeline = pipeline or type(frame.f_locals.get("self")).__name__ == "TextGenerationPipeline"
        frame = frame.f_back
    return frame, pipeline


def _by_name(
    generate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, all but the inputs by their names."""
    names = list(inspect.signature(generate).parameters)[1:]  # without self
    return args[:1], {**dict(zip(names[1:], args[1:], strict=False)), **kwargs}


def _before(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType, site: str) -> Captured:
    import torch

    generators: list[Any] = [random.getstate(), np.random.get_state(), torch.get_rng_state()]  # noqa: NPY002
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        generators += torch.cuda.get_rng_state_all()
    rest = {name: value for name, value in kwargs.items() if name not in (*_LISTS, "streamer")}
    return Captured(
        site=site,
        file=Path(frame.f_code.co_filename),
        line=frame.f_lineno,
        span=_span(frame),
        pipeline=False,
        model=model,
        arguments=(args, rest),
        lists={name: copied(list(kwargs.get(name) or [])) for name in _LISTS},
        names={**frame.f_globals, **frame.f_locals},
        generators=generators,
        refused=_refused(rest),
    )


def _refused(given: Mapping[str, Any]) -> str:
    """Why a call with these arguments cannot be made again, or empty."""
    held = [name for name in _UNREPEATABLE if given.get(name) is not None]
    if held:
        return f"its {' and '.join(held)} cannot be used a second time"
    loop = given.get("custom_generate")
    if loop is None:
        return ""
    from perstep.fast import Decode

    return "" if isinstance(loop, Decode) else "its custom_generate is a loop of its own, of which nothing is known"


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
