"""What every command says: results on stdout, progress and remarks on stderr."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, TextIO, cast

from perstep.cli.streams import STDERR, remark, write
from perstep.measure import Progress
from perstep.report import Output, Table, to_csv, to_markdown, to_text
from perstep.report.format import printable
from perstep.runs import encode_json

if TYPE_CHECKING:
    from perstep.experiments.pipeline import Report

_QUIET_S = 2.0
_PLAIN_EVERY_S = 10.0


def print_report(report: "Report", output: Output) -> None:
    """A run's findings on stdout in the form that was asked for."""
    if output == "json":
        write(encode_json(report.findings).decode())
    elif output == "csv":
        write(report.csv)
    else:
        print_tables(report.tables, output)


def print_tables(tables: list[Table], output: Output) -> None:
    """Tables on stdout, as text, Markdown or CSV, a blank line between them."""
    write(render_tables(tables, output))


def render_tables(tables: list[Table], output: Output, stream: TextIO | None = None) -> str:
    """Tables as text, Markdown or CSV, a blank line between them.

    Args:
        tables: in their order.
        output: the form.
        stream: where they will be shown, stdout if None: as text they fit its terminal, if it is one.
    """

    def csv(table: Table) -> str:
        return to_csv(table.columns, table.records)

    def text(table: Table) -> str:
        return to_text(table, terminal_width(stream or sys.stdout))

    render = {"md": to_markdown, "csv": csv}.get(output, text)
    return "\n".join(render(table) for table in tables)


def terminal_width(stream: TextIO) -> int | None:
    """Characters of a line: COLUMNS, else those of the terminal behind the stream; None if it is none."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


@contextmanager
def progress_shown(*, quiet: bool) -> Iterator[Progress]:
    """Progress with time left on stderr: a bar on a terminal, a line now and then in a log.

    Nothing appears in the first two seconds, and nothing at all with `quiet`.
    """
    if quiet:
        yield lambda _share, _what: None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _Lines()


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    began, pace = time.monotonic(), _Pace()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    # auto_refresh would draw from a thread of its own, in the middle of a measured step.
    with RichProgress(
        *columns, console=Console(file=cast("IO[str]", STDERR)), transient=True, auto_refresh=False
    ) as bar:
        task = bar.add_task("", total=1.0, left="", visible=False)
        last = 0.0

        def show(share: float, what: str) -> None:
            nonlocal last
            now, left = time.monotonic(), pace.left(share)
            if now - began < _QUIET_S or now - last < 0.2:
                return
            last = now
            bar.update(task, completed=share, description=printable(what), left=left, visible=True)
            bar.refresh()

        yield show


class _Lines:
    """Progress for a log: one line every ten seconds, and what loading or another preparation took."""

    def __init__(self) -> None:
        self._what_began = time.monotonic()
        self._last = self._what_began + _QUIET_S - _PLAIN_EVERY_S
        self._what, self._preparing, self._pace = "", True, _Pace()

    def __call__(self, share: float, what: str) -> None:
        now = time.monotonic()
        if self._preparing and what != self._what:
            if self._what and now - self._what_began >= _QUIET_S:
                remark(f"perstep: {self._what} took {now - self._what_began:.0f} s")
                self._pace = _Pace()  # what is left is of the budget, in which loading does not count
            self._what, self._what_began, self._preparing = what, now, share == 0
        left = self._pace.left(share)
        if now - self._last >= _PLAIN_EVERY_S:
            self._last = now
            remark(f"perstep: {what}, {share:.0%} done, {left}")


class _Pace:
    """How fast the share grows from its first value: what an earlier process did took none of this time."""

    def __init__(self) -> None:
        self._since_s = 0.0
        self._from: float | None = None

    def left(self, share: float) -> str:
        """The time left in words, at a share that is reached now."""
        now = time.monotonic()
        if self._from is None:
            self._since_s, self._from = now, share
        grown = share - self._from
        if grown <= 0.01:
            return "time left unknown"
        left_s = (now - self._since_s) * (1 - share) / grown
        return f"about {left_s:.0f} s left" if left_s < 120 else f"about {left_s / 60:.0f} min left"
