"""Ledgers and tables in a notebook, from the drawings of the page: a piece of HTML with its own style, and no script.

Colours follow the notebook: text and lines have the colour of its text, and nothing has a background but bars.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perstep.measure import Ledger, Progress
from perstep.report.format import duration, plural
from perstep.report.ledger import ledger_table
from perstep.report.page import LedgerView, table_html
from perstep.report.page.drawing import figure
from perstep.report.page.markup import Markup, element, sentences
from perstep.report.plot import ink_on, shade_colour
from perstep.report.table import Table
from perstep.runs import write_to

_STYLE = """
.perstep table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:0}
.perstep th,.perstep td{text-align:left!important;padding:2px 9px;background:none!important;border:0}
.perstep .number{text-align:right!important;white-space:nowrap}.perstep thead th{font-weight:500;opacity:.75}
.perstep .plot{min-width:280px}.perstep svg.bar{display:block;width:100%;height:20px;overflow:visible}
.perstep .share svg.bar{width:80px;height:11px}.perstep svg.bar path{vector-effect:non-scaling-stroke}
.perstep .ends{stroke:currentColor;stroke-width:1.3;fill:none}.perstep .rim{display:none}
.perstep .bound,.perstep .sync{stroke:#c23b31;stroke-width:2.4;fill:none}.perstep .axis{stroke:currentColor}
.perstep .amount{fill:#5b92c4}.perstep .device,.perstep .idle{fill:#c27a1a}.perstep .idle{fill-opacity:.25}
.perstep .residual{fill:none;stroke:currentColor;stroke-width:.8}.perstep .drawing{width:100%;max-width:900px}
.perstep .drawing text{fill:currentColor;font-size:12px}.perstep .lanes .name{text-anchor:middle;font-size:11px}
.perstep .note,.perstep .words,.perstep .notes{opacity:.8;font-size:.93em;margin:3px 0}
.perstep .legend{margin-right:12px}.perstep .swatch{margin-right:7px}
.perstep .key,.perstep .swatch{display:inline-block;width:10px;height:10px}
.perstep .key.host{background:#5b92c4}.perstep .key.bound{width:3px;background:#c23b31}
.perstep .key.ends{border:solid currentColor;border-width:0 1px}
.perstep .inner{padding-left:24px!important}.perstep .rule td,.perstep .rule th{border-top:1px solid!important}
.perstep .key.device{background:#c27a1a;height:5px}
.perstep figure,.perstep figcaption{margin:4px 0}
"""
_SHADE = re.compile(r"\bs(\d+)\b")


def html(value: object) -> str | None:
    """A ledger, a table, a list of tables, or what has `tables()`, as HTML; None for anything else."""
    if isinstance(value, Ledger):
        view = LedgerView(f"a {value.kind} step", value)
        notes = ledger_table(value, title="").notes
        return _piece(figure(0, view), sentences(notes, "notes"))
    if isinstance(value, Table):
        return _piece(table_html(value))
    if isinstance(value, list) and all(isinstance(one, Table) for one in value):
        return _piece(*map(table_html, value))
    tables = getattr(value, "tables", None)
    return html(tables()) if callable(tables) else None


def short(ledger: Ledger) -> str:
    """A ledger in a line: `<Ledger of decode: 123 µs a step, 13 parts, 24 rounds, largest part mlp>`."""
    step_ns = ledger.step_ns if ledger.plain_step_ns is None else ledger.plain_step_ns
    facts = [f"{duration(step_ns)} a step", plural(len(ledger.parts), "part"), plural(ledger.rounds, "round")]
    facts += [f"largest part {ledger.largest[0]}"] if len(ledger.largest) == 1 else []
    return f"<Ledger of {ledger.kind}: {', '.join([*facts, *(['INVALID'] if ledger.invalid else [])])}>"


def _piece(*content: Markup) -> str:
    body = element("div", *content, class_="perstep")
    used = {int(number) for number in _SHADE.findall(" ".join(re.findall(r'class="([^"]*)"', body)))}
    colours = "".join(
        f".perstep .s{place}{{fill:{shade_colour(place)};background:{shade_colour(place)}}}"
        f".perstep .drawing .on.s{place}{{fill:{ink_on(shade_colour(place))};background:none}}"
        for place in sorted(used)
    )
    return f"<style>{_STYLE.strip()}{colours}</style>{body}"


@dataclass(frozen=True)
class Picture:
    """A picture as PNG: a notebook shows it, `save` writes it."""

    png: bytes

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return f"<Picture: {plural(len(self.png), 'byte')} of PNG; .save(path) writes it>"

    def save(self, path: str | Path) -> None:
        """Write the picture into a file.

        Raises:
            InputError: the file cannot be written.
        """
        write_to(Path(path), self.png)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows what is written to stderr as it comes."""
    return "ipykernel" in sys.modules


def meter(progress: Progress | None) -> Progress:
    """What is called after each round: what was given, else in a notebook a line on stderr, else nothing."""
    if progress is not None:
        return progress
    return _Meter() if in_notebook() else lambda _share, _what: None


class _Meter:
    """A bar of 20 places on one line, which is written anew when it changes and ended when all is done."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write, self._shown = write or sys.stderr.write, ""

    def __call__(self, share: float, what: str) -> None:
        full = round(20 * min(max(share, 0.0), 1.0))
        line = f"\r{100 * share:3.0f} % |{'█' * full}{' ' * (20 - full)}| {what}"
        if line != self._shown:
            self._write(line + " " * max(len(self._shown) - len(line), 0))
            self._shown = line
        if share >= 1:
            self._write("\n")
