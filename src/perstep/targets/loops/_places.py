"""The calling frames of a model, and the names of their lines as parts."""

import sysconfig
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

from perstep.targets.loops.source import source_line
from perstep.targets.transformers.words import LOOP

_LIBRARIES: Final = ("torch", "transformers", "perstep", "accelerate", "peft")
"""Packages that pass a call on: their frames are no part of a loop."""
_MOST_FRAMES: Final = 8
_WIDTH: Final = 40
"""Characters of a line of source in the name of a part."""


class Places:
    """What is known of the codes that were seen, by their ids: a code's own hash is of all that it holds."""

    def __init__(self) -> None:
        self._own: dict[int, tuple[CodeType, bool]] = {}
        self._parts: dict[int, dict[int, str]] = {}

    def caller(self, frame: FrameType) -> FrameType:
        """The innermost frame of somebody's own code from this one outwards; this one where there is none."""
        own, outer = self._own, frame
        while True:
            entry = own.get(id(outer.f_code))
            if entry is None:
                entry = own[id(outer.f_code)] = outer.f_code, _is_own(outer)
            if entry[1]:
                return outer
            if outer.f_back is None:
                return frame
            outer = outer.f_back

    def calling(self, frame: FrameType | None) -> list[FrameType]:
        """The frames of somebody's own code, from a frame outwards, the innermost first."""
        frames: list[FrameType] = []
        while frame is not None and len(frames) < _MOST_FRAMES:
            entry = self._own.get(id(frame.f_code))
            if entry is None:
                entry = self._own[id(frame.f_code)] = frame.f_code, _is_own(frame)
            if entry[1]:
                frames.append(frame)
            frame = frame.f_back
        return frames

    def part(self, code: CodeType | None, line: int) -> str:
        """The part of a line: `loop/run.py:34 sample(logits)`; of none, `loop`."""
        if code is None:
            return LOOP
        parts = self._parts.setdefault(id(code), {})
        if line not in parts:
            self._own.setdefault(id(code), (code, True))  # keeps it, so that its id stays its own
            parts[line] = _part(code.co_filename, line)
        return parts[line]


def _is_own(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if str(frame.f_globals.get("__name__", "")).split(".")[0] in _LIBRARIES or file.startswith("<frozen"):
        return False
    installed, standard = _folders()
    return Path(file).is_relative_to(installed) or not Path(file).is_relative_to(standard)


@cache
def _folders() -> tuple[str, str]:
    """Where packages are installed, and Python's own library, which may lie around it."""
    paths = sysconfig.get_paths()
    return paths["purelib"], paths["stdlib"]


def _part(file: str, line: int) -> str:
    text = source_line(file, line)
    cut = text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
    return f"{LOOP}/{Path(file).name}:{line} {cut}".rstrip()
