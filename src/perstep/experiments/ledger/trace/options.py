"""The options of `ledger --trace`, and which others go with it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from perstep.errors import InputError
from perstep.experiments.ledger.trace.findings import Parts

WITH_A_TRACE = {"device_detail", "output", "out", "quiet"}
"""Options of `ledger` that mean the same where nothing is measured."""


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """The options of `perstep ledger` about a stored trace."""

    trace: Path | None = None
    """Measure nothing: read a torch Chrome trace (.json, .json.gz), such as the profilers of vLLM and SGLang write."""

    step: str | None = None
    """With --trace: name of the range that begins a step; * matches anything. [default: by name or repetition]"""

    parts: Parts | None = None
    """With --trace: what becomes a part. [default: ranges, or modules if the steps contain no range]"""

    html: Path | None = None
    """With --trace: write a page into this file. --out has one too."""

    @property
    def command(self) -> str:
        """What reads the same trace again, without its folder."""
        named = {"--trace": self.trace and self.trace.name, "--step": self.step, "--parts": self.parts}
        given = [word for name, value in named.items() if value for word in (name, value)]
        return shlex.join(["perstep", "ledger", *given])


Options = Any
"""A dataclass of options."""


def check(options: TraceOptions, others: Sequence[tuple[Options, Options]]) -> None:
    """Check that these options go together.

    Args:
        options: about a trace.
        others: dataclasses of the other options, each with that of the defaults.

    Raises:
        InputError: they do not.
    """
    if options.trace is None:
        for name in ("step", "parts", "html"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name} goes with --trace FILE")
        return
    for given, default in others:
        for field in fields(given):
            value = getattr(given, field.name)
            if field.name not in WITH_A_TRACE and value != getattr(default, field.name):
                raise InputError(
                    f"--{field.name.replace('_', '-')} does not go with --trace: nothing is measured; leave it out"
                )
