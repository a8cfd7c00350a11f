"""Where facts about a machine come from, and how one that cannot be read is written.

Everything is read below one filesystem root, from one environment, one table
of imported modules and one way to run a command, so that a test can hand in a
machine it made up. A fact that cannot be read is `unknown`; nothing is guessed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

UNKNOWN: Final = "unknown"
NONE: Final = "none"

Unknown = Literal["unknown"]
MaybeInt = int | Unknown
MaybeFloat = float | Unknown
IntOrNone = int | Literal["unknown", "none"]
FloatOrNone = float | Literal["unknown", "none"]

COMMAND_TIMEOUT_S = 5.0


def run_command(argv: Sequence[str]) -> str | None:
    """The standard output of a command, or None if it is missing, fails or takes over 5 s."""
    try:
        done = subprocess.run(
            list(argv),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@dataclass(frozen=True)
class Source:
    """What `describe` asks: the machine it runs on, or one made up by a test.

    Attributes:
        root: the folder that holds `proc` and `sys`.
        environ: environment variables.
        modules: the modules already imported, by name; none is ever imported to look at it.
        run: runs a command and gives its standard output, None if that failed.
        uname: system name, kernel release and architecture.
        cwd: the folder whose git repository is described.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    modules: Mapping[str, object] = field(default_factory=lambda: sys.modules)
    run: Callable[[Sequence[str]], str | None] = run_command
    uname: platform.uname_result = field(default_factory=platform.uname)
    cwd: Path = field(default_factory=Path.cwd)

    def text(self, path: str) -> str | None:
        """The stripped text of a file below the root; None if it is unreadable or empty."""
        try:
            text = (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except (OSError, ValueError):
            return None
        return text or None

    def word(self, path: str) -> str:
        """The text of a one-line file, or `unknown`."""
        return self.text(path) or UNKNOWN

    def integer(self, path: str, scale: int = 1) -> MaybeInt:
        """The integer in a file times `scale`, or `unknown`."""
        text = self.text(path)
        if text is None:
            return UNKNOWN
        try:
            return int(text) * scale
        except ValueError:
            return UNKNOWN

    def entries(self, path: str) -> list[Path] | None:
        """What a folder below the root holds, sorted by name; None if it cannot be listed."""
        try:
            return sorted((self.root / path).iterdir())
        except OSError:
            return None


def parse_cpu_list(text: str | None) -> tuple[int, ...] | None:
    """The CPU numbers of a kernel list such as `0-3,8`; None if it is not one."""
    cpus: list[int] = []
    try:
        for part in (text or "").split(","):
            first, _, last = part.strip().partition("-")
            cpus.extend(range(int(first), int(last or first) + 1))
    except ValueError:
        return None
    return tuple(cpus) or None


def parse_size(text: str | None) -> int | None:
    """The bytes of a size such as `48K`, `2M` or `491520K`; None if it is not one."""
    units = {"K": 1024, "M": 1024**2, "G": 1024**3}
    if not text:
        return None
    digits, unit = (text[:-1], units.get(text[-1].upper())) if not text[-1].isdigit() else (text, 1)
    if unit is None or not digits.isdigit():
        return None
    return int(digits) * unit


def parse_table(text: str | None) -> dict[str, str]:
    """The `key: value` lines of a text such as `/proc/meminfo`; of a repeated key, the first."""
    table: dict[str, str] = {}
    for line in (text or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            table.setdefault(key.strip(), value.strip())
    return table
