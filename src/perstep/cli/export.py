"""`perstep export`: a run in the format of another tool."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep._words import plural
from perstep.cli.streams import remark, write
from perstep.report.export import EXPORTERS, Format
from perstep.report.export.chrome_trace import DEFAULT_ROUNDS
from perstep.runs import write_to
from perstep.stored.export import source_of


def export(
    run: str,
    /,
    *,
    format: Annotated[Format, Parameter(name=["-f", "--format"])],  # noqa: A002 - the option's name
    to: Path | None = None,
    rounds: int | None = None,
) -> int:
    """Export a run in the format of another tool.

    pyperf: a suite for `pyperf show`, `stats`, `hist`, `compare_to`. chrome-trace: a timeline for ui.perfetto.dev.
    speedscope: one for speedscope.app. github-action: for github-action-benchmark (customSmallerIsBetter). csv: every
    measured number as a row.

    Args:
        run: A run's folder, its name or number, or a baseline.
        format: Format to write.
        to: File to write. [default: stdout]
        rounds: Number of first rounds to take, of watched runs calls. [default: all; chrome-trace and speedscope 5]
    """
    if rounds is None and format in ("chrome-trace", "speedscope"):
        rounds = DEFAULT_ROUNDS
    source, notes = source_of(run, rounds=rounds)
    pieces = EXPORTERS[format](source)
    if to is not None:
        write_to(to, b"".join(pieces))
    else:
        for piece in pieces:
            write(piece.decode())
    for note in notes:
        remark(f"note: {note}")
    if len(source.rounds) < source.rounds_measured:
        what = plural(source.rounds_measured, "call" if source.manifest.experiment == "watch" else "round")
        remark(f"note: the first {len(source.rounds)} of {what}; give --rounds for more")
    return 0
