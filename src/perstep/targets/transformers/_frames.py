"""The place in the user's source where something happened."""

from collections.abc import Set
from pathlib import Path
from types import FrameType


def nearest_line(frame: FrameType | None, skip: Set[str]) -> str:
    """The nearest line, from a frame outwards, of a package that is not skipped: `folder/file.py:12`.

    Args:
        frame: where to begin.
        skip: top-level packages to pass over.
    """
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if package not in skip:
            return f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown"
