"""The first generate call of each line of a script, kept so that it can be made again.

What a call changes is copied before it: processors, criteria, torch's generators. The model and the inputs are held,
not copied. A call that cannot be made twice (its cache was made by the caller) is named and left alone.
"""

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from perstep.targets.transformers._wrap import Wraps

REMOVED: Any = object()
"""Stands for an argument of generate that is left out."""

_OURS = ("transformers", "torch", "perstep")
_LISTS = ("logits_processor", "stopping_criteria")
_UNREPEATABLE = ("past_key_values", "assistant_model", "custom_generate")


@dataclass(eq=False)
class Captured:
    """One generate call.

    Attributes:
        site: the line, as `folder/file.py:12`.
        file: the source file; `line` in it.
        model: the model.
        arguments: what generate was given, without processors, criteria and streamer.
        lists: its processors and criteria as they were before the call.
        names: what the call's line could see: names of the function and of the module.
        generators: the states of torch's random generators before it.
        refused: why it cannot be made again, or empty.
        result: what it returned.
    """

    site: str
    file: Path
    line: int
    model: Any
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    lists: dict[str, list[Any]]
    names: Mapping[str, Any]
    generators: list[Any]
    refused: str
    result: Any = None

    def again(self, lists: Mapping[str, list[Any]] | None = None, **changes: Any) -> Any:
        """Make the call again, seed for seed, with other processors or criteria, and return its tokens.

        The lists of the original call are copied every time, used or not, so that all calls bear the same cost.
        """
        mine = {name: copied(parts) for name, parts in self.lists.items()}
        for name, parts in (lists or {}).items():
            mine[name] = [part.fresh(mine[name]) if isinstance(part, Original) else part for part in parts]
        args, kwargs = self.arguments
        given = {**kwargs, **{name: parts for name, parts in mine.items() if parts}, **changes}
        self._restore_generators()
        result = self.model.generate(*args, **{name: value for name, value in given.items() if value is not REMOVED})
        return getattr(result, "sequences", result)

    def _restore_generators(self) -> None:
        import torch

        torch.set_rng_state(self.generators[0])
        if len(self.generators) > 1:
            torch.cuda.set_rng_state_all(self.generators[1:])


@dataclass(frozen=True)
class Original:
    """Stands for the processor or criterion that the call had at a place of its list."""

    index: int

    def fresh(self, parts: list[Any]) -> Any:
        """Its copy for this call."""
        return parts[self.index]


def copied(parts: list[Any]) -> list[Any]:
    """Copies of processors or criteria; one that cannot be copied is itself."""
    try:
        return copy.deepcopy(parts)
    except Exception:  # somebody's own class: an open file, a lock
        return [_copied_alone(part) for part in parts]


def _copied_alone(part: Any) -> Any:
    try:
        return copy.deepcopy(part)
    except Exception:
        return part


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
            frame = _script_frame(sys._getframe(1))
            site = "" if frame is None else f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno}"
            if frame is None or self._inside or site in self.calls:
                return original(model, *args, **kwargs)
            self._inside = True
            try:
                call = _before(model, args, kwargs, frame, site)
                call.result = original(model, *args, **kwargs)
                self.calls[site] = call
                return call.result
            finally:
                self._inside = False

        return generate


def _script_frame(frame: FrameType | None) -> FrameType | None:
    """The nearest frame, from this one outwards, that is neither ours nor torch's nor transformers'."""
    while frame is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] in _OURS:
        frame = frame.f_back
    return frame


def _before(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType, site: str) -> Captured:
    import torch

    generators = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        generators += torch.cuda.get_rng_state_all()
    rest = {name: value for name, value in kwargs.items() if name not in (*_LISTS, "streamer")}
    held = [name for name in _UNREPEATABLE if rest.get(name) is not None]
    return Captured(
        site=site,
        file=Path(frame.f_code.co_filename),
        line=frame.f_lineno,
        model=model,
        arguments=(args, rest),
        lists={name: copied(list(kwargs.get(name) or [])) for name in _LISTS},
        names={**frame.f_globals, **frame.f_locals},
        generators=generators,
        refused=f"its {' and '.join(held)} cannot be used a second time" if held else "",
    )
