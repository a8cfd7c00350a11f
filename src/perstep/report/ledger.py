"""A ledger as a table, a bar and a CSV; used by every experiment that has one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

from perstep.measure import RESIDUAL_SAID, Ledger, Part, Sum
from perstep.report.format import bar, duration, interval, percent, plural, significant, time_unit
from perstep.report.plot import RESIDUAL_COLOUR, draw_png, is_dark, part_colour
from perstep.report.table import Table, to_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL_FROM = 0.085
"""From this share of the step on, a part has room for its name inside the bar."""
UPRIGHT_FROM = 0.014
"""From this share on, its name fits upright."""
NAMED_TOGETHER = 3
"""So many parts are named where it is not resolved which of them is the largest."""
LAST_TICK = 0.93
"""Ticks beyond this share of the axis would run into the one at its end."""
TITLE_WIDTH = 118
"""Characters in a line of a bar's title."""


@dataclass(frozen=True)
class BoundColumns:
    """What theory says of a ledger's parts, for its columns; parts without a formula are missing.

    Attributes:
        parts_ns: the least time of each part in a step; None where it is withdrawn.
        binds: what it is bound by, or why there is no bound.
        step_ns: of the whole step; None where it is withdrawn.
        notes: sentences about them.
    """

    parts_ns: Mapping[str, float | None]
    binds: Mapping[str, str]
    step_ns: float | None
    notes: Sequence[str] = ()


def ledger_table(
    ledger: Ledger,
    *,
    title: str,
    tokens_per_s: float | None = None,
    forwards_in: str = "a pass",
    bounds: BoundColumns | None = None,
) -> Table:
    """One row a part, the residual, the sum; then what qualifies the numbers.

    Args:
        ledger: what was found.
        title: what was measured, in words.
        tokens_per_s: throughput of uninstrumented steps, where it means something.
        forwards_in: what the ledger's forwards were counted in.
        bounds: columns of bounds, if there are any.
    """
    # By the largest part, not by the step: next to a prefill of a second most parts would be 0.0000245 s.
    unit, size = time_unit(part.ns for part in ledger.parts.values())
    waits = _waits(ledger)
    first = int(ledger.residual_share > RESIDUAL_SAID)  # then its first note says that much is unattributed
    notes = [] if bounds is None else list(bounds.notes)
    if bounds is not None and not any(bounds.parts_ns.values()):
        bounds = None  # all are withdrawn, and the notes say why
    rows = [
        [*_row(name, part.ns, part.share, size), interval(part.ci_low, part.ci_high, size)]
        for name, part in ledger.parts.items()
    ]
    rows.append([*_row("residual", ledger.residual_ns, ledger.residual_share, size), ""])
    rows.append([f"step ({ledger.kind}, instrumented)", significant(ledger.step_ns / size), "100.0 %", "", ""])
    if ledger.plain_step_ns is not None:
        ends = interval(ledger.plain_step_ci_low, ledger.plain_step_ci_high, size)
        rows.append([f"step ({ledger.kind}), uninstrumented", significant(ledger.plain_step_ns / size), "", "", ends])
    for counts in waits.values():
        cells = [significant(count) if count else "" for count in counts] + [""] * (len(rows) - len(counts))
        rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
    if bounds is not None:
        rows = [[*row, *cells] for row, cells in zip(rows, _bounds(ledger, bounds, size, len(rows)), strict=True)]
    header = ["part", f"{unit}/step", "share", "", f"95 % interval ({unit})", *waits]
    return Table(
        title=title,
        header=[*header, f"bound ({unit})", "measured/bound", "bound by"] if bounds else header,
        rows=rows,
        text_columns=frozenset({0, 3, len(header) + 2}),
        notes=[
            *ledger.notes[:first],
            _footer(ledger, tokens_per_s, forwards_in),
            *notes,
            *ledger.notes[first:],
            *([f"INVALID: {ledger.invalid}"] if ledger.invalid else []),
        ],
        rule_before=frozenset({len(ledger.parts), len(ledger.parts) + 1}),
    )


