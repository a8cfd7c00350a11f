"""What `torch.compile` compiled while a call ran, and why again: dynamo's own records, read when the call is over.

Nothing is switched on. Dynamo keeps a record of each compilation, with its reason, whoever looks; where it has not been
imported there is nothing to read. While a call runs a callback notes in which step a compilation began.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

_LIMIT = re.compile(r"recompile.limit|cache_size_limit", re.IGNORECASE)

Record = Any
"""A record of dynamo's: its fields differ between versions of torch, and are read by name with a default."""


class Compilation(msgspec.Struct, frozen=True, kw_only=True):
    """One compilation of one function.

    Attributes:
        step: in which it began: 0 is the prefill. Where it gave up, that of the last one that began.
        ns: what it took, by dynamo's own account.
        function: what was compiled, with the line where it begins.
        reason: why what was compiled before did not fit, in dynamo's words; empty for the first time.
        gave_up: the limit of recompilations was reached: the function is compiled no more.
    """

    step: int
    ns: int
    function: str
    reason: str
    gave_up: bool = False


class GraphBreak(msgspec.Struct, frozen=True, kw_only=True):
    """A place where a compiled function falls back to Python.

    Attributes:
        place: the line, as `folder/file.py:12`.
        reason: dynamo's first sentence about it.
    """

    place: str
    reason: str


class Compilations:
    """Collects what is compiled between `begin` and `end`."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._step: Callable[[], int] = int
        self._callbacks: Record = None
        self._last: Record = None
        self._breaks = 0

    def begin(self, step: Callable[[], int]) -> None:
        """Begin, where dynamo has been imported.

        Args:
            step: gives the number of the present step.
        """
        self.end()
        utils, callbacks = _dynamo("utils"), _dynamo("callback")
        if utils is None or callbacks is None:
            return
        self._step, self._steps = step, {}
        records = list(utils.get_compilation_metrics())
        self._last = records[-1] if records else None
        self._breaks = len(utils.graph_break_reasons)
        self._callbacks = callbacks.callback_handler
        self._callbacks.register_start_callback(self._begun)

    def _begun(self, args: Record) -> None:
        self._steps[str(getattr(args, "compile_id", ""))] = self._step()

    def end(self) -> tuple[list[Compilation], list[GraphBreak]]:
        """End, and give what was compiled and where it broke; nothing when called again."""
        utils = _dynamo("utils")
        if self._callbacks is None or utils is None:
            return [], []
        if self._begun in self._callbacks.start_callbacks:  # `torch._dynamo.reset` forgets all
            self._callbacks.remove_start_callback(self._begun)
        self._callbacks = None
        records = list(utils.get_compilation_metrics())
        last = next((i for i, record in enumerate(records) if record is self._last), -1)
        breaks = [_break(record) for record in utils.graph_break_reasons[self._breaks :] if record.graph_break]
        return self._compiled(records[last + 1 :]), breaks

    def _compiled(self, records: list[Record]) -> list[Compilation]:
        compilations: list[Compilation] = []
        names: dict[str, str] = {}
        step = 0
        for record in records:
            number = str(getattr(record, "compile_id", ""))
            function = number.partition("/")[0]
            name = getattr(record, "co_name", None)
            if name:
                line = f"{_short(getattr(record, 'co_filename', '') or '')}:{getattr(record, 'co_firstlineno', 0)}"
                names[function] = f"{name} ({line})"
            step = self._steps.get(number, step)
            reason = re.sub(r"^\d+/\d+: ", "", getattr(record, "recompile_reason", None) or "")
            gave_up = bool(_LIMIT.search(getattr(record, "fail_reason", None) or ""))
            seconds = getattr(record, "entire_frame_compile_time_s", None) or 0.0
            shown = names.get(function, "a function")
            compilations.append(
                Compilation(step=step, ns=round(seconds * 1e9), function=shown, reason=reason, gave_up=gave_up)
            )
        return compilations


def _break(record: Record) -> GraphBreak:
    frame = record.user_stack[-1] if record.user_stack else None
    place = "unknown" if frame is None else f"{_short(frame.filename)}:{frame.lineno}"
    return GraphBreak(place=place, reason=str(record.reason).strip().splitlines()[0] if record.reason else "")


def _short(file: str) -> str:
    return "/".join(Path(file).parts[-2:])


def _dynamo(name: str) -> ModuleType | None:
    return sys.modules.get(f"torch._dynamo.{name}")