def _row(name: str, ns: float, share: float, size: float) -> list[str]:
    return [name, significant(ns / size), percent(share), bar(share)]


def _waits(ledger: Ledger) -> dict[str, list[float]]:
    """Columns of what the host waits for: of parts, of unattributed time, of the whole step.

    Syncs have one where they were counted, uploads where there are any.
    """
    syncs = [(part.syncs_per_step or 0.0) for part in ledger.parts.values()]
    uploads = [(part.uploads_per_step or 0.0) for part in ledger.parts.values()]
    columns = {}
    if ledger.syncs_per_step is not None:
        columns["syncs/step"] = _with_residual(syncs, ledger.syncs_per_step)
    if ledger.uploads_per_step:
        columns["uploads/step"] = _with_residual(uploads, ledger.uploads_per_step)
    return columns


def _with_residual(parts: list[float], total: float) -> list[float]:
    return [*parts, round(total - sum(parts), 9), total]


def _bounds(ledger: Ledger, bounds: BoundColumns, size: float, num_rows: int) -> list[list[str]]:
    """Bound, measured over bound, and what binds: of the parts that have one, and of the step without instruments."""
    cells = []
    for name, part in ledger.parts.items():
        cells.append([*_over(part.ns, bounds.parts_ns.get(name), size), bounds.binds.get(name, "")])
    cells += [["", "", ""]] * (num_rows - len(cells))
    if ledger.plain_step_ns is not None:
        cells[-1] = [*_over(ledger.plain_step_ns, bounds.step_ns, size), ""]
    return cells


def _over(ns: float, bound_ns: float | None, size: float) -> list[str]:
    """A bound and how far above it a time is."""
    return [significant(bound_ns / size), significant(ns / bound_ns)] if bound_ns else ["", ""]


def _footer(ledger: Ledger, tokens_per_s: float | None, forwards_in: str) -> str:
    facts = [
        overhead_words(ledger),
        f"{plural(ledger.forwards, 'forward')} {forwards_in}",
        plural(ledger.rounds, "round"),
        f"{percent(ledger.residual_ns_total / ledger.step_ns_total)} of all steps unattributed",
    ]
    if tokens_per_s is not None:
        facts.append(f"{significant(tokens_per_s)} tokens/s")
    return " · ".join(facts)


def overhead_words(ledger: Ledger) -> str:
    """The instrumentation overhead with its interval; without one no number is named."""
    if ledger.overhead is None or ledger.overhead_ci_low is None or ledger.overhead_ci_high is None:
        return "instrumentation overhead not resolved"
    ends = f"[{100 * ledger.overhead_ci_low:.1f}, {100 * ledger.overhead_ci_high:.1f}]"
    return f"instrumentation overhead {percent(ledger.overhead)} {ends}"


def headline_interval(ledger: Ledger) -> str:
    """The interval of the step without instruments, in a sentence."""
    return _ends(ledger.plain_step_ci_low, ledger.plain_step_ci_high, duration)


def share_words(part: Part | Sum, ledger: Ledger) -> str:
    """The share of a part or of a sum of parts with its interval, in a sentence."""
    return (
        f"{percent(part.share)} {_ends(part.ci_low, part.ci_high, lambda ns: percent(min(ns / ledger.step_ns, 1.0)))}"
    )


def _ends(low: float | None, high: float | None, words: Callable[[float], str]) -> str:
    return "(no interval)" if low is None or high is None else f"[{words(low)}, {words(high)}]"


def largest_words(ledger: Ledger) -> str:
    """Which part is the largest, as far as the intervals tell: `largest part mlp`."""
    names = ledger.largest
    if len(names) == 1:
        return f"largest part {names[0]}"
    if len(names) <= NAMED_TOGETHER:
        return f"largest part {' or '.join(names)} (not resolved)"
    return "largest part not resolved"


def ledger_csv(ledgers: list[Ledger], bounds: Mapping[str, BoundColumns] | None = None) -> str:
    """The numbers of the picture: kind, part, ns per step, share, interval; and bounds, by kind, if there are any."""
    rows: list[list[object]] = []
    for ledger in ledgers:
        held = (bounds or {}).get(ledger.kind)
        for name, part in ledger.parts.items():
            bound, binds = (None, None) if held is None else (held.parts_ns.get(name), held.binds.get(name))
            rows.append([ledger.kind, name, part.ns_per_step, part.share, part.ci_low, part.ci_high, bound, binds])
        rows.append([ledger.kind, "residual", ledger.residual_ns, ledger.residual_share, None, None, None, None])
    header = ["kind", "part", "ns_per_step", "share", "ci_low_ns", "ci_high_ns", "bound_ns", "bound_by"]
    return to_csv(header, rows) if bounds else to_csv(header[:-2], [row[:-2] for row in rows])


def ledger_png(ledgers: list[Ledger], *, subject: str | list[str]) -> bytes:
    """A stacked horizontal bar a ledger, largest part first, with the names in it, the smallest below it.

    The axis ends at the instrumented step, which the title begins with: of that the parts are shares.

    Args:
        ledgers: one bar each.
        subject: what was measured, of all ledgers or of each.
    """
    subjects = [subject] * len(ledgers) if isinstance(subject, str) else subject

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(len(ledgers), 1, squeeze=False)[:, 0]
        for ax, ledger, name in zip(axes, ledgers, subjects, strict=True):
            _draw(ax, ledger, name)

    return draw_png(10, 0.3 + 2.3 * len(ledgers), draw)


def _draw(ax: "Axes", ledger: Ledger, subject: str) -> None:
    unit, size = time_unit([ledger.step_ns])
    left, unnamed = 0.0, []
    for index, (name, part) in enumerate(_ranked(ledger)):
        colour, width = part_colour(index), part.ns / size
        ax.barh(0, width, left=left, color=colour, edgecolor="#222222", linewidth=0.6, height=0.8)
        ink = "white" if is_dark(colour) else "black"
        middle = left + width / 2
        if part.share >= LEVEL_FROM:
            ax.text(middle, 0, f"{name}\n{part.share:.0%}", ha="center", va="center", fontsize=8.5, color=ink)
        elif part.share >= UPRIGHT_FROM:
            label = f"{name}  {percent(part.share)}"
            ax.text(middle, 0, label, ha="center", va="center", fontsize=7.5, color=ink, rotation=90)
        else:
            unnamed.append(f"{name} {percent(part.share)}")
        left += width
    unnamed.append(f"residual {percent(ledger.residual_share)}")
    ax.barh(
        0, ledger.residual_ns / size, left=left, color=RESIDUAL_COLOUR, edgecolor="#222222", linewidth=0.6, height=0.8
    )
    unnamed = [words.replace(" %", "\N{NO-BREAK SPACE}%") for words in unnamed]
    caption = f"too small to name, from left to right: {', '.join(unnamed)} (white)"
    ax.set_title(fill(_finding(ledger, subject), TITLE_WIDTH), loc="left", fontsize=10.5)
    end = ledger.step_ns / size
    ax.set_xlim(0, end)
    inside = [tick for tick in ax.get_xticks() if 0 <= tick < LAST_TICK * end]
    ax.set_xticks([*inside, end], [*(f"{tick:g}" for tick in inside), significant(end)])
    ax.set_ylim(-0.42, 0.42)
    ax.set_yticks([])
    ax.spines[["left", "right", "top"]].set_visible(False)
    ax.set_xlabel(f"{unit} per instrumented {ledger.kind} step\n" + fill(caption, 140), fontsize=8)


def _ranked(ledger: Ledger) -> list[tuple[str, Part]]:
    return sorted(ledger.parts.items(), key=lambda item: -item[1].share)


def _finding(ledger: Ledger, subject: str) -> str:
    plain = "" if ledger.plain_step_ns is None else f", {duration(ledger.plain_step_ns)} without instruments"
    step = f"an instrumented {ledger.kind} step takes {duration(ledger.step_ns)}{plain}"
    return f"{subject}: {step}; {largest_words(ledger)}"
